"""Recorded teams in the stages that follow: their rows are read as those of any method."""

import asyncio
import json
from pathlib import Path

import pytest
from fakes import ScriptedEngine
from gateway_cases import SAMPLES, Served, gateway

import label
from agentark import rows as reader
from distill.grpo.questions import questions
from distill.select.__main__ import main as select
from eval.math_eval import main as math_eval
from eval.report.__main__ import main as report


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Debates of three agents and two rounds."""

    async def debate(served: Served, id: str) -> None:
        agents = [f"agent_{number}" for number in (1, 2, 3)]
        first = await asyncio.gather(*(served.said(id, f"Solve {id}.", Agent=agent) for agent in agents))
        others = " | ".join(first)
        second = [
            await served.said(id, f"Solve {id}.", own, others, Agent=agent)
            for agent, own in zip(agents, first, strict=True)
        ]
        await served.post(f"/agentark/samples/{id}/outcome", {"answer": second[-1]})

    async def run(folder: Path) -> None:
        async with gateway(folder, ScriptedEngine()) as served:
            await asyncio.gather(*(debate(served, sample.id) for sample in SAMPLES[:4]))  # gold 0 to 3, as replies are

    folder = tmp_path / "results" / "GSM8K" / "model"
    folder.mkdir(parents=True)
    asyncio.run(run(folder))
    return folder / "team_infer.jsonl"


def test_every_stage_reads_the_rows(results: Path, tmp_path: Path) -> None:
    labels, chosen = tmp_path / "labels.jsonl", tmp_path / "rsft.jsonl"
    flags = ["--input", str(results), "--dataset_name", "GSM8K", "--rules_only", "--rounds", "all", "--workers", "1"]
    assert label.main([*flags, "--output", str(labels)]) == 0
    rows = [json.loads(line) for line in labels.read_text().splitlines()]
    assert [len(row["solutions"]) for row in rows] == [4] * 4
    assert all(len(rounds) == 2 for row in rows for rounds in row["round_labels"].values())
    assert all(sorted(row["round_labels"]) == ["agent_1", "agent_2", "agent_3"] for row in rows)
    given = ["--input", str(labels), "--trajectories", str(results), "--output", str(chosen)]
    assert select(["--strategy", "da", "--min_correct", "1", *given]) == 0
    targets = [json.loads(line) for line in chosen.read_text().splitlines()]
    assert {target["method"] for target in targets} == {"gateway"}
    assert "corrective" in {target["path"] for target in targets}
    (first, *_) = of_prm = list(reader.questions(labels, "--train_data_path"))
    assert len(of_prm) == 4
    assert [one.aggregate for one in first.candidates] == [False, False, False, True]
    assert len(questions([str(results)], None, None, "--prompt_data")) == 4
    assert math_eval(["--input_file", str(results), "--dataset_name", "GSM8K"]) == 0
    assert report(["--results", str(tmp_path / "results"), "--output", str(tmp_path / "report")]) == 0
