"""The benchmark's own arithmetic: the virtual clock, the bound, the schedules, the ideal cache."""

import asyncio
import json
from pathlib import Path

import pytest

from agentark.types import Completion, Message, MethodInfo, Part, Record, SamplingParams, Turn, message
from bench import inference_bench
from bench.parts.cache import Served, ideal_cached, occupancy
from bench.parts.clock import Lengths, SlotEngine, chain, lower_bound, run_virtual
from bench.parts.report import Row, measured, save, table
from bench.parts.schedules import Rounds
from bench.parts.virtual import METHODS, measure

DEBATE = METHODS["llm_debate 3x2"]


def params(seed: int = 0) -> SamplingParams:
    return SamplingParams(temperature=0.5, max_tokens=64, seed=seed)


def constant(tokens: int) -> Lengths:
    return Lengths(tokens, 0.0, 1, 10_000)


# --- clock


def test_three_equal_jobs_in_two_slots_take_two_of_them() -> None:
    async def main() -> list[float]:
        clock = asyncio.get_running_loop().time
        slots = asyncio.Semaphore(2)

        async def job() -> float:
            async with slots:
                await asyncio.sleep(1000.5)
                return clock()

        return list(await asyncio.gather(job(), job(), job()))

    assert run_virtual(main()) == [1000.5, 1000.5, 2001.0]


def test_virtual_loop_refuses_to_wait_for_ever() -> None:
    async def main() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(RuntimeError, match="wait for each other"):
        run_virtual(main())


def test_engine_takes_prefill_of_uncached_tokens_and_decode_of_pinned_length() -> None:
    engine = SlotEngine(2, constant(32), decode=1 / 32, prefill=1 / 4)

    async def main() -> list[tuple[float, float, int | None]]:
        clock = asyncio.get_running_loop().time
        first = message("user", "x" * 40)  # 10 tokens
        seen = []
        for messages in ([first], [first, message("user", "y" * 8)], [first]):
            reply = await engine.chat(messages, params(), session="s", priority=0)
            seen.append((clock(), reply.seconds, reply.cached_tokens))
        other = await engine.chat([first], params(), session="other", priority=0)
        return [*seen, (clock(), other.seconds, other.cached_tokens)]

    assert run_virtual(main()) == [(3.5, 3.5, 0), (5.0, 1.5, 10), (6.0, 1.0, 10), (9.5, 3.5, 0)]


def test_engine_caches_its_own_replies() -> None:
    engine = SlotEngine(1, constant(32))

    async def main() -> tuple[int | None, int]:
        question = message("user", "x" * 40)
        reply = await engine.chat([question], params(), session="s", priority=0)
        dialogue = [question, message("assistant", reply.text), message("user", "y" * 8)]
        following = await engine.chat(dialogue, params(1), session="s", priority=0)
        return following.cached_tokens, following.prompt_tokens

    cached, prompt = run_virtual(main())
    assert cached == prompt - 2


def test_lengths_are_pinned_by_the_seed_and_heavy_tailed() -> None:
    lengths = Lengths()
    drawn = sorted(lengths(seed) for seed in range(2000))
    assert [lengths(seed) for seed in range(5)] == [lengths(seed) for seed in range(5)]
    assert 280 < drawn[1000] < 320
    assert drawn[-20] > 4 * drawn[1000]
    assert drawn[0] >= lengths.low
    assert drawn[-1] <= lengths.high


# --- bound


def turn(name: str, seconds: float, *refs: str, continues: str | None = None) -> Turn:
    reply = Completion(text="", finish_reason="stop", prompt_tokens=0, completion_tokens=0, model="m", seconds=seconds)
    shown = Message("user", (Part("document", ref="document"), *(Part("", ref=ref) for ref in refs)))
    return Turn(id=name, agent=name, round=1, role="r", messages=(shown,), completion=reply, continues=continues)


def record(*turns: Turn) -> Record:
    return Record(
        schema=1, id="x", source="x", query="q", gt="g", method=MethodInfo("m", "v", {}), model="m",
        guarantee="exact", answer_type="number", trajectory=list(turns),
    )  # fmt: skip


def test_bound_is_the_work_or_the_longest_chain() -> None:
    first = turn("a1", 1), turn("b1", 4)
    second = turn("a2", 3, "b1", continues="a1"), turn("b2", 1, "a1")
    debate = record(*first, *second, turn("end", 2, "a2", "b2"))
    assert chain(debate) == 4 + 3 + 2
    assert lower_bound([debate], slots=1) == 11  # the work
    assert lower_bound([debate], slots=2) == 9  # the chain
    assert lower_bound([debate, debate, debate], slots=3) == 11


# --- schedules


def test_equal_debates_fill_the_slots_exactly() -> None:
    """4 debates of 3 + 3 + 1 equal calls in 2 slots, nothing to prefill: 14 calls a slot, at best."""
    engine = {"decode": 1.0, "prefill": 0.0}
    times = {}
    for schedule in ("ours", "lockstep", "one_at_a_time"):
        times[schedule] = measure(schedule, DEBATE, 2, 4, constant(1), **engine)
    assert times["ours"] == (14.0, 14.0)
    assert times["lockstep"] == (14.0, 14.0)  # 6 + 6 + 2 calls a slot: rounds end together
    assert times["one_at_a_time"] == (4 * (2 + 2 + 1), 14.0)


