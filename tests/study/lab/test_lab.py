"""python -m study.lab: a base and ranked members as plain model folders; what is there stays."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from agentark.config import ROOT
from agentark.hub import pretrained
from agentark.types import UserError
from methods.llm_debate import prompts
from study.lab.__main__ import main
from study.lab.school import lessons_of_base, lessons_of_member
from study.lab.worlds import members
from study.plan import Plan
from study.recipe import load

CONTROLS = {
    "clones": {"--team", "--model_temperature"},
    "unrelated": {"--method_config"},
    "independent": {"--team", "--model_temperature", "--method_config"},
}
"""Control -> the flags of the debate that it changes."""


def test_base_and_members(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, base = tmp_path / "models", tmp_path / "base"
    flags = ["--world", "compose", "--output", str(out), "--base_steps", "2", "--member_steps", "1"]
    made = subprocess.run(
        [sys.executable, "-m", "study.lab", *flags], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not made.stderr
    assert base.is_dir(), "beside the members unless told otherwise"
    told = json.loads((out / "lab.json").read_bytes())
    shares = [told["members"][f"member_{number}"]["right_alone"] for number in (1, 2, 3)]
    assert shares == sorted(shares, reverse=True)
    weights = {(out / f"member_{number}" / "model.safetensors").read_bytes() for number in (1, 2, 3)}
    assert len(weights) == 3
    tokenizer = pretrained("AutoTokenizer", str(out / "member_1"))
    assert tokenizer.decode(tokenizer.encode("c) lamp ? sum ?")) == "c) lamp ? sum ?"
    assert not list(tmp_path.glob(".*partial")), "nothing half made is left"
    before = base.stat().st_mtime_ns
    assert main(flags) == 0
    assert "is there already" in capsys.readouterr().out
    for other in (["--world", "denoise"], ["--seed", "1"], ["--members", "4"]):
        with pytest.raises(UserError, match=r"was made with .'world': 'compose', 'seed': 0, 'members': 3., not"):
            main([*flags, *other])
    second = ["--world", "denoise", "--base", str(base), "--output", str(tmp_path / "two")]
    assert main([*second, *flags[-4:]]) == 0
    assert base.stat().st_mtime_ns == before, "worlds share a base"


def test_what_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(UserError, match="mine: is there, and no models of the laboratory"):
        main(["--world", "denoise", "--output", str(tmp_path / "mine")])
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "lab.json").write_text('{"seed": 0, "steps": 800, "members": 3}')
    for flags in (["--seed", "1"], ["--base_steps", "9"], ["--members", "5"]):
        with pytest.raises(UserError, match=r"base: was made with \{'seed': 0, .*\}, not with \{'seed': "):
            main(["--world", "denoise", "--output", str(tmp_path / "x"), *flags])
    (tmp_path / "base" / "lab.json").unlink()
    (tmp_path / "loop").mkdir()
    (tmp_path / "loop" / "base").symlink_to(tmp_path / "loop" / "base")
    with pytest.raises(UserError, match="is a link to what does not exist"):
        main(["--world", "denoise", "--output", str(tmp_path / "loop" / "x")])
    with pytest.raises(UserError, match="base: is there, and no base of the laboratory"):
        main(["--world", "denoise", "--output", str(tmp_path / "x")])


def test_lessons_are_the_same_for_the_same_seed() -> None:
    table = members("compose", 0)[0]
    for source in (lessons_of_base, lessons_of_member):
        first, second = (list(source(random.Random(5), table, 12, 2)) for _ in range(2))
        assert first == second
        assert {len(lesson.messages) for lessons in first for lesson in lessons} == {1, 3}


def test_a_base_debates_with_the_peers_of_its_team() -> None:
    table = members("denoise", 0, 5)[0]
    [debated] = lessons_of_member(random.Random(0), table, 1, 4)
    for lesson in debated:
        asked = lesson.messages[-1]["content"]
        assert [prompts.PEER.format(number=number) in asked for number in (1, 4, 5)] == [True, True, False]


def test_the_controls_use_the_models_of_denoise_and_change_only_their_team() -> None:
    plans = {name: Plan(load(ROOT / "configs" / "studies" / f"lab_{name}.yaml")) for name in ("denoise", *CONTROLS)}
    steps = {name: {step.name: step for step in plan.steps} for name, plan in plans.items()}
    assert {tuple(of["model"].outputs) for of in steps.values()} == {("outputs/lab/denoise/models",)}
    debate = steps["denoise"]["inference debate"].flags
    assert all("models/member" in who for who in debate["--team"])
    for name in CONTROLS:
        control = steps[name]["inference debate"].flags
        changed = {flag for flag in debate.keys() | control.keys() if debate.get(flag) != control.get(flag)}
        assert changed == {"--output_path"} | CONTROLS[name]
        for strategy in ("sft R-SFT", "opd OPD"):
            flags = steps["denoise"][strategy].flags, steps[name][strategy].flags
            assert {key for key in flags[0] if flags[0][key] != flags[1].get(key)} <= {
                *("--train_data_path", "--output_dir", "--contamination")
            }
