"""The body of an answer: bounded, and where it is a stream of server-sent events, told while it comes in.

A stream is read a second time once it is whole: `folded` makes of it the body that the server would have sent without
streaming, so that every reply is read by the same code.
"""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import msgspec
from msgspec import Struct

DATA = b"data:"
DONE = b"[DONE]"


class _Delta(Struct, frozen=True):
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None


class _Choice(Struct):
    index: int = 0
    delta: _Delta = _Delta()
    finish_reason: str | None = None


class _Event(Struct):
    choices: list[_Choice] = []
    usage: Any = None
    error: Any = None


_decoder = msgspec.json.Decoder(_Event)


class Told:
    """What one call tells of its reply while it comes in.

    Args:
        on_raw: is given all of the content so far, with every piece.
        masked: hides a key in it.
    """

    def __init__(self, on_raw: Callable[[str], None], masked: Callable[[str], str]) -> None:
        self._on_raw = on_raw
        self._masked = masked
        self._line = b""
        self._content = ""

    @property
    def begun(self) -> bool:
        return bool(self._content)

    def add(self, piece: bytes) -> None:
        """Bytes of the body as they come in; what is no event is left to `folded`."""
        *lines, self._line = (self._line + piece).split(b"\n")
        for line in lines:
            if (event := _event(line)) is None:
                continue
            for choice in event.choices:
                if choice.index == 0 and choice.delta.content:
                    self._content += choice.delta.content
                    self._on_raw(self._masked(self._content))


_telling: ContextVar[Told | None] = ContextVar("telling", default=None)


@contextmanager
def telling(told: Told | None) -> Iterator[None]:
    """Requests inside this context ask for a stream, and tell it."""
    before = _telling.set(told)
    try:
        yield
    finally:
        _telling.reset(before)


def streamed() -> bool:
    """Whether requests are to ask for a stream."""
    return _telling.get() is not None


def bounded(stream: Any, limit: int) -> Any:
    """The body of an answer, as a stream that ends in an error beyond `limit` bytes, and is told where one listens."""
    import httpx2

    told = _telling.get()

    class Bounded(httpx2.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            size = 0
            async for piece in stream:
                size += len(piece)
                if size > limit:
                    raise OverflowError(f"its answer is longer than {limit} bytes")
                if told is not None:
                    told.add(piece)
                yield piece

        async def aclose(self) -> None:
            await stream.aclose()

    return Bounded()


def folded(body: str) -> str | bytes:
    """The body of an answer that was not streamed; one that is no stream comes back as it is.

    Raises:
        msgspec.DecodeError: the stream broke off, or tells of an error.
    """
    if not streamed() or not body.lstrip().startswith("data:"):
        return body
    message: dict[str, str] = {}
    finish, usage = None, None
    for line in body.encode().split(b"\n"):
        event = _event(line)
        if event is None:
            continue
        if event.error is not None:
            raise msgspec.DecodeError(f"an error in the stream: {event.error!r:.200}")
        usage = event.usage if event.usage is not None else usage
        for choice in event.choices:
            if choice.index != 0:
                continue
            finish = choice.finish_reason or finish
            for name in ("content", "reasoning", "reasoning_content"):
                if (piece := getattr(choice.delta, name)) is not None:
                    message[name] = message.get(name, "") + piece
    if finish is None:
        raise msgspec.DecodeError("the stream broke off")
    return msgspec.json.encode({"choices": [{"message": message, "finish_reason": finish}], "usage": usage})


def _event(line: bytes) -> _Event | None:
    """The event of a line; None: it has none that can be read."""
    data = line.strip().removeprefix(DATA).strip()
    if not line.startswith(DATA) or data == DONE:
        return None
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
