"""One open sample: its calls, their addresses, and which call has a reply already."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from msgspec import Struct, structs

from agentark.episode import Defaults, Episode, Gate
from agentark.gateway import tools
from agentark.gateway.calls import Call, referring
from agentark.gateway.outcome import BROKEN, REPLY, quoting, settled
from agentark.journal import Asked, JournalEntry
from agentark.records import Store, pack
from agentark.types import Completion, Engine, Message, Outcome, Sample, Turn

OnText = Callable[[str], None]
HUNG_UP = "the client hung up before the end of the reply"


class Reply(Struct, frozen=True):
    """The answer to a call."""

    turn: Turn
    replayed: bool
    """Whether it was there already."""

    @property
    def said(self) -> tuple[str, tuple[dict[str, str], ...]]:
        """(content, tool calls) as the client gets them."""
        return said(self.turn.completion)


def said(completion: Completion) -> tuple[str, tuple[dict[str, str], ...]]:
    return tools.read(completion.text) if completion.tool_calls else (completion.text, ())


@dataclass(eq=False)
class Flight:
    """A call that the engine is answering."""

    task: "asyncio.Task[Turn]"
    streamed: bool
    waiting: int = 0
    """Clients that want its reply. A streamed call ends with the last of them; another is finished and kept."""


@dataclass(eq=False)
class OpenSample:
    """The calls of one sample, from its first to its outcome."""

    sample: Sample
    order: int
    """Its place in the session; lower goes first at the gate."""
    defaults: Defaults
    engines: Mapping[str, tuple[Engine, Gate]]
    store: Store
    replay: bool
    """Whether a call that is made again gets the reply it has."""
    model: str
    """Its name, as recorded."""
    requests: dict[str, str] = field(default_factory=dict)
    """Turn -> key of its call."""
    flights: dict[str, Flight] = field(default_factory=dict)
    """By the key of the call."""
    stopping: bool = False
    """Whether the server ends: what is cut off then is no client's doing."""

    def __post_init__(self) -> None:
        self.episode = Episode(self.sample, self.order, self.defaults, self.engines, {}, None)
        self.last = asyncio.get_running_loop().time()
        self._turn_of: dict[str, str] = {}
        self._missed: dict[str, list[str]] = {}
        self._reserved: set[str] = set()

    def restore(self, journal: Mapping[str, JournalEntry]) -> None:
        """Take in the finished calls of an earlier session, in the order in which they were finished.

        Nobody knows whether their replies arrived: the same call, made again, gets each of them once in any case.
        """
        for entry in journal.values():
            if entry.asked is None:
                continue
            asked = entry.asked
            turn = Turn(
                id=entry.turn,
                agent=asked.agent,
                round=asked.round,
                role=asked.role,
                messages=asked.messages,
                completion=entry.completion,
                continues=asked.continues,
                error=asked.error,
            )
            before = self.episode.dialogues[turn.continues] if turn.continues is not None else ()
            self._keep(turn, (*before, *turn.messages), entry.request)
            self.missed(turn)

    async def reply(self, call: Call, on_text: OnText | None) -> Reply:
        """The reply to a call; see `Flight` for what becomes of it when its client goes away.

        Args:
            on_text: is given the reply while it is written; nothing of one that was there already.
        """
        self.last = asyncio.get_running_loop().time()
        key = call.key
        if (turn_id := self._recorded(key)) is not None:
            return Reply(self.episode.turns[turn_id], True)
        flight = self.flights.get(key)
        joins = flight is not None and (self.replay or not flight.waiting)
        if flight is None or not joins:
            flight = self._start(call, key, on_text)
        flight.waiting += 1
        try:
            return Reply(await asyncio.shield(flight.task), joins)
        finally:
            flight.waiting -= 1
            if not flight.task.done() and flight.streamed and not flight.waiting:
                flight.task.cancel()
            self.last = asyncio.get_running_loop().time()

    def missed(self, turn: Turn) -> None:
        """Keep a reply that did not arrive for the same call, should it be made again."""
        if (key := self.requests.get(turn.id)) is not None:
            self._missed.setdefault(key, []).append(turn.id)

    def _recorded(self, key: str) -> str | None:
        """The turn that answers a call without the engine."""
        if self.replay:
            return self._turn_of.get(key)
        missed = self._missed.get(key)
        return missed.pop(0) if missed else None

    def _start(self, call: Call, key: str, on_text: OnText | None) -> Flight:
        """Give the call its address, at once, and let the engine answer it."""
        round = call.round if call.round is not None else self._next_round(call.agent)
        turn_id = self._address(call.agent, round, REPLY)
        self._reserved.add(turn_id)
        task = asyncio.get_running_loop().create_task(self._ask(call, key, turn_id, round, on_text))
        flight = self.flights[key] = Flight(task, on_text is not None)

        def ended(task: "asyncio.Task[Turn]") -> None:
            self._reserved.discard(turn_id)
            if self.flights.get(key) is flight:
                del self.flights[key]
            if not task.cancelled() and task.exception() is None and not flight.waiting:
                self.missed(task.result())

        task.add_done_callback(ended)
        return flight

    async def _ask(self, call: Call, key: str, turn_id: str, round: int, on_text: OnText | None) -> Turn:
        earlier = [turn for turn in self.episode.turns.values() if turn.agent == call.agent and turn.error is None]
        dialogues = {turn.id: self.episode.dialogues[turn.id] for turn in earlier}
        messages = referring(call.messages, dialogues, {turn.id: said(turn.completion) for turn in earlier})
        params = call.params
        if params.seed is None:
            params = structs.replace(params, seed=self.episode.seed(turn_id))
        pieces: list[str] = []

        def tell(piece: str) -> None:
            pieces.append(piece)
            assert on_text is not None
            on_text(piece)

        started = asyncio.get_running_loop().time()
        try:
            completion = await self.episode.ask(messages, params, "main", tell if on_text is not None else None)
        except asyncio.CancelledError:
            if not self.stopping:
                seconds = asyncio.get_running_loop().time() - started
                part = Completion("".join(pieces), "stop", 0, 0, self.model, seconds)
                self._add(call, key, self._address(call.agent, round, BROKEN), round, messages, part, HUNG_UP)
            raise
        if call.tools:
            completion = structs.replace(completion, tool_calls=tools.read(completion.text)[1] or None)
        return self._add(call, key, turn_id, round, messages, completion, None)

    def _add(
        self,
        call: Call,
        key: str,
        turn_id: str,
        round: int,
        messages: tuple[Message, ...],
        completion: Completion,
        error: str | None,
    ) -> Turn:
        """Keep a finished call, or the part of one, in the journal and here."""
        continues, new = pack(messages, self.episode.dialogues)
        role = REPLY if error is None else BROKEN
        asked = Asked(agent=call.agent, round=round, role=role, messages=new, continues=continues, error=error)
        self.store.add_call(JournalEntry(self.sample.id, turn_id, key, completion, asked))
        turn = Turn(
            id=turn_id,
            agent=call.agent,
            round=round,
            role=role,
            messages=new,
            completion=completion,
            continues=continues,
            error=error,
        )
        self._keep(turn, messages, key)
        return turn

    def _keep(self, turn: Turn, messages: tuple[Message, ...], key: str | None) -> None:
        self.episode.keep(turn, messages)
        if turn.error is None and key is not None:
            self._turn_of.setdefault(key, turn.id)
            self.requests[turn.id] = key

    def _next_round(self, agent: str) -> int:
        """The first in which the agent has not replied; 1 is the first of all."""
        round = 1
        while self._taken(f"{agent}/{round}/{REPLY}"):
            round += 1
        return round

    def _address(self, agent: str, round: int, role: str) -> str:
        """The first free id of a turn there."""
        address = f"{agent}/{round}/{role}"
        turn_id, calls = address, 0
        while self._taken(turn_id):
            calls += 1
            turn_id = f"{address}#{calls}"
        return turn_id

    def _taken(self, turn_id: str) -> bool:
        return turn_id in self.episode.turns or turn_id in self._reserved

    async def outcome(self, text: str) -> Outcome:
        """The outcome that the team states, once the calls in flight have ended."""
        await self.ended()
        outcome, own = await settled(self.sample, self.episode.turns.values(), text, self.requests)
        for turn in (*quoting(self.episode.turns.values()), *filter(None, [own])):
            self.episode.turns[turn.id] = turn
        return outcome

    async def ended(self) -> None:
        """Wait for the calls in flight."""
        await asyncio.gather(*(flight.task for flight in self.flights.values()), return_exceptions=True)
