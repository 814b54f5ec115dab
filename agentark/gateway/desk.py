"""All samples of a run: opened when first named, closed by their outcome or after too long a silence."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from msgspec import Struct, structs

from agentark import answers, golds
from agentark.engines.server import Denied
from agentark.episode import Defaults, Gate
from agentark.gateway.calls import BadRequest, Call
from agentark.gateway.sample import OnText, OpenSample, Reply
from agentark.journal import JournalEntry, calls_of
from agentark.jsonl import lines
from agentark.progress import Progress
from agentark.records import Store, index, record_in
from agentark.runner import MAX_FAULTS_IN_A_ROW, first_error
from agentark.tasks.base import BadRow
from agentark.types import (
    TEAM,
    Completion,
    Engine,
    EngineFault,
    MethodInfo,
    Record,
    RunError,
    Sample,
    SampleError,
)

STATEMENT = ("query", "gold", "choices")
NO_REPLY = Completion("", "stop", 0, 0, TEAM, 0.0)
"""Of the journal entry that opens a sample."""


class Limits(Struct, frozen=True, kw_only=True):
    """What the gateway takes at most."""

    open_samples: int
    calls: int
    """In flight, those that wait for the engine included."""
    idle: float
    """Seconds without a request after which an open sample is closed."""


@dataclass(kw_only=True)
class Desk:
    """Opens, answers and closes samples; all rows of the run come from here."""

    store: Store
    """Started."""
    samples: Sequence[Sample]
    """Of the dataset; the first says how a question of one's own is to be answered."""
    engine: Engine
    """Entered."""
    info: MethodInfo
    model: str
    """Its name, as recorded."""
    defaults: Defaults
    progress: Progress
    limits: Limits
    replay: bool
    open: dict[str, OpenSample] = field(default_factory=dict)
    stopping: bool = False

    def __post_init__(self) -> None:
        gate = Gate(self.engine.capacity)
        self._engines = {"main": (self.engine, gate)}
        self.progress.watch([gate])
        self._known = {sample.id: sample for sample in self.samples}
        self._rows, self._failed = index(self.store.path)
        self._failed_here: set[str] = set()
        self._opened = self._calls = self._faults = 0
        self._opening = asyncio.Lock()
        self._closing: dict[str, tuple[str, asyncio.Task[Record]]] = {}
        self.broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Raises what ends the run."""

    async def begin(self) -> None:
        """Open the samples that an earlier session left open, so that none of them is lost."""
        begun = [id for id in self.store.begun if id not in self._failed]
        for id in begun:
            with suppress(BadRequest):  # of a dataset that was other then: its calls stay in the journal
                await self._open(id, full=len(begun))

    # ------------------------------------------------------------ samples

    def state(self, id: str) -> str:
        """`new`, `open`, `closed` (it has its row) or `failed` (its row is an error, and it may be done again)."""
        if id in self.open:
            return "open"
        return "failed" if id in self._failed else "closed" if id in self._rows else "new"

    @property
    def left(self) -> list[str]:
        """Samples of the dataset without a good row."""
        return [id for id in self._known if id not in self._rows or id in self._failed]

    async def state_sample(self, id: str, statement: Mapping[str, Any]) -> tuple[Sample, str]:
        """(the sample, what it was until now). Opens it unless it is closed.

        Args:
            statement: query, gold and choices; nothing for a sample of the dataset.

        Raises:
            BadRequest: it states something else than was stated before, or nothing where it must.
        """
        before = self.state(id)
        if before == "closed":
            return self._row(id).sample(), before
        stated = self._stated(id, statement) if statement.get("query") is not None else None
        if stated is None and statement:
            raise BadRequest("query: is missing", param="query")
        known = await self._sample(id)
        if known is not None and stated is not None and not _agrees(known, stated, statement):
            raise BadRequest(f"the sample {id!r} was stated differently before", 409, "query", "stated_otherwise")
        opened = await self._open(id, known or stated)
        if known is None and stated is not None:
            self.store.add_call(JournalEntry(id, "", None, NO_REPLY, stated=stated))
        return opened.sample, before

    def _stated(self, id: str, statement: Mapping[str, Any]) -> Sample:
        query, choices = statement["query"], statement.get("choices")
        if not isinstance(query, str) or not query.strip():
            raise BadRequest(f"query: {query!r:.60} is not text", param="query")
        like = self.samples[0]
        if (choices is not None) != (like.choices is not None):
            has = "have none" if like.choices is None else "have some"
            raise BadRequest(f"choices: {choices!r:.60}; questions like those of {like.source} {has}", param="choices")
        if choices is not None and not (isinstance(choices, list) and all(isinstance(one, str) for one in choices)):
            raise BadRequest(f"choices: {choices!r:.60} is not a list of texts", param="choices")
        try:
            row = {"gt": statement.get("gold"), "choices": choices}
            sample = golds.with_gold(like.asking(query), row, like.answer_type)
        except BadRow as error:
            raise BadRequest(f"gold: {error}", param="gold") from None
        return structs.replace(sample, id=id)

    async def _sample(self, id: str) -> Sample | None:
        """The sample as it is known; None: it is not."""
        if id in self.open:
            return self.open[id].sample
        if id in self._known:
            return self._known[id]
        return self._row(id).sample() if id in self._rows else None

    async def _open(self, id: str, sample: Sample | None = None, full: int = 0) -> OpenSample:
        """The open sample of that id, opened if it is not.

        Args:
            full: open this many in any case.
        """
        async with self._opening:
            if id in self.open:
                self.open[id].last = asyncio.get_running_loop().time()
                return self.open[id]
            if self.state(id) == "closed":
                raise BadRequest(f"the sample {id!r} is closed: its row is written", 409, "sample", "sample_closed")
            journal = self.store.journalled(id)
            if not journal and id in self._failed:
                journal = await asyncio.to_thread(calls_of, self.store.journal_path, id)
            sample = sample or await self._sample(id) or next(
                (entry.stated for entry in journal.values() if entry.stated is not None), None
            )  # fmt: skip
            if sample is None:
                raise BadRequest(
                    f"the sample {id!r} is not of this dataset; state it with POST /agentark/samples/{id} first",
                    404, "sample", "sample_not_found",
                )  # fmt: skip
            if len(self.open) >= max(full, self.limits.open_samples):
                raise BadRequest(
                    f"{len(self.open)} samples are open (--max_open_samples); close one first", 429, "sample", "full"
                )
            opened = OpenSample(sample, self._opened, self.defaults, self._engines, self.store, self.replay, self.model)
            opened.restore(journal)
            self._opened += 1
            self.open[id] = opened
            self.progress.total += id not in self._failed_here
            return opened

    def _row(self, id: str) -> Record:
        """The row of a sample that has one."""
        with self.store.path.open("rb") as rows:
            rows.seek(self._rows[id])
            return next(record_in(line) for line in lines(rows.readline(), str(self.store.path)))

    # ------------------------------------------------------------ calls

    async def reply(self, call: Call, on_text: OnText | None) -> Reply:
        """The reply to a call.

        Raises:
            BadRequest: it cannot be answered, and why.
        """
        if self.replay and self.state(call.sample) == "closed":
            return self._replayed(call)
        if self.stopping:
            raise BadRequest("the gateway ends", 503, code="run_ended")
        opened = await self._open(call.sample)
        if call.sample in self._closing:
            raise BadRequest(f"the sample {call.sample!r} is being closed", 409, "sample", "sample_closed")
        if self._calls >= self.limits.calls:
            raise BadRequest(f"{self._calls} calls are in flight (--max_calls); try again later", 429, code="busy")
        self._calls += 1
        try:
            reply = await opened.reply(call, on_text)
        except Exception as raised:
            raise self._refusal(raised) from raised
        finally:
            self._calls -= 1
        self._faults = 0
        self.progress.call(reply.turn.completion, reply.replayed)
        return reply

    def missed(self, id: str, reply: Reply) -> None:
        """Its client is gone: keep a reply for the same call, should it be made again."""
        if id in self.open:
            self.open[id].missed(reply.turn)

    def _replayed(self, call: Call) -> Reply:
        """The recorded reply to a call of a closed sample."""
        record = self._row(call.sample)
        requests = record.info["requests"]
        for turn in record.trajectory:
            if requests.get(turn.id) == call.key:
                return Reply(turn, True)
        raise BadRequest(
            f"the sample {call.sample!r} is closed, and its row holds no such call", 409, "sample", "sample_closed"
        )

    def _refusal(self, raised: Exception) -> BadRequest:
        """A failed call as its client is told it; several in a row end the run."""
        error = first_error(raised)
        if isinstance(error, BadRequest):
            return error
        if isinstance(error, SampleError) and not isinstance(error, EngineFault):
            return BadRequest(str(error), 400, "messages", "cannot_be_answered")
        text = str(error) if isinstance(error, EngineFault | RunError) else f"{type(error).__name__}: {error}"
        if isinstance(error, Denied) and error.status == 400:  # the server lacks a field that this client wants
            return BadRequest(text, 400, code="cannot_be_answered")
        if isinstance(error, RunError):
            self._stop(error)
            return BadRequest(text, 503, code="run_ended")
        self._faults += 1
        if self._faults >= MAX_FAULTS_IN_A_ROW:
            self._stop(RunError(f"{self._faults} calls failed in a row, the last one with: {text}"))
        return BadRequest(text, 502, code="engine_fault")

    def _stop(self, error: RunError) -> None:
        if not self.broken.done():
            self.broken.set_exception(error)

    # ------------------------------------------------------------ outcomes

    async def close(self, id: str, text: str | None, error: str | None = None) -> Record:
        """Write a sample's row.

        Args:
            text: the team's answer.
            error: instead of one; the sample may then be done again.

        Raises:
            BadRequest: there is no such open sample, or its outcome was another.
        """
        if self.state(id) == "closed":
            record = self._row(id)
            if text is None or record.info["stated"] != text:
                raise BadRequest(f"the sample {id!r} is closed with another outcome", 409, "answer", "sample_closed")
            return record
        said = f"answer {text}" if text is not None else f"error {error}"
        if id not in self._closing:
            opened = await self._open(id)
            if id not in self._closing:
                task = asyncio.get_running_loop().create_task(self._close(opened, text, error))
                task.add_done_callback(lambda _: self._closing.pop(id, None))
                self._closing[id] = said, task
        before, task = self._closing[id]
        if before != said:
            raise BadRequest(f"the sample {id!r} is being closed with another outcome", 409, "answer", "sample_closed")
        try:
            return await asyncio.shield(task)
        except Exception as raised:
            raise self._refusal(raised) from raised

    async def _close(self, opened: OpenSample, text: str | None, error: str | None) -> Record:
        id = opened.sample.id
        outcome = None
        if text is not None:
            outcome = await opened.outcome(text)
        else:
            await opened.ended()
        record = opened.episode.record(self.info, self.model, self.engine.guarantee, outcome, error)
        offset = self.store.path.stat().st_size
        self.store.add(record)
        del self.open[id]
        self.progress.failed -= id in self._failed_here
        self._rows[id] = offset
        for failed in (self._failed, self._failed_here):
            (failed.discard if error is None else failed.add)(id)
        self.progress.sample(error is None, len(opened.episode.turns))
        return record

    async def watch(self) -> None:
        """Close, until cancelled, what has been silent for too long."""
        while True:
            await asyncio.sleep(min(1.0, self.limits.idle / 4))
            now = asyncio.get_running_loop().time()
            for id, opened in list(self.open.items()):
                silent = now - opened.last
                if silent >= self.limits.idle and not opened.flights and id not in self._closing:
                    await self.close(
                        id, None, f"no outcome, and no request for {self.limits.idle:g} s (--idle_timeout)"
                    )

    async def stop(self) -> None:
        """The server ends: calls that are cut off now are no client's doing."""
        self.stopping = True
        for opened in self.open.values():
            opened.stopping = True
            for flight in opened.flights.values():
                flight.task.cancel()
        for opened in list(self.open.values()):
            await opened.ended()
        await asyncio.gather(*(task for _, task in self._closing.values()), return_exceptions=True)


def _agrees(known: Sample, stated: Sample, statement: Mapping[str, Any]) -> bool:
    """Whether a statement is of a known sample."""
    if known.query not in (stated.query, statement["query"]):
        return False
    if statement.get("gold") is None:
        return True
    same = answers.quick_same(known.gt, stated.gt, known.answer_type)
    return known.gt == stated.gt or bool(same)
