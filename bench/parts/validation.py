"""Check bench/parts/replicas.py against recorded runs: fit speeds on some, predict the wall times of others."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from agentark.files import json_of, manifest_of
from agentark.types import UserError
from bench.parts.episodes import Episode, good_records, recorded
from bench.parts.replicas import Run, Speed, simulate
from bench.parts.report import Row

START = (0.07, 0.006, 0.003)
"""Start of the search, in seconds per step, per sequence and per prompt token: SmolLM2 on two cores."""


@dataclass(frozen=True)
class Measured:
    """A recorded run."""

    path: Path
    episodes: list[Episode]
    cap: int
    """Calls in flight, over all replicas."""
    seconds: float
    """Seconds from the start of the first episode to the end of the last."""
    calls: float
    """Total seconds of all calls, as the runner saw them."""
    cached: int | None
    """Prompt tokens from the prefix cache."""
    prompt: int


def read(path: Path) -> Measured:
    """A results file with its manifest.

    Raises:
        UserError: the file does not exist, or the run has several sessions, with unused time between them.
    """
    records = sorted(good_records(path), key=lambda record: record.started)
    manifest = json_of(manifest_of(path))
    sessions = manifest["sessions"]
    if len(sessions) != 1:
        raise UserError(f"{path}: {len(sessions)} sessions; a run made in one go is needed")
    turns = [turn.completion for record in records for turn in record.trajectory]
    cached = [turn.cached_tokens for turn in turns]
    return Measured(
        path=path,
        episodes=recorded(records),
        cap=int(sessions[0]["capacity"]),
        seconds=max(record.started + record.seconds for record in records) - records[0].started,
        calls=sum(turn.seconds for turn in turns),
        cached=None if None in cached else sum(count or 0 for count in cached),
        prompt=sum(turn.prompt_tokens for turn in turns),
    )


def predict(run: Measured, speed: Speed, replicas: int) -> Run:
    return simulate(run.episodes, speed, replicas, max(1, run.cap // replicas))


def fit(runs: Sequence[Measured], replicas: int, kv_tokens: int, block: int) -> Speed:
    """The speeds that best fit the runs' wall times and the total times of their calls."""
    minimize: Any = import_module("scipy.optimize").minimize

    def speed_of(logs: Sequence[float]) -> Speed:
        base, sequence, prompt = (math.exp(value) for value in logs)
        most = max(run.cap for run in runs)
        return Speed(base, sequence, 0.0, prompt, kv_tokens, max(32, most), block=block)

    def loss(logs: Sequence[float]) -> float:
        total, speed = 0.0, speed_of(logs)
        for run in runs:
            simulated = predict(run, speed, replicas)
            calls = sum(job.finished - job.submitted for job in simulated.jobs)
            total += math.log(simulated.seconds / run.seconds) ** 2 + math.log(calls / run.calls) ** 2
        # one run cannot tell three speeds apart: stay near the start if the runs do not decide
        return total + 1e-3 * sum((value - math.log(first)) ** 2 for value, first in zip(logs, START, strict=True))

    options = {"maxiter": 200, "xatol": 1e-3, "fatol": 1e-6}
    best = minimize(loss, list(map(math.log, START)), method="Nelder-Mead", options=options)
    return speed_of([float(value) for value in best.x])


def rows(fitted: Sequence[Path], predicted: Sequence[Path], replicas: int, kv_tokens: int, block: int) -> list[Row]:
    """Rows of simulated over measured: wall time, and tokens from the prefix cache. Fitted runs are named as such."""
    runs = [read(path) for path in fitted]
    speed = fit(runs, replicas, kv_tokens, block)
    print(
        f"fitted: {speed.base * 1e3:.1f} ms a step, {speed.per_sequence * 1e3:.2f} ms a sequence in it, "
        f"{speed.per_prompt * 1e3:.2f} ms a prompt token"
    )
    rows = []
    for what, run in [*(("fitted", run) for run in runs), *(("predicted", read(path)) for path in predicted)]:
        simulated = predict(run, speed, replicas)
        title = f"simulate, {what}: {run.path.stem}, n={len(run.episodes)}, cap {run.cap}"
        goal = "" if what == "fitted" else "<= 1.15"
        error = max(simulated.seconds / run.seconds, run.seconds / simulated.seconds)
        rows.append(Row(f"{title}: wall time, simulated against measured, the larger over the smaller", error,
                         run.seconds, simulated.seconds, "s", goal))  # fmt: skip
        if run.cached:
            shares = simulated.cached / simulated.prompt, run.cached / run.prompt
            name = f"{title}: prefix-cache hit rate, simulated / measured"
            rows.append(Row(name, shares[0] / shares[1], shares[1], shares[0], "of prompt tokens"))
    return rows
