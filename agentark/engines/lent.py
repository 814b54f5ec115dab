"""An engine that one process lends to others, one after another: the steps of a study share the model it has started.

The lender answers on a Unix socket. A process that finds its path in $AGENTARK_ENGINE borrows the engine if it would
have started the same one: the same model with the same settings. A call crosses as it is, so its prompt is built, cut
and guided by the engine itself, and the records are those of a run with an engine of its own. (A chat API would lose
the choices' probabilities and the cuts of documents, and it serves no model without a chat template.)

Each message is a length of four bytes and then JSON. The lender speaks first.
"""

import asyncio
import itertools
import os
import socket
import traceback
from asyncio import StreamReader, StreamWriter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from agentark.config import Config
from agentark.types import (
    Completion,
    Engine,
    EngineFault,
    Guarantee,
    Message,
    RunError,
    SampleError,
    SamplingParams,
    UserError,
)

T = TypeVar("T")

VARIABLE = "AGENTARK_ENGINE"
"""Environment variable: path of the socket on which an engine is lent."""
PREFIX = 4
ANSWER_SECONDS = 10.0
"""Seconds in which a lender must say what it lends."""
POLL_SECONDS = 0.5
ERRORS: tuple[type[Exception], ...] = (EngineFault, SampleError, RunError, UserError)
"""The errors that cross, each before those that include it."""
GONE = "the engine of this study has ended (killed, or out of memory; logs/engine.log in its folder tells)"


class Terms(Struct, frozen=True):
    """What is lent."""

    settings: Any
    """The engine's config, as JSON."""
    name: str
    guarantee: Guarantee
    capacity: int
    context_length: int
    dtype: str | None


class _Call(Struct, frozen=True):
    number: int
    messages: tuple[Message, ...]
    params: SamplingParams
    session: str
    priority: int


class _Asked(Struct, frozen=True):
    """A call, or the number of one that nobody waits for any more."""

    call: _Call | None = None
    cancel: int | None = None


class _Reply(Struct, frozen=True):
    number: int
    completion: Completion | None = None
    error: int | None = None
    """Place of the error's class in ERRORS, where there is no completion."""
    text: str = ""


# ---------------------------------------------------------------- the lender


async def lend(engine: Engine, settings: Config, path: Path, dead: Callable[[], bool] = lambda: False) -> None:
    """Answer the calls of all who come to the socket, until cancelled.

    Args:
        engine: started.
        settings: what it was started with.
        dead: whether the engine has died; asked also while nobody calls.

    Raises:
        RunError: the engine works no more; whoever asked has been told.
    """
    lender = _Lender(engine, settings)
    server = await asyncio.start_unix_server(lender.serve, path)
    try:
        while not dead():
            await asyncio.wait([lender.failure], timeout=POLL_SECONDS)
            if lender.failure.done():
                raise lender.failure.result()
        raise RunError("the engine died while nobody asked it (out of memory, or killed)")
    finally:
        server.close()


class _Lender:
    """The lender's side of all connections."""

    def __init__(self, engine: Engine, settings: Config) -> None:
        self.failure: asyncio.Future[RunError] = asyncio.get_running_loop().create_future()
        self._engine = engine
        self._terms = Terms(
            settings.model_dump(mode="json"),
            engine.name,
            engine.guarantee,
            engine.capacity,
            engine.context_length,
            engine.dtype,
        )

    async def serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        """One connection. Calls that are open when it ends are cancelled."""
        calls: dict[int, asyncio.Task[None]] = {}
        _send(writer, self._terms)
        try:
            while (asked := await _receive(reader, _Asked)) is not None:
                if asked.call is not None:
                    calls[asked.call.number] = asyncio.create_task(self._answer(asked.call, writer))
                elif asked.cancel in calls:
                    calls[asked.cancel].cancel()
                calls = {number: task for number, task in calls.items() if not task.done()}
        finally:
            for task in calls.values():
                task.cancel()
            writer.close()

    async def _answer(self, call: _Call, writer: StreamWriter) -> None:
        try:
            made = self._engine.chat(call.messages, call.params, session=call.session, priority=call.priority)
            reply = _Reply(call.number, await made)
        except ERRORS as error:
            kind = next(place for place, kind in enumerate(ERRORS) if isinstance(error, kind))
            reply = _Reply(call.number, None, kind, str(error))
        except Exception as error:  # noqa: BLE001 - told to whoever asked, and in full in the log
            traceback.print_exc()
            reply = _Reply(call.number, None, ERRORS.index(RunError), f"{type(error).__name__}: {error}")
        with suppress(ConnectionError):
            _send(writer, reply)
            await writer.drain()
        if reply.error == ERRORS.index(RunError) and not self.failure.done():
            self.failure.set_result(RunError(reply.text))


