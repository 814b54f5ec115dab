"""The simulator against hand-worked numbers, its bound, our runner on a virtual clock, and fitted on its own runs."""

import json
import math
import random
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import structs

from agentark.config import load
from agentark.engines.launchers.modal import read_config
from agentark.records import read_records
from agentark.types import MethodInfo, UserError
from bench import simulate as script
from bench.parts import plan, validation
from bench.parts.clock import Lengths, SlotEngine, run_virtual
from bench.parts.episodes import Call, Episode, debate, drawn, recorded
from bench.parts.questions import problems
from bench.parts.replicas import Speed, chain, simulate, work
from bench.parts.schedules import execute

SLOW = Speed(1.0, 0.5, 0.0, 0.1, kv_tokens=10_000, max_sequences=8, chunk=10, block=1)


def call(prompt: list[tuple[int, int]], reply: tuple[int, int], needs: tuple[int, ...] = (), round: int = 1) -> Call:
    return Call(round, needs, tuple(prompt), reply)


def speed(**changes: Any) -> Speed:
    return Speed(**{**SLOW.__dict__, **changes})


# --- one replica, by hand


def test_one_call() -> None:
    """A step of 10 prompt tokens (1 + 10 x 0.1 s), then 4 of one sequence (1 + 0.5 s each)."""
    found = simulate([(call([(1, 10)], (2, 5)),)], SLOW)
    assert found.seconds == pytest.approx(2.0 + 4 * 1.5)
    assert (found.prompt, found.cached) == (10, 0)


def test_two_calls_share_their_steps() -> None:
    """Prompts one after the other; the first sequence gets a token while the second prompt is read."""
    one: Episode = (call([(1, 10)], (2, 5)),)
    found = simulate([one, one], speed(per_prompt=0.0))
    # 1 step of prompt; 10/9 steps of 1.5 s beside the other prompt; then both until the first has its 4 steps
    both = 4 - 10 / 9
    assert found.seconds == pytest.approx(1.0 + 10 / 9 * 1.5 + both * 2.0 + (4 - both) * 1.5)


def test_context_makes_steps_longer() -> None:
    found = simulate([(call([(1, 10)], (2, 5)),)], speed(per_context=0.01))
    assert found.seconds == pytest.approx(2.0 + 4 * 1.5 + 0.01 * (10 * 4 + 4 * 4 / 2))


def test_a_dialogue_is_found_again_and_a_copy_of_it_too() -> None:
    first = call([(1, 10)], (2, 5))
    second = call([(1, 10), (2, 5), (3, 4)], (4, 5), needs=(0,), round=2)
    found = simulate([(first, second)], SLOW)
    assert [job.cached for job in found.jobs] == [0, 15]
    assert [job.cached for job in simulate([(first, first)], SLOW).jobs] == [0, 9]  # one token has to be computed
    assert [job.cached for job in simulate([(first,), (first,)], SLOW).jobs] == [0, 0]  # of another question
    assert [job.cached for job in simulate([(first, second)], speed(block=8)).jobs] == [0, 8]


def test_memory_holds_calls_back_and_forgets_the_oldest() -> None:
    one: Episode = (call([(1, 10)], (2, 5)),)
    alone = simulate([one], SLOW).seconds
    assert simulate([one, one], speed(kv_tokens=20)).seconds == pytest.approx(2 * alone)
    assert simulate([one, one], speed(kv_tokens=30)).seconds < 2 * alone
    first, other = call([(1, 10)], (2, 5)), call([(7, 10)], (8, 5), needs=(0,), round=2)
    again = call([(1, 10), (2, 5)], (9, 5), needs=(1,), round=3)
    assert [job.cached for job in simulate([(first, other, again)], speed(kv_tokens=40)).jobs] == [0, 0, 14]
    assert [job.cached for job in simulate([(first, other, again)], speed(kv_tokens=25)).jobs][2] < 14
    with pytest.raises(UserError, match=r"a call of 15 tokens does not fit into the KV memory of a replica \(14\)"):
        simulate([one], speed(kv_tokens=14))


