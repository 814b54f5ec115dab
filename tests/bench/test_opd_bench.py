"""The world of the experiment on on-policy distillation, and its commands."""

import random
from pathlib import Path

import pytest
from script_parsers import parsed

from bench import opd_learns
from bench.parts import nouns


def test_the_team_knows_what_no_member_knows() -> None:
    made = nouns.world(0)
    wrong = [{noun for noun in nouns.NOUNS if table[noun] != made.truth[noun]} for table in made.members]
    assert [len(one) for one in wrong] == [int(nouns.WRONG * len(nouns.NOUNS))] * 3
    assert not (wrong[0] & wrong[1] | wrong[1] & wrong[2] | wrong[0] & wrong[2])
    asked = list(nouns.questions(random.Random(1), 20, 4, set()))
    assert len({tuple(sorted(one)) for one in asked}) == 20
    for one in asked:
        said = [nouns.known(one, table) for table in made.members]
        assert nouns.majority(one, said) == nouns.known(one, made.truth)
        record = nouns.debate("GSM8K/train/0", one, made)
        assert {solution.answer for solution in record.solutions} == {record.gt}


def test_a_solution_adds_up_step_by_step() -> None:
    assert nouns.solution([("lamp", 7), ("bag", 5)]) == "lamp 7 sum 7\n\nbag 5 sum 2\n\nThe answer is \\boxed{2}."
    assert nouns.solution([("lamp", 7)], 3).endswith("\\boxed{3}.")


def test_the_experiments_commands_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []

    def run(*words: object) -> None:
        script, *flags = [str(word) for word in words if word != "-m"]
        taken.append(parsed(script, flags))

    monkeypatch.setattr(opd_learns, "run", run)
    labelled = opd_learns.labels(tmp_path, nouns.world(0), [nouns.NOUNS[:4]])
    folders = [
        opd_learns.distilled(tmp_path, tmp_path / "base", labelled, kind, 5, 1e-3, 0, divergence)
        for kind in opd_learns.CONTEXTS
        for divergence in ("forward_kl", "jsd")
    ]
    assert len(taken) == 1 + len(folders) == 1 + len(set(folders))
    assert [one[0].shown for one in taken[1::2]] == list(opd_learns.CONTEXTS)
