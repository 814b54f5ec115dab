"""A run: the bounded window of samples and the error boundary.

All samples are coroutines over one gate per model (agentark/episode.py): no barrier between rounds or samples. Cap =
calls in flight, window = cap samples: every open sample has a call ready or in flight (or is between two), so the
engine stays full while memory stays bounded. A finished sample is written at once.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import InitVar, dataclass
from typing import Any, NamedTuple

from msgspec import Struct, structs, to_builtins

from agentark.episode import Defaults, Episode, Gate
from agentark.journal import JournalEntry
from agentark.progress import Progress
from agentark.records import TRIAL, Store, read_records
from agentark.types import (
    REPAIR_ROLE,
    SANDBOX,
    Chat,
    Completion,
    Engine,
    EngineFault,
    Guarantee,
    Message,
    Method,
    MethodInfo,
    Outcome,
    Preparing,
    Record,
    RunError,
    Sample,
    SampleError,
    SamplingParams,
    Summing,
    merged,
)

PREPARED = "prepared"
"""Key of the manifest and of a record's `info`: what the method decided once for the run."""

TOTALS = "totals"
"""Key of the manifest: the method's figures over all records of the run."""

WEAKEST_FIRST: tuple[Guarantee, ...] = ("engine", "seeded", "exact")

MAX_FAULTS_IN_A_ROW = 10
"""A run stops after this many failed samples in a row, with none done in between."""

Row = Callable[[Episode, MethodInfo, str, Guarantee, Outcome | None, str | None], Struct]
"""(episode, method, model, guarantee, outcome, error) -> one line of the results; it has `id`, `schema` and `error`."""


class Made(NamedTuple):
    """A sample that has ended."""

    row: Struct | bytes
    """One line of the results; bytes: as it stands there."""
    ok: bool
    """Whether it is free of error."""
    calls: int
    """That it took."""


@dataclass(kw_only=True)
class Runner:
    """Runs a method over samples and writes every one of them to the store."""

    method: Method
    """A pure function of sample and replies."""
    info: MethodInfo
    """Its name, variant and resolved config, as recorded."""
    model: str
    """The generator's name, as recorded."""
    engines: InitVar[Mapping[str, Engine]]
    """Name -> engine, entered by the caller; `main` is the generator. Names may share one."""
    defaults: Defaults
    store: Store | None
    """Started by the caller; None: nobody keeps calls and rows, and only `made` is asked for rows."""
    progress: Progress
    row: Row = Episode.record
    """Makes what is stored of an episode."""

    def __post_init__(self, engines: Mapping[str, Engine]) -> None:
        gates = {id(engine): Gate(engine.capacity) for engine in engines.values()}
        self._models = {name: (engine, gates[id(engine)]) for name, engine in engines.items()}
        self._window = asyncio.Semaphore(sum(gate.capacity for gate in gates.values()))
        self.progress.watch(gates.values())
        self._faults = 0

    async def prepare(self, samples: Sequence[Sample]) -> None:
        """Let the method decide what it decides once per run, or take the decision an earlier session made.

        Args:
            samples: all of the run, done ones included, so that a resumed run decides on the same.

        Raises:
            RunError: a trial call failed.
        """
        if not isinstance(self.method, Preparing):
            return
        store = self.store
        assert store is not None
        if (before := store.noted(PREPARED)) is not None:
            self.method = self.method.restored(before["decision"])
            return
        trials: list[Episode] = []

        def episodes(sample: Sample) -> Chat:
            own = structs.replace(sample, id=f"{TRIAL}{len(trials)}/{sample.id}")
            journal = store.journalled(own.id)
            trials.append(Episode(own, -1, self.defaults, self._models, journal, store, self.progress.call))
            return trials[-1]

        try:
            self.method = await self.method.prepare(samples, episodes)
        except Exception as raised:
            first = first_error(raised)
            if isinstance(first, SampleError):
                raise RunError(f"the method's trial before the first sample failed: {first}") from raised
            raise first from None
        if self.method.prepared is not None:
            spent = merged(trial.token_stats() for trial in trials)
            trial = {"samples": [one.sample.id for one in trials], "token_stats": to_builtins(spent)}
            store.note(PREPARED, {"decision": self.method.prepared, **trial})

    async def run(self, samples: Iterable[Sample]) -> None:
        """Run every sample.

        Raises:
            RunError: the run cannot go on. What is written stays written.
        """
        try:
            async with asyncio.TaskGroup() as group:
                for order, sample in enumerate(samples):
                    if order == 0 and not self.progress.quiet:
                        self.progress.begin(await planned_calls(self.method, sample, frozenset(self._models)))
                    await self._window.acquire()
                    group.create_task(self._run_one(order, sample))
        except* RunError as errors:
            raise first_error(errors) from None

    async def _run_one(self, order: int, sample: Sample) -> None:
        self.progress.sample_begins()
        row, ok, calls = await self.made(order, sample)
        assert self.store is not None
        self.store.add(row)
        self.progress.sample(ok, calls)
        self._window.release()

    async def made(self, order: int, sample: Sample) -> "Made":
        """The row of a sample. Raises RunError when the run must stop."""
        journal = self.store.journalled(sample.id) if self.store is not None else {}
        episode = Episode(sample, order, self.defaults, self._models, journal, self.store, self.progress.call)
        outcome: Outcome | None = None
        error: str | None = None
        try:
            outcome = _with_decision(await self.method.run(sample, episode), self.method)
        except Exception as raised:  # noqa: BLE001 -- the error boundary: RunError goes on, all else becomes a row
            error = self._boundary(raised)
        else:
            self._faults = 0
        row = self.row(episode, self.info, self.model, self._guarantee(), outcome, error)
        return Made(row, error is None, len(episode.turns))

    def _guarantee(self) -> Guarantee:
        """The weakest of all models."""
        given = {engine.guarantee for name, (engine, _) in self._models.items() if name != SANDBOX}
        return next(one for one in WEAKEST_FIRST if one in given)

    def _boundary(self, raised: Exception) -> str:
        """The row's error text. Raises RunError when the run must stop."""
        first = first_error(raised)
        if isinstance(first, RunError):
            raise first
        text = str(first) if isinstance(first, SampleError) else f"{type(first).__name__}: {first}{_place(first)}"
        if isinstance(first, EngineFault) or not isinstance(first, SampleError):
            self._faults += 1
            if self._faults >= MAX_FAULTS_IN_A_ROW:
                raise RunError(f"{self._faults} samples failed in a row, the last one with: {text}") from first
        return text