# ---------------------------------------------------------------- the borrower


def borrowed(settings: Config) -> "LentEngine | None":
    """The engine that is lent to this process; None: there is none, or it was started with other settings.

    Raises:
        RunError: the lender is gone.
    """
    if (name := os.environ.get(VARIABLE)) is None:
        return None
    if (terms := terms_of(Path(name))) is None:
        raise RunError(GONE)
    return LentEngine(Path(name), terms) if terms.settings == settings.model_dump(mode="json") else None


def terms_of(path: Path) -> Terms | None:
    """What is lent at a socket; None: nobody answers there."""
    with suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(ANSWER_SECONDS)
        connection.connect(str(path))
        with connection.makefile("rb") as stream:
            length = int.from_bytes(stream.read(PREFIX))
            return msgspec.json.decode(stream.read(length), type=Terms) if length else None
    return None


class LentEngine:
    """See `agentark.types.Engine`. An engine of another process.

    Args:
        path: socket of the lender.
        terms: what it lends.
    """

    def __init__(self, path: Path, terms: Terms) -> None:
        self.path = path
        self.name, self.guarantee, self.dtype = terms.name, terms.guarantee, terms.dtype
        self.capacity, self.context_length = terms.capacity, terms.context_length
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Future[_Reply]] = {}

    async def __aenter__(self) -> "LentEngine":
        try:
            reader, self._writer = await asyncio.open_unix_connection(self.path)
        except OSError:
            raise RunError(GONE) from None
        self._listener = asyncio.create_task(self._listen(reader))
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._listener.cancel()
        self._writer.close()
        await asyncio.gather(self._listener, return_exceptions=True)

    async def chat(
        self, messages: Sequence[Message], params: SamplingParams, *, session: str, priority: int
    ) -> Completion:
        if self._listener.done():
            raise RunError(GONE)
        number = next(self._numbers)
        reply: asyncio.Future[_Reply] = asyncio.get_running_loop().create_future()
        self._waiting[number] = reply
        try:
            _send(self._writer, _Asked(_Call(number, tuple(messages), params, session, priority)))
            answer = await reply
        except asyncio.CancelledError:
            _send(self._writer, _Asked(cancel=number))
            raise
        finally:
            del self._waiting[number]
        if answer.error is not None:
            raise ERRORS[answer.error](answer.text)
        assert answer.completion is not None
        return answer.completion

    async def _listen(self, reader: StreamReader) -> None:
        """Hand replies to those who wait for them, until the lender is gone."""
        try:
            await _receive(reader, Terms)
            while (reply := await _receive(reader, _Reply)) is not None:
                waiting = self._waiting.get(reply.number)
                if waiting is not None and not waiting.done():
                    waiting.set_result(reply)
        finally:
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_exception(RunError(GONE))


# ---------------------------------------------------------------- messages


def _send(writer: StreamWriter, message: Struct) -> None:
    data = msgspec.json.encode(message)
    writer.write(len(data).to_bytes(PREFIX) + data)


async def _receive(reader: StreamReader, kind: type[T]) -> T | None:
    """The next message; None: the other side is gone."""
    try:
        length = int.from_bytes(await reader.readexactly(PREFIX))
        data = await reader.readexactly(length)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    return msgspec.json.decode(data, type=kind)
