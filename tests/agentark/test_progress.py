"""The lines on stderr: the start of an engine, and a run's progress on a terminal and in a file."""

import asyncio
import io
import logging
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from msgspec import structs
from stub_server import StubServer

from agentark.engines import openai
from agentark.engines.endpoints import Endpoint
from agentark.engines.server import Server
from agentark.episode import Defaults
from agentark.progress import ERASE, Handler, Progress, duration, starting
from agentark.records import Store
from agentark.runner import Runner, planned_calls
from agentark.types import Chat, Completion, Outcome, Sample, SampleError, message
from methods import METHODS, load_method

SAMPLE = Sample(id="T/test/1", source="T", query="What is 1 + 1?", gt="2", answer_type="number")


class Clock:
    """Time that passes when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    def lines(self) -> list[str]:
        """What stood in the line, one after the other."""
        return [line.rstrip("\n") for line in self.getvalue().split(ERASE)[1:]]


@dataclass
class Flying:
    in_flight: int = 0


def reply(prompt: int = 100, new: int = 50, cached: int | None = None) -> Completion:
    return Completion("", "stop", prompt, new, "stub", 1.0, cached_tokens=cached)


@pytest.fixture(autouse=True)
def no_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)


def test_a_line_in_a_file_every_15_seconds_and_one_at_the_end() -> None:
    clock, file = Clock(), io.StringIO()
    with Progress(8, stream=file, clock=clock) as progress:
        progress.begin(11)
        for _ in range(40):  # a call each second
            clock.now += 1
            progress.call(reply(cached=75))
    assert file.getvalue().splitlines() == [
        "0/8 samples | 15 of ~88 calls | 50 tokens/s | 75% of prompts cached | 15 s, about 1:13 left",
        "0/8 samples | 30 of ~88 calls | 50 tokens/s | 75% of prompts cached | 30 s, about 58 s left",
        "0/8 samples | 40 calls | 50 tokens/s | 75% of prompts cached | 40 s",
    ]


def test_a_terminal_has_one_line_that_moves_and_does_not_flood() -> None:
    clock, terminal = Clock(), Terminal()
    with Progress(8, stream=terminal, clock=clock) as progress:
        progress.begin(11)
        for _ in range(1000):
            clock.now += 0.01
            progress.tick()
    shown = terminal.lines()
    assert 40 <= len(shown) <= 51  # 10 s, five times a second, and the end
    assert terminal.getvalue().count("\n") == 1
    assert terminal.getvalue().endswith("\n")


@pytest.mark.parametrize(
    ("columns", "line"),
    [
        (
            120,
            "1/8 samples | 34 of ~88 calls (12 in flight) | 170 tokens/s | 50% of prompts cached | "
            "10 s, about 12 s left",
        ),
        (100, "1/8 samples | 34 of ~88 calls (12 in flight) | 170 tokens/s | 10 s, about 12 s left"),
        (80, "1/8 samples | 34 of ~88 calls (12 in flight) | 10 s, about 12 s left"),
        (50, "1/8 samples | 10 s, about 12 s left"),
        (20, "1/8 samples"),
        (6, "1/8 s"),
    ],
)
def test_a_narrow_terminal_leaves_out_what_matters_least(
    columns: int, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    clock, terminal, gate = Clock(), Terminal(), Flying()
    progress = Progress(8, stream=terminal, clock=clock)
    progress.watch([gate])
    progress.begin(11)
    for _ in range(34):
        progress.call(reply(cached=50))
    progress.sample(ok=True, calls=11)
    gate.in_flight = 12
    clock.now += 10
    progress.tick()
    assert terminal.lines() == [line]


def test_unknown_cache_hits_are_not_shown_as_none() -> None:
    progress = Progress(2, stream=io.StringIO(), clock=Clock())
    progress.begin(1)
    progress.call(reply(cached=None))
    assert "cached" not in progress.line()
    progress.call(reply(cached=0))
    assert "0% of prompts cached" in progress.line()


def test_the_estimate_is_near_the_truth_from_the_first_reply_on() -> None:
    """8 debates of 11 calls, 5 agents x 2 rounds and an aggregate, 16 calls at once, 4 to 6 s each."""
    clock, gate = Clock(), Flying()
    progress = Progress(8, stream=io.StringIO(), clock=clock)
    progress.watch([gate])
    progress.begin(11)
    estimates, waiting, flying = [], 88, []
    while waiting or flying:
        while waiting and len(flying) < 16:
            flying.append(clock.now + 4 + (waiting * 7 % 5) / 2)
            waiting -= 1
        gate.in_flight = len(flying)
        clock.now = min(flying)
        flying.remove(clock.now)
        gate.in_flight = len(flying)
        progress.call(reply())
        if progress.calls % 11 == 0:
            progress.sample(ok=True, calls=11)
        estimates.append((clock.now, progress.seconds_left()))
    for now, left in estimates[:-16]:
        assert left is not None
        assert 0.6 < (now - 100 + left) / (clock.now - 100) < 1.5
    assert estimates[-1][1] == 0


def test_samples_that_ended_correct_the_plan() -> None:
    """A method whose agents agree at once takes 3 calls instead of 9."""
    clock = Clock()
    progress = Progress(10, stream=io.StringIO(), clock=clock)
    progress.begin(9)
    assert progress.expected() == 90
    for _ in range(9):
        for _ in range(3):
            progress.call(reply())
        progress.sample(ok=True, calls=3)
    assert progress.expected() == pytest.approx(3.6)


def test_samples_under_way_are_not_taken_for_those_that_ended_early() -> None:
    """All at once: 25 of 64 have ended after 10 calls, the others have made 22 of at most 27."""
    progress = Progress(64, stream=io.StringIO(), clock=Clock())
    progress.begin(27)
    for _ in range(64):
        progress.sample_begins()
    for _ in range(25 * 10 + 39 * 22):
        progress.call(reply())
    for _ in range(25):
        progress.sample(ok=True, calls=10)
    assert progress.expected() == pytest.approx(39 * 5)


def test_calls_of_the_journal_count_as_made_and_not_as_speed() -> None:
    clock = Clock()
    progress = Progress(2, stream=io.StringIO(), clock=clock)
    progress.call(reply())  # of the method's trial before the first sample
    progress.begin(5)
    for _ in range(6):
        progress.call(reply(), replayed=True)
    clock.now += 10
    assert progress.expected() == 4
    assert progress.seconds_left() is None
    progress.call(reply())
    assert progress.seconds_left() == 30
    assert progress.line().startswith("0/2 samples | 7 of ~10 calls | 5 tokens/s |")


def test_failed_samples_and_an_unknown_plan() -> None:
    clock = Clock()
    progress = Progress(4, stream=io.StringIO(), clock=clock)
    progress.begin(None)
    progress.call(reply())
    assert "left" not in progress.line()
    progress.sample(ok=False, calls=0)
    progress.sample(ok=True, calls=1)
    clock.now += 10
    assert progress.line() == "2/4 samples (1 failed) | 1 of ~3 calls | 5 tokens/s | 10 s, about 20 s left"


def test_without_calls_the_estimate_comes_from_samples() -> None:
    clock = Clock()
    progress = Progress(4, stream=io.StringIO(), clock=clock)
    progress.begin(0)
    clock.now += 10
    progress.sample(ok=True, calls=0)
    assert progress.line() == "1/4 samples | 10 s, about 30 s left"


def test_quiet_says_nothing() -> None:
    file = io.StringIO()
    with Progress(1, quiet=True, stream=file, clock=Clock()) as progress:
        progress.sample(ok=True, calls=0)
    assert file.getvalue() == ""


def test_it_ticks_while_no_call_ends() -> None:
    clock, file = Clock(), io.StringIO()

    async def run() -> None:
        with Progress(1, stream=file, clock=clock) as progress, progress.ticking():
            progress.begin(1)
            clock.now += 20
            await asyncio.sleep(1.5)
            assert file.getvalue() == "0/1 samples | 20 s\n"

    asyncio.run(run())


def test_a_warning_gets_a_line_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, terminal = Clock(), Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    logger = logging.Logger("test")
    logger.addHandler(Handler())
    with starting("vLLM", clock=clock) as phase:
        phase("importing")
        logger.warning("something")
        phase("loading")
    with Progress(1, clock=clock) as progress:
        progress.begin(1)
        clock.now += 1
        progress.tick()
        logger.warning("something else")
    screen = terminal.getvalue().replace(ERASE, "<")
    assert screen == (
        "starting vLLM: importing ...\nsomething\nstarting vLLM: loading ... ready in 0 s\n"
        "<0/1 samples | 1 s<something else\n<0/1 samples | 1 s\n"
    )


def test_the_phases_of_a_start() -> None:
    clock, file = Clock(), io.StringIO()
    with starting("vLLM", stream=file, clock=clock) as phase:
        phase("importing")
        assert file.getvalue() == "starting vLLM: importing ..."
        clock.now += 8
        phase("loading")
        clock.now += 9
    assert file.getvalue() == "starting vLLM: importing ... loading ... ready in 17 s\n"


def test_a_start_that_fails_leaves_an_empty_line_for_the_error() -> None:
    file = io.StringIO()

    def start() -> None:
        with starting("vLLM", stream=file) as phase:
            phase("importing")
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        start()
    assert file.getvalue() == "starting vLLM: importing ...\n"


def test_a_start_without_phases_says_nothing() -> None:
    file = io.StringIO()
    with starting("stub", stream=file):
        pass
    assert file.getvalue() == ""


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1:00"), (245, "4:05"), (3723, "1:02:03")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("name", "overrides", "calls"),
    [
        ("vanilla", [], 1),
        ("self_consistency", ["parallel_num=7"], 7),
        ("llm_debate", ["num_agents=5", "num_rounds=2"], 11),
        ("llm_debate", ["num_agents=5", "num_rounds=2", "aggregate=vote"], 10),
        ("mad", ["max_round=4"], 3 * 4 + 2),
    ],
)
def test_planned_calls_are_those_of_the_methods_formula(name: str, overrides: list[str], calls: int) -> None:
    method, _ = load_method(name, overrides=overrides)
    assert asyncio.run(planned_calls(method, SAMPLE, frozenset({"main"}))) == calls


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_a_plan(name: str) -> None:
    method, _ = load_method(name)
    kind = "number" if "number" in type(method).TASKS else "code"
    code = {"tests": ("assert f(1)",), "entry_point": "f"} if kind == "code" else {}
    sample = Sample(id="T/1", source="T", query="Write f.", gt="2", answer_type=kind, **code)
    assert (asyncio.run(planned_calls(method, sample, frozenset({"main"}))) or 0) > 0


def test_a_method_that_refuses_the_trial_has_no_plan() -> None:
    class Refusing:
        async def run(self, sample: Sample, chat: Chat) -> Outcome:
            await chat([message("user", "Hi")], agent="a", round=1, role="r")
            raise SampleError("not readable")

    assert asyncio.run(planned_calls(Refusing(), SAMPLE, frozenset({"main"}))) is None


class Endless:
    """Asks until two replies agree, or waits for another sample."""

    def __init__(self, waits: bool) -> None:
        self.waits = waits

    async def run(self, sample: Sample, chat: Chat) -> Outcome:
        if self.waits:
            await asyncio.Event().wait()
        texts: list[str] = []
        while len(texts) < 2 or texts[-1] != texts[-2]:
            texts.append((await chat([message("user", "?")], agent="a", round=len(texts) + 1, role="r")).text)
        return Outcome(solutions=[])


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.timeout(20)
def test_a_trial_that_does_not_end_is_given_up(waits: bool) -> None:
    assert asyncio.run(planned_calls(Endless(waits), SAMPLE, frozenset({"main"}))) is None


def test_a_run_on_a_served_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stub answers with 7 tokens a call and tells 3 cached ones; its first introduction takes long."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setattr(openai, "SLOW_SECONDS", 0.05)
    introduce = Server.introduce

    async def slowly(self: Server, thinking: bool | None) -> None:
        await asyncio.sleep(0.3)
        await introduce(self, thinking)

    monkeypatch.setattr(Server, "introduce", slowly)
    method, info = load_method("llm_debate", overrides=["num_agents=2", "num_rounds=2"])
    samples = [structs.replace(SAMPLE, id=f"T/test/{k}") for k in range(3)]
    file, clock = io.StringIO(), Clock()
    monkeypatch.setattr("sys.stderr", file)

    async def run() -> None:
        store = Store(tmp_path / "debate_infer.jsonl", {})
        async with StubServer() as server:
            endpoint = Endpoint(model_name="stub", model_url=server.url)
            async with openai.OpenAIEngine(openai.OpenAIConfig(model="stub", endpoints=(endpoint,))) as engine:
                store.start({})
                with Progress(3, clock=clock) as progress:
                    parts = {"engines": {"main": engine}, "store": store, "progress": progress}
                    defaults = Defaults(0.0, 64, 0)
                    await Runner(method=method, info=info, model="stub", defaults=defaults, **parts).run(samples)
                    assert progress.expected() == 0
                    clock.now += 10
        store.close(None)
        assert file.getvalue().startswith(f"starting stub: waiting for {server.url} ... ready in ")

    asyncio.run(run())
    line = file.getvalue().splitlines()[1]
    assert re.fullmatch(r"3/3 samples \| 15 calls \| 10 tokens/s \| \d+% of prompts cached \| 10 s", line), line
