"""SVAMP: one file of all problems is divided into two parts that share no problem, and hardly a story."""

from pathlib import Path

import msgspec
import pytest

from agentark.config import build
from agentark.contamination import EvaluationQuestions
from agentark.tasks import get_task
from agentark.tasks.svamp import SVAMPOptions
from agentark.types import Sample, UserError

TASK = get_task("SVAMP")


def load(data_dir: Path, part: str) -> tuple[Sample, ...]:
    options = build(SVAMPOptions, {"part": part}, "task_config")
    return TASK.load(data_dir=data_dir, options=options).samples


def test_the_parts_of_the_real_file(data_dir: Path) -> None:
    train, test = load(data_dir, "train"), load(data_dir, "test")
    assert (len(train), len(test)) == (451, 549)
    assert sorted([*train, *test], key=lambda sample: sample.id) == sorted(
        load(data_dir, "all"), key=lambda sample: sample.id
    )
    assert not {sample.query for sample in train} & {sample.query for sample in test}


def test_variations_of_a_story_stay_together(data_dir: Path, tmp_path: Path) -> None:
    """A random half would share 13 words in a row with the other in 36% of its problems."""
    file = tmp_path / "held_out.jsonl"
    file.write_bytes(b"\n".join(msgspec.json.encode({"question": one.query}) for one in load(data_dir, "test")))
    held_out = EvaluationQuestions([file], 13)
    hits = [held_out.hit(sample.id, sample.query) for sample in load(data_dir, "train")]
    assert 0 < sum(hit is not None for hit in hits) < 10


def test_another_part_is_refused(data_dir: Path) -> None:
    with pytest.raises(UserError, match="part = 'dev'"):
        load(data_dir, "dev")


def test_runs_from_before_there_were_parts_go_on() -> None:
    assert SVAMPOptions().model_dump() == {}
    assert SVAMPOptions(part="test").model_dump() == {"part": "test"}