# --- whatever the episodes


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("schedule", ["ours", "lockstep"])
def test_order_caps_and_bound_hold(seed: int, schedule: Any) -> None:
    draw = random.Random(seed)
    episodes = drawn(debate(draw.randint(1, 5), draw.randint(1, 3), draw.random() < 0.5), 12, Lengths(60), 50, seed)
    replicas, cap = draw.randint(1, 3), draw.randint(1, 8)
    fast = Speed(0.02, 1e-3, 1e-6, 1e-4, draw.choice([6000, 60_000]), max_sequences=8)
    found = simulate(episodes, fast, replicas, cap, schedule)
    assert sorted((job.order, job.index) for job in found.jobs) == [
        (order, index) for order, episode in enumerate(episodes) for index in range(len(episode))
    ]
    ends = {(job.order, job.index): job.finished for job in found.jobs}
    for job in found.jobs:
        assert all(ends[job.order, index] <= job.submitted for index in job.call.needs)
        if schedule == "lockstep":
            before = [one.finished for one in found.jobs if one.call.round < job.call.round]
            assert max(before, default=0.0) <= job.submitted
    changes = sorted([(job.submitted, 1) for job in found.jobs] + [(job.finished, -1) for job in found.jobs])
    level = peak = 0
    for _, change in changes:
        level += change
        peak = max(peak, level)
    assert peak <= replicas * cap
    bound = max(sum(work(one, fast) for one in episodes) / replicas, max(chain(one, fast) for one in episodes))
    assert found.seconds >= bound


def test_a_replica_s_share_stands_for_all_of_them() -> None:
    share = drawn(debate(3, 2, False), 120, Lengths(60), 50)
    fast = Speed(0.02, 1e-3, 1e-6, 1e-4, 60_000, max_sequences=16)
    together = simulate(share * 4, fast, replicas=4, cap=16).seconds
    assert together == pytest.approx(simulate(share, fast, cap=16).seconds, rel=0.1)


# --- the runner itself


def virtual_run(folder: Path, schedule: Any, slots: int, lengths: Lengths, samples: int, **times: float) -> float:
    """The real runner on a virtual clock, a 3 x 2 debate; its records name the method as inference.py would."""
    method = debate(3, 2, False)
    engine = SlotEngine(slots, lengths, **times)
    seconds = run_virtual(execute(schedule, method, engine, problems(samples), folder, total=samples))
    info = MethodInfo("llm_debate", "test", method.config.model_dump())
    path = folder / "records.jsonl"
    lines = [msgspec.json.encode(structs.replace(one, method=info)) for one in read_records(path)]
    path.write_bytes(b"\n".join(lines) + b"\n")
    return seconds


@pytest.mark.parametrize("schedule", ["ours", "lockstep"])
def test_the_schedule_is_that_of_the_runner(schedule: Any, tmp_path: Path) -> None:
    """The real runner and method on a virtual clock, and the model fed with what they recorded."""
    real = virtual_run(tmp_path, schedule, 8, Lengths(200), 40, prefill=0.0)
    records = sorted(read_records(tmp_path / "records.jsonl"), key=lambda one: int(one.id.split("/")[1]))
    episodes = recorded(records)
    assert sum(map(len, episodes)) == 40 * 7
    told = sum(turn.completion.prompt_tokens for one in records for turn in one.trajectory)
    assert sum(one.prompt_tokens for episode in episodes for one in episode) == pytest.approx(told, rel=0.1)
    same = Speed(SlotEngine(8).decode, 0.0, 0.0, 0.0, kv_tokens=10**9, max_sequences=8, chunk=10**9)
    assert simulate(episodes, same, cap=8, schedule=schedule).seconds == pytest.approx(real, rel=0.03)
    shared = recorded(records, shared_order=True)
    assert simulate(shared, same, cap=8).cached > simulate(episodes, same, cap=8).cached


def test_a_debate_has_the_tokens_that_the_paper_s_size_means() -> None:
    """5 x 3 with questions of 150 tokens and replies of 500: about 44.7k prompt and 8k reply tokens."""
    (one,) = drawn(debate(5, 3, False), 1, Lengths(500, 0.0, 1, 10_000), 150)
    assert sum(call.reply[1] for call in one) == 8000
    assert sum(call.prompt_tokens for call in one) == pytest.approx(44_700, rel=0.05)
    shared: set[int] = set()
    (other,) = drawn(debate(5, 3, True), 1, Lengths(500, 0.0, 1, 10_000), 150)
    fresh = [size for call in other for key, size in call.prompt if not (key in shared or shared.add(key))]  # type: ignore[func-returns-value]
    assert sum(fresh) < 0.35 * sum(call.prompt_tokens for call in one)


