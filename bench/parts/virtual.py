"""Part 1: how close our schedule comes to the lower bound of all schedules. Exact, on a virtual clock."""

import tempfile
from collections.abc import Mapping
from pathlib import Path

from agentark.records import read_records
from agentark.types import Method
from bench.parts.clock import Lengths, SlotEngine, lower_bound, run_virtual
from bench.parts.episodes import debate
from bench.parts.questions import problems
from bench.parts.report import Row, measured
from bench.parts.schedules import Schedule, execute
from methods.self_consistency.self_consistency import SelfConsistency, SelfConsistencyConfig

METHODS: Mapping[str, Method] = {
    "llm_debate 3x2": debate(3, 2),
    "llm_debate 5x3": debate(5, 3),
    "llm_debate 5x3 shared_order": debate(5, 3, shared_order=True),
    "self_consistency 5": SelfConsistency(SelfConsistencyConfig()),
}
SCHEDULES: tuple[Schedule, ...] = ("ours", "lockstep", "one_at_a_time")
GOAL = "<= 1.05"
GOAL_SAMPLES_PER_SLOT = 20


def measure(
    schedule: Schedule,
    method: Method,
    slots: int,
    samples: int,
    lengths: Lengths | None = None,
    seed: int = 0,
    **times: float,
) -> tuple[float, float]:
    """(makespan, lower bound) in virtual seconds; `seed` draws the reply lengths, `times` go to the engine."""
    engine = SlotEngine(slots, lengths or Lengths(), **times)
    with tempfile.TemporaryDirectory() as name:
        run = execute(schedule, method, engine, problems(samples), Path(name), total=samples, seed=seed)
        return run_virtual(run), lower_bound(list(read_records(Path(name) / "records.jsonl")), slots)


def rows(slots: int, per_slot: int, seeds: int) -> list[Row]:
    rows = []
    for name, method in METHODS.items():
        for schedule in SCHEDULES:
            runs = [measure(schedule, method, slots, slots * per_slot, seed=seed) for seed in range(seeds)]
            title = f"virtual: {name}, B={slots}, n={slots * per_slot}: {schedule.replace('_', ' ')} / lower bound"
            goal = GOAL if schedule == "ours" and per_slot >= GOAL_SAMPLES_PER_SLOT else ""
            rows.append(measured(title, runs, "virtual s", goal))
    return rows
