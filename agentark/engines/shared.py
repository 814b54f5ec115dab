"""One engine for several runs, one after another: the model is loaded once for all methods of a command.

Every run has an event loop of its own, and an engine belongs to the loop that started it. So the engine lives in a
thread with a loop that outlasts the runs, and calls are passed on.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

from agentark.lock import RunLock
from agentark.types import Completion, Engine, Guarantee, Message, SamplingParams

T = TypeVar("T")


@contextmanager
def shared(make_engine: Callable[[RunLock], Engine]) -> Iterator[Callable[[RunLock], Engine]]:
    """A `make_engine` that gives every run the same engine, which ends with this context."""
    engine = SharedEngine(make_engine)
    with ExitStack() as stack:
        stack.push(engine.close)
        yield engine.of


class SharedEngine:
    """See `agentark.types.Engine`. Started by the first run that needs it, ended by `close`."""

    name: str
    guarantee: Guarantee
    capacity: int
    context_length: int
    dtype: str | None = None

    def __init__(self, make_engine: Callable[[RunLock], Engine]) -> None:
        self._make_engine = make_engine
        self._engine: Engine | None = None
        self._started = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def of(self, lock: RunLock) -> "SharedEngine":
        """The engine for one run; its lock file names the processes, whoever started them."""
        if self._engine is None:
            self._engine = self._make_engine(lock)
            self._thread.start()
        elif self._started:
            lock.note_engine()
        return self

    def close(self, *exc: object) -> None:
        """End the engine, if a run has started it. `exc`: type, value and traceback of what ended the runs."""
        if self._engine is None:
            return
        if self._started:
            asyncio.run_coroutine_threadsafe(self._engine.__aexit__(*exc), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def __aenter__(self) -> "SharedEngine":
        assert self._engine is not None
        if not self._started:
            engine = await self._there(self._start())
            self.name, self.guarantee = engine.name, engine.guarantee
            self.capacity, self.context_length, self.dtype = engine.capacity, engine.context_length, engine.dtype
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Nothing: the next run goes on with the engine."""

    async def chat(
        self, messages: Sequence[Message], params: SamplingParams, *, session: str, priority: int
    ) -> Completion:
        assert self._engine is not None
        return await self._there(self._engine.chat(messages, params, session=session, priority=priority))

    async def _start(self) -> Engine:
        assert self._engine is not None
        await self._engine.__aenter__()
        self._started = True
        return self._engine

    async def _there(self, call: Coroutine[Any, Any, T]) -> T:
        """Await something in the engine's loop; cancelling it here cancels it there."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(call, self._loop))