def note_totals(store: Store, method: Method, order: Mapping[str, int]) -> None:
    """Keep the method's figures over all records of the run, where it has some."""
    if isinstance(method, Summing):
        store.note(TOTALS, method.totals(_infos(store, order)))


def end_killed(store: Store, method: Method, order: Mapping[str, int]) -> None:
    """End a run as its session would have, if it was killed when nothing was left to do. The engine is not needed."""
    if isinstance(method, Preparing) and (before := store.noted(PREPARED)) is not None:
        method = method.restored(before["decision"])
    note_totals(store, method, order)
    store.end_killed(order)


async def replay(record: Record, method: Method) -> Record:
    """Run the method again with the record's own replies; the result is the same record, timings included."""
    if PREPARED in record.info and isinstance(method, Preparing):
        method = method.restored(record.info[PREPARED])
    journal = {turn.id: JournalEntry(record.id, turn.id, None, turn.completion) for turn in record.trajectory}
    finished = NoEngine(f"replay: the record of {record.id} does not hold a call that the method makes")
    models = dict.fromkeys(record.models, (finished, Gate(1)))
    episode = Episode(record.sample(), 0, Defaults(0.0, 1, 0), models, journal, None)
    outcome = _with_decision(await method.run(record.sample(), episode), method)
    again = episode.record(record.method, record.model, record.guarantee, outcome, None)
    return structs.replace(again, started=record.started, seconds=record.seconds, team=record.team)


class NoEngine(Engine):
    """Stands where an engine is expected by work that makes no calls.

    Args:
        refusal: of a call all the same.
    """

    name = "none"
    guarantee: Guarantee = "exact"
    capacity = 8
    context_length = 0

    def __init__(self, refusal: str) -> None:
        self.refusal = refusal

    async def chat(
        self, messages: Sequence[Message], params: SamplingParams, *, session: str, priority: int
    ) -> Completion:
        raise RunError(self.refusal)


MOST_PLANNED = 1000
"""Calls after which a trial is given up: it must end before anybody notices it, also with a method that never does."""


class _Disagreeing(NoEngine):
    """Answers at once, each time something that no other reply agrees with."""

    def __init__(self) -> None:
        super().__init__("")
        self._replies = 0

    async def chat(
        self, messages: Sequence[Message], params: SamplingParams, *, session: str, priority: int
    ) -> Completion:
        self._replies += 1
        if self._replies > MOST_PLANNED:
            raise SampleError(f"no end after {MOST_PLANNED} calls")
        text = params.choices[0] if params.choices else f"\\boxed{{{self._replies}}}"
        return Completion(text, "stop", 0, 0, self.name, 0.0)


async def planned_calls(method: Method, sample: Sample, models: frozenset[str]) -> int | None:
    """Calls that the method makes for a sample when nothing ends it early; None where such a trial fails.

    Args:
        models: of the run. No program is run for this.
    """
    engine = _Disagreeing()
    trial = {name: (engine, Gate(engine.capacity)) for name in models - {SANDBOX}}
    episode = Episode(sample, 0, Defaults(0.0, 1, 0), trial, {}, None)
    try:
        async with asyncio.timeout(1):  # of a method that waits for other samples
            await method.run(sample, episode)
    except Exception:  # noqa: BLE001 -- a method may refuse such replies; the line then waits for real ones
        return None
    return sum(not turn.role.endswith(REPAIR_ROLE) for turn in episode.turns.values())


def _with_decision(outcome: Outcome, method: Method) -> Outcome:
    """The outcome with what its method decided once for the run."""
    if not isinstance(method, Preparing) or method.prepared is None:
        return outcome
    return structs.replace(outcome, info={**outcome.info, PREPARED: method.prepared})


def _infos(store: Store, order: Mapping[str, int]) -> list[dict[str, Any]]:
    """`info` of every good record, in the order of the dataset."""
    good = [record for record in read_records(store.path) if record.error is None]
    return [record.info for record in sorted(good, key=lambda record: order.get(record.id, len(order)))]


def first_error(error: BaseException) -> BaseException:
    """The exception that matters in a group: a RunError if there is one, else the first."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    leaves = [first_error(inner) for inner in error.exceptions]
    return next((leaf for leaf in leaves if isinstance(leaf, RunError)), leaves[0])


def _place(error: BaseException) -> str:
    """` (file:line)` of where an unexpected error was raised."""
    tb = error.__traceback__
    while tb is not None and tb.tb_next is not None:
        tb = tb.tb_next
    return f" ({tb.tb_frame.f_code.co_filename.rsplit('/', 1)[-1]}:{tb.tb_lineno})" if tb else ""