def test_a_round_opens_when_all_have_reached_it_or_are_done() -> None:
    async def main() -> list[str]:
        rounds, log = Rounds(3), []

        async def sample(name: str, last: int, seconds: float) -> None:
            for round in range(1, last + 1):
                await rounds.reach(name, round)
                await asyncio.sleep(seconds)
                log.append(f"{name}{round}@{asyncio.get_running_loop().time():g}")
            rounds.leave(name)

        await asyncio.gather(sample("a", 2, 1), sample("b", 3, 2), sample("c", 1, 5))
        return log

    assert run_virtual(main()) == ["a1@1", "b1@2", "c1@5", "a2@6", "b2@7", "b3@9"]


def test_our_schedule_stays_near_the_bound() -> None:
    """Heavy-tailed lengths, n = 20 B."""
    ours, bound = measure("ours", DEBATE, 4, 80)
    alone, _ = measure("one_at_a_time", DEBATE, 4, 80)
    assert bound <= ours <= 1.05 * bound
    assert alone > 2 * bound


def test_lockstep_pays_for_its_barriers() -> None:
    """Few samples a slot, where each round's stragglers weigh."""
    times = [[measure(schedule, DEBATE, 8, 16, seed=seed)[0] for seed in range(5)] for schedule in ("ours", "lockstep")]
    assert sum(times[1]) > 1.1 * sum(times[0])


def test_virtual_runs_repeat_exactly() -> None:
    assert measure("ours", DEBATE, 3, 9) == measure("ours", DEBATE, 3, 9)
    assert measure("ours", DEBATE, 3, 9) != measure("ours", DEBATE, 3, 9, seed=1)


# --- cache and slots


def served(start: float, end: float, prompt: str, reply: str = "", cached: int = 0) -> Served:
    return Served(start, end, tuple(map(ord, prompt)), tuple(map(ord, reply)), cached)


def test_ideal_cache_by_hand() -> None:
    calls = [
        served(0, 5, "abcdef", "gh"),
        served(1, 9, "abcdeX"),  # shares 5 with the first, which has started
        served(2, 9, "abcdefghZ"),  # the first's reply is not there yet: 6
        served(6, 9, "abcdefghY"),  # now it is (and the third's prompt held it anyway): 8
        served(7, 9, "abcdef"),  # all of it is known, but its last token has to be computed: 5
        served(8, 9, "Xabcdef"),  # a prefix, not a substring: 0
    ]
    assert ideal_cached(calls) == 5 + 6 + 8 + 5
    assert ideal_cached(calls, block=2) == 4 + 6 + 8 + 4
    assert ideal_cached(calls, block=4) == 4 + 4 + 8 + 4
    assert ideal_cached(calls, block=16) == 0


def test_a_reply_counts_from_its_calls_end() -> None:
    first = served(0, 5, "ab", "cd")
    assert ideal_cached([first, served(4, 9, "abcdE")]) == 2
    assert ideal_cached([first, served(5, 9, "abcdE")]) == 4


def test_occupancy_by_hand() -> None:
    """Two slots, full from 1 to 8 but for half of them from 4 to 6; the last call ends 3 later."""
    calls = [served(0, 4, "a"), served(1, 11, "b"), served(6, 8, "c")]
    assert occupancy(calls, slots=2) == ((7 * 2 - 2) / (7 * 2), 3)
    assert occupancy(calls, slots=3) == ((11 + 3 + 2 - 0) / (11 * 3), 0)


# --- report


def test_rows_say_whether_the_goal_is_met(tmp_path: Path) -> None:
    rows = [Row("slow", 1.2, 10.0, 12.0, "s", "<= 1.05"), Row("full", 0.96, 8.0, 7.7, "calls", ">= 0.95")]
    assert [row.met for row in rows] == ["NO", "yes"]
    assert "| slow | 1.200 |  | 12 | 10 | s | <= 1.05 | NO |" in table(rows)
    save(rows, tmp_path / "new" / "rows.json")
    (first, _) = json.loads((tmp_path / "new" / "rows.json").read_text())
    assert set(first) == {"name", "ratio", "baseline", "ours", "unit", "machine", "commit", "date"}


def test_repeated_runs_are_compared_within_a_repetition() -> None:
    row = measured("b/a", [(1.0, 3.0), (2.0, 3.0), (4.0, 4.0)], "s", over_ours=True)
    assert (row.ratio, row.spread, row.ours, row.baseline) == (1.5, (1.0, 3.0), 2.0, 3.0)
    row = measured("used", [(1.0, 2.0), (3.0, 4.0), (2.0, 2.0)], "calls")
    assert (row.ratio, row.spread, row.ours, row.baseline) == (0.75, (0.5, 1.0), 2.0, 2.0)


def test_script_prints_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--part", "virtual", "--slots", "2", "--per_slot", "2", "--seeds", "1"]
    assert inference_bench.main([*arguments, "--json", str(tmp_path / "out.json")]) == 0
    assert "llm_debate 5x3 shared_order, B=2, n=4: lockstep / lower bound" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "out.json").read_text())) == 12