# --- validation


def pretend(path: Path, cap: int, truth: Speed) -> validation.Measured:
    episodes = drawn(debate(3, 2, False), 16, Lengths(80), 60, seed=cap)
    found = simulate(episodes, truth, cap=cap)
    calls = sum(job.finished - job.submitted for job in found.jobs)
    return validation.Measured(path, episodes, cap, found.seconds, calls, found.cached, found.prompt)


def test_speeds_are_found_again(tmp_path: Path) -> None:
    truth = Speed(0.05, 0.004, 0.0, 0.002, 46_000, 32, block=32)
    runs = [pretend(tmp_path / f"{cap}.jsonl", cap, truth) for cap in (2, 16)]
    speed = validation.fit(runs, 1, 46_000, 32)
    unseen = pretend(tmp_path / "8.jsonl", 8, truth)
    assert validation.predict(unseen, speed, 1).seconds == pytest.approx(unseen.seconds, rel=0.05)


def test_a_recorded_run_is_read(tmp_path: Path) -> None:
    virtual_run(tmp_path, "ours", 4, Lengths(60), 6)
    path = tmp_path / "records.jsonl"
    manifest = tmp_path / "records.jsonl.manifest.json"
    manifest.write_text(json.dumps({"sessions": [{"capacity": 4}]}))
    one = validation.read(path)
    assert (one.cap, len(one.episodes)) == (4, 6)
    assert one.cached is not None
    manifest.write_text(json.dumps({"sessions": [{"capacity": 4}, {"capacity": 4}]}))
    with pytest.raises(UserError, match="2 sessions; a run made in one go is needed"):
        validation.read(path)
    with pytest.raises(UserError, match="no such results file"):
        validation.read(tmp_path / "other.jsonl")


# --- the plan and the script


def test_every_hardware_file_makes_a_replica() -> None:
    files = sorted((script.report.ROOT / "configs" / "hardware").glob("*.yaml"))
    assert files
    for file in files:
        hardware = load(plan.Hardware, file, [], "--hardware")
        one, more = hardware.speed(1), hardware.speed(hardware.gpus_per_replica)
        assert more.kv_tokens > 20_000
        assert more.base < one.base
        assert hardware.gpu in read_config(environment={}).prices


def test_the_plan_and_its_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "scaling.md"
    page.write_text(f"before\n{plan.MARKS[0]}\nold\n{plan.MARKS[1]}\nafter\n")
    monkeypatch.setattr(plan, "DOCS", page)
    monkeypatch.setattr(plan, "PLOT", tmp_path / "scaling.svg")
    out = tmp_path / "simulate.json"
    small = ["--questions", "400", "--agents", "2", "--rounds", "2", "--reply_tokens", "60", "--sample", "30"]
    assert script.main([*small, "--gpus", "2", "8", "--docs", "--cap", "16", "--json", str(out)]) == 0
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith(("| 2 |", "| 8 |"))]
    assert len(rows) == 2
    hours = [float(row[1].replace(",", "")) for row in rows]
    assert hours[0] >= hours[1]
    assert "<svg" in (tmp_path / "scaling.svg").read_text()
    values = {one["name"].split(": ")[-1]: one["ratio"] for one in json.loads(out.read_text())}
    assert all(math.isfinite(value) for value in values.values())
    assert [value >= 1 for name, value in values.items() if "lower bound" in name] == [True]


def test_shares_are_extended_at_their_pace() -> None:
    hardware = load(plan.Hardware, script.HARDWARE, [], "--hardware")
    workload = plan.Workload(600, 2, 2, 50, 60.0, None, 0)
    (short,) = plan.make(workload, hardware, [2], cap=16, sample=100)
    (whole,) = plan.make(workload, hardware, [2], cap=16, sample=300)
    for kind in plan.KINDS:
        assert short.hours[kind] == pytest.approx(whole.hours[kind], rel=0.05)
    assert whole.hours["ours", False] >= whole.bound[False]


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--fit", "a"], "--fit and --validate go together"),
        (["--fit", "a", "--validate", "a"], r"--validate a: the speeds come from it"),
        (["--records", "none.jsonl"], "none.jsonl: no such results file"),
    ],
)
def test_bad_input(argv: list[str], expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        script.main(argv)
