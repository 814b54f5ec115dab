"""Alarms and stops."""

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from agentark.health import Figures
from distill.grpo.config import ALARMS, STOPS, Bounds
from distill.grpo.health import Watch, crossed
from distill.grpo.plot import grpo_curves

WELL: Figures = {"kl": 0.01, "total_reward": 0.5, "steps": 4.0, "length": 100.0, "truncated": 0.1}


def test_all_well() -> None:
    assert crossed(WELL, [WELL] * 10, Bounds(**ALARMS)) == []
    assert crossed(WELL, [], Bounds(**ALARMS)) == []


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"kl": 0.3}, "KL 0.300 per token is above 0.2"),
        ({"total_reward": 0.9}, "reward 0.900 jumped from 0.500"),
        ({"steps": 1.0}, "1.00 steps per response is below 1.1"),
        ({"length": 40.0}, "mean length 40.0 is below 50% of the first rollout's 100.0"),
        ({"truncated": 0.6}, "60% of the responses are truncated, more than 50%"),
    ],
)
def test_each_bound(changes: dict[str, float], line: str) -> None:
    (told,) = crossed(WELL | changes, [WELL] * 5, Bounds(**ALARMS))
    assert told.startswith(line)
    assert crossed(WELL | changes, [WELL] * 5, Bounds()) == []


def test_one_step_from_the_start_is_no_collapse() -> None:
    short = WELL | {"steps": 1.0}
    assert crossed(short, [short] * 3, Bounds(mean_steps=1.1)) == []


def test_a_jump_needs_a_past() -> None:
    assert crossed(WELL | {"total_reward": 9.0}, [WELL] * 3, Bounds(reward_jump=6.0)) == []


def test_a_watch_remembers() -> None:
    watch = Watch(Bounds(**ALARMS), Bounds(**STOPS))
    assert watch.add(WELL) == ([], [])
    short = WELL | {"length": 5.0}
    alarms, stops = watch.add(short)
    assert len(alarms) == len(stops) == 1
    assert watch.history == [WELL, short]


def test_a_run_without_a_reference_has_no_kl() -> None:
    row = {name: value for name, value in WELL.items() if name != "kl"}
    assert crossed(row, [row] * 5, Bounds(**ALARMS)) == []


def test_a_panel_for_what_was_measured_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[list[str]] = []

    def titles(figure: Figure, *_: object, **__: object) -> None:
        drawn.append([axis.get_title() for axis in figure.axes if axis.axison])

    monkeypatch.setattr(Figure, "savefig", titles)
    for dev in ([], [{"step": 1, "accuracy": 0.5, "se": 0.1}]):
        grpo_curves([{"step": 1, "length": 3.0}], dev, tmp_path / "curves.png")
    assert drawn[1] == [*drawn[0], "held-out accuracy"]
    assert "" not in drawn[0]
