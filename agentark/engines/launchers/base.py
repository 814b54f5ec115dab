"""An engine over servers that a launcher starts, watches and ends: `OpenAIEngine` with their life around it."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol, TypeVar

from agentark.engines.endpoints import Endpoint
from agentark.engines.openai import OpenAIConfig, OpenAIEngine
from agentark.types import Completion, Guarantee, Message, SamplingParams

T = TypeVar("T")

EngineConfig = Callable[[tuple[Endpoint, ...]], OpenAIConfig]
"""The settings of the openai engine, once the endpoints are known."""


class Launcher(Protocol):
    """Something that can have servers running."""

    name: str

    async def start(self) -> OpenAIEngine:
        """Bring the servers up. Returns the engine that talks to them, not yet entered.

        Raises:
            UserError: it cannot be done as asked.
        """
        ...

    async def watch(self, engine: OpenAIEngine) -> None:
        """Watch the servers until cancelled. Raises RunError when none is left."""
        ...

    async def stop(self) -> None:
        """End all that `start` began, even if it failed halfway."""
        ...


class LaunchedEngine:
    """See `agentark.types.Engine`; `capacity` and `context_length` are known once it is entered."""

    def __init__(self, launcher: Launcher) -> None:
        self.launcher = launcher
        self.name = f"openai/{launcher.name}"
        self.guarantee: Guarantee = "engine"
        self.capacity = 1
        self.context_length = 0
        self.dtype: str | None = None

    async def __aenter__(self) -> "LaunchedEngine":
        try:
            self._engine = await self.launcher.start()
            await self._engine.__aenter__()
        except BaseException:
            await self.launcher.stop()
            raise
        self.guarantee, self.capacity = self._engine.guarantee, self._engine.capacity
        self.context_length = self._engine.context_length
        self._watch = asyncio.create_task(self.launcher.watch(self._engine))
        return self

    async def __aexit__(self, *exc: object) -> None:
        try:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
            await self._engine.__aexit__(*exc)
        finally:
            await self.launcher.stop()

    async def chat(
        self, messages: Sequence[Message], params: SamplingParams, *, session: str, priority: int
    ) -> Completion:
        if self._watch.done():
            self._watch.result()  # raises what ended it
        return await self._engine.chat(messages, params, session=session, priority=priority)

    async def stream(
        self,
        messages: Sequence[Message],
        params: SamplingParams,
        on_text: Callable[[str], None],
        *,
        session: str,
        priority: int,
    ) -> Completion:
        """See `agentark.episode.Streaming`."""
        if self._watch.done():
            self._watch.result()  # raises what ended it
        return await self._engine.stream(messages, params, on_text, session=session, priority=priority)


async def finished(work: Callable[[], T]) -> T:
    """Run blocking work in a thread; a cancellation waits for its end, so that it can be undone."""
    task = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        with suppress(Exception):
            await task
        raise
