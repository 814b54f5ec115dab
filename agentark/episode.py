"""One sample's way through a method: the gate of each model, and the chat that gives every call address and seed."""

import asyncio
import heapq
import itertools
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

from msgspec import UNSET, Struct

from agentark.journal import JournalEntry
from agentark.records import Store, layout_response, pack, turn_order, without_texts
from agentark.sampling import SHAPING
from agentark.team import Route, Team
from agentark.types import (
    SANDBOX,
    SCHEMA,
    TEAM,
    Completion,
    Engine,
    Guarantee,
    Message,
    MethodInfo,
    Outcome,
    Record,
    RunError,
    Sample,
    SampleError,
    SamplingParams,
    TokenStats,
    Turn,
    digest,
    message,
)

T = TypeVar("T")


async def gather(*calls: Coroutine[Any, Any, T]) -> list[T]:
    """Run calls that the paper says are independent; results in the order given. One failure ends the others."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(call) for call in calls]
    return [task.result() for task in tasks]


class Gate:
    """At most `capacity` holders; those waiting are served by (priority, arrival)."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.in_flight = 0
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._arrivals = itertools.count()

    async def acquire(self, priority: int) -> None:
        if self.in_flight < self.capacity:
            self.in_flight += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (priority, next(self._arrivals), turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.release()  # the place was handed over just before the cancellation
            raise

    def release(self) -> None:
        """Hand the place to the next in line, or free it."""
        while self._waiting:
            turn = heapq.heappop(self._waiting)[2]
            if not turn.done():
                turn.set_result(None)
                return
        self.in_flight -= 1


@runtime_checkable
class Streaming(Protocol):
    """An engine that also tells a reply while it is written."""

    async def stream(
        self,
        messages: Sequence[Message],
        params: SamplingParams,
        on_text: Callable[[str], None],
        *,
        session: str,
        priority: int,
    ) -> Completion:
        """Answer one call as `chat` does.

        Args:
            on_text: is given the reply in pieces, without thinking text; together they are the completion's `text`.
                After the first piece the engine does not try again.
        """
        ...


class Defaults(Struct, frozen=True):
    """Values of a call where the method gives none."""

    temperature: float
    max_tokens: int
    seed: int
    controls: Mapping[str, Any] = {}
    """Of `agentark.sampling.CONTROLS`, those that are set."""
    team: Team | None = None
    """Who answers whom, where that is not always the generator."""

    def route(self, agent: str, role: str, model: str) -> Route:
        """Who answers the calls of an agent in a role, where the method asks for `model`, and how."""
        if self.team is not None and model != SANDBOX:
            return self.team.route(agent, role, model)
        controls = self.controls if model != SANDBOX else {}
        return Route(model, None, {"temperature": self.temperature, "max_tokens": self.max_tokens, **controls}, {})


def sampled(
    route: Route, own: Mapping[str, Any], choices: tuple[str, ...] | None, schema: Mapping[str, Any] | None
) -> dict[str, Any]:
    """How a call is sampled, as fields of `SamplingParams`. A reply of a given form keeps it.

    Args:
        own: what the method says of it.
    """
    if choices is not None:
        values = {**route.base, **route.named, **own}
        return {name: values[name] for name in ("temperature", "max_tokens")}
    values = {**route.base, **own, **route.named}
    return values if schema is None else {name: value for name, value in values.items() if name not in SHAPING}


@dataclass(eq=False)
class Episode:
    """The `Chat` of one sample: gives each call its address and seed, answers from the journal or the engine."""

    sample: Sample
    order: int
    """Its place in the run; lower goes first at the gate."""
    defaults: Defaults
    engines: Mapping[str, tuple[Engine, Gate]]
    """By name; `main` is the generator."""
    journal: Mapping[str, JournalEntry]
    """Finished calls of an earlier session, by turn id."""
    store: Store | None
    """Where finished calls go; None when replaying."""
    on_call: Callable[[Completion, bool], None] | None = None
    """Told of every reply, and whether it came out of the journal."""

    def __post_init__(self) -> None:
        self.turns: dict[str, Turn] = {}
        self._started, self._clock = time.time(), time.perf_counter()
        self._calls: Counter[str] = Counter()
        self.dialogues: dict[str, tuple[Message, ...]] = {}
        """Of every finished turn: all messages, its reply included."""

    @property
    def models(self) -> frozenset[str]:
        return frozenset(self.engines)

    def __call__(
        self,
        messages: Sequence[Message],
        *,
        agent: str,
        round: int,
        role: str,
        temperature: float | None = None,
        max_tokens: int | None = None,
        choices: tuple[str, ...] | None = None,
        choice_logprobs: bool = False,
        schema: dict[str, Any] | None = None,
        model: str = "main",
    ) -> Coroutine[Any, Any, Turn]:
        address = f"{agent}/{round}/{role}"
        calls = self._calls[address]
        self._calls[address] += 1
        turn_id = f"{address}#{calls}" if calls else address
        route = self.defaults.route(agent, role, model)
        own = {"temperature": temperature, "max_tokens": max_tokens}
        params = SamplingParams(
            **sampled(route, {name: value for name, value in own.items() if value is not None}, choices, schema),
            seed=self.seed(turn_id),
            choices=choices,
            choice_logprobs=choice_logprobs,
            schema=schema,
            adapter=route.adapter,
        )

        async def call() -> Turn:
            completion = await self._complete(messages, params, turn_id, route.model)
            continues, new = pack(messages, self.dialogues)
            turn = Turn(
                id=turn_id,
                agent=agent,
                round=round,
                role=role,
                messages=new,
                completion=completion,
                continues=continues,
            )
            self.keep(turn, messages)
            return turn

        return call()

    def seed(self, turn_id: str) -> int:
        """Of a call: it depends on the run's seed, the sample and the address."""
        return int(digest((self.defaults.seed, self.sample.id, turn_id))[:15], 16)

    def keep(self, turn: Turn, messages: Sequence[Message]) -> None:
        """Add a finished turn. `messages`: all that were sent."""
        self.dialogues[turn.id] = (*messages, message("assistant", turn))
        self.turns[turn.id] = turn

    async def _complete(
        self, messages: Sequence[Message], params: SamplingParams, turn_id: str, model: str
    ) -> Completion:
        request = digest((messages, params, model))
        if (entry := self.journal.get(turn_id)) is not None:
            if entry.request not in (request, None):
                raise RunError(
                    f"journal: the call {turn_id} of sample {self.sample.id} was made with other messages or "
                    "parameters (the code or the data changed since); use --overwrite, or remove the journal"
                )
            if self.on_call is not None:
                self.on_call(entry.completion, True)
            return entry.completion
        if model not in self.engines:
            raise SampleError(f"the call {turn_id} asks for the model {model!r}; this run has {sorted(self.engines)}")
        completion = await self.ask(messages, params, model)
        if self.store is not None:
            self.store.add_call(JournalEntry(self.sample.id, turn_id, request, completion))
        if self.on_call is not None:
            self.on_call(completion, False)
        return completion

    async def ask(
        self,
        messages: Sequence[Message],
        params: SamplingParams,
        model: str,
        on_text: Callable[[str], None] | None = None,
    ) -> Completion:
        """The engine's reply, once the gate lets the call pass.

        Args:
            on_text: is given the reply in pieces, by an engine that can; by others as a whole.
        """
        engine, gate = self.engines[model]
        await gate.acquire(self.order)
        try:
            if on_text is not None and isinstance(engine, Streaming):
                return await engine.stream(messages, params, on_text, session=self.sample.id, priority=self.order)
            completion = await engine.chat(messages, params, session=self.sample.id, priority=self.order)
        finally:
            gate.release()
        if on_text is not None:
            on_text(completion.text)
        return completion

    def token_stats(self) -> dict[str, TokenStats]:
        """Token use so far, per model; a sandbox and a team use none of their own."""
        stats: dict[str, TokenStats] = {}
        for turn in self.turns.values():
            if turn.completion.model not in (SANDBOX, TEAM):
                stats.setdefault(turn.completion.model, TokenStats()).add(turn.completion)
        return dict(sorted(stats.items()))

    def record(
        self,
        info: MethodInfo,
        model: str,
        guarantee: Guarantee,
        outcome: Outcome | None,
        error: str | None,
    ) -> Record:
        """The line this episode becomes. A failed one keeps its token use; its calls stay in the journal."""
        fields: dict[str, Any] = {}
        if outcome is not None:
            trajectory = sorted(self.turns.values(), key=turn_order)
            texts = {turn.id: turn.text for turn in trajectory}
            fields = {
                "response": layout_response(outcome.solutions, texts),
                "solutions": outcome.solutions,
                "trajectory": [without_texts(turn) for turn in trajectory],
                "final_answer": outcome.solutions[-1].answer,
                "parse_failures": outcome.parse_failures,
                "info": outcome.info,
            }
        return Record(
            schema=SCHEMA,
            method=info,
            model=model,
            guarantee=guarantee,
            token_stats=self.token_stats(),
            models=tuple(sorted(self.engines)),
            team=self.defaults.team.shown if self.defaults.team else UNSET,
            started=self._started,
            seconds=time.perf_counter() - self._clock,
            error=error,
            **self.sample.fields(),
            **fields,
        )
