"""Which endpoint takes the next call.

The session's own endpoint while it has room, else the least loaded one that has. An endpoint that fails rests,
twice as long each time, and is then tried with one call at a time until one succeeds. A rate limit halves what an
endpoint is given; it grows by one again after as many successes as it is given calls at once.
"""

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Generic, Literal, TypeVar

from agentark.engines.endpoints import Endpoint
from agentark.types import EngineFault, SampleError

MAX_WAIT = 300.0
"""Seconds a call waits at most for an endpoint that asked for rest; longer is an error of the call."""


class Fault(Exception):
    """A call that an endpoint failed on and that may be tried again."""

    def __init__(
        self, text: str, kind: Literal["broken", "stalled", "limited"] = "broken", retry_after: float | None = None
    ) -> None:
        super().__init__(text)
        self.kind = kind
        self.retry_after = retry_after
        """Seconds the server asked us to stay away."""


class Slot:
    """One endpoint and what is known of its state.

    Attributes:
        limit: calls it may have in flight now; halved by a rate limit, one more after `limit` successes.
        failures: broken or stalled calls since the last success; while there are any, one call goes there at a time.
        rest_until: loop time before which it gets no call.
    """

    def __init__(self, endpoint: Endpoint, rest: float, max_rest: float) -> None:
        self.endpoint = endpoint
        self.label = endpoint.label
        self.limit = endpoint.max_workers
        self.in_flight = self.failures = self._progress = 0
        self.rest_until = self._failed_at = self._limited_at = float("-inf")
        self._rest, self._max_rest = rest, max_rest

    def has_room(self, now: float) -> bool:
        return now >= self.rest_until and self.in_flight < (1 if self.failures else self.limit)

    def succeeded(self) -> None:
        self.failures = 0
        self._progress += 1
        if self._progress >= self.limit and self.limit < self.endpoint.max_workers:
            self.limit += 1
            self._progress = 0

    def failed(self, fault: Fault, started: float, now: float) -> None:
        """Calls that were under way together count as one failure."""
        if fault.kind == "limited":
            if started >= self._limited_at:
                self.limit, self._limited_at, self._progress = max(1, self.limit // 2), now, 0
        elif started >= self._failed_at:
            self._failed_at = now
            self.rest_until = max(self.rest_until, now + min(self._max_rest, self._rest * 2**self.failures))
            self.failures += 1
        if fault.retry_after is not None:
            self.rest_until = max(self.rest_until, now + fault.retry_after)


SlotT = TypeVar("SlotT", bound=Slot)


class Pool(Generic[SlotT]):
    """Hands endpoints to calls: the session's own while it has room, else the least loaded that has.

    Calls that find no room wait, lowest priority number first. (The gate's cap is the sum over all endpoints;
    what an endpoint can take now may be less.)
    """

    def __init__(self, slots: Sequence[SlotT]) -> None:
        self.slots = slots
        self._homes: dict[str, SlotT] = {}
        self._waiting: list[tuple[int, int, str, asyncio.Future[SlotT]]] = []
        self._arrivals = itertools.count()
        self._alarm: asyncio.TimerHandle | None = None

    @asynccontextmanager
    async def lease(self, session: str, priority: int) -> AsyncIterator[SlotT]:
        """A place on an endpoint; the endpoint is judged by how the block ends."""
        loop = asyncio.get_running_loop()
        slot = await self._acquire(session, priority)
        started = loop.time()
        try:
            yield slot
            slot.succeeded()
        except Fault as fault:
            slot.failed(fault, started, loop.time())
            raise
        except SampleError:
            slot.failures = 0  # it refused this call, so it is alive
            raise
        finally:
            self._release(slot)

    async def _acquire(self, session: str, priority: int) -> SlotT:
        turn: asyncio.Future[SlotT] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (priority, next(self._arrivals), session, turn))
        self._serve()
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and not turn.exception():
                self._release(turn.result())  # the place was handed over just before the cancellation
            raise

    def _release(self, slot: SlotT) -> None:
        slot.in_flight -= 1
        self._serve()

    def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        if self._alarm is not None:
            self._alarm.cancel()
        now = loop.time()
        wake = min(slot.rest_until for slot in self.slots)
        while self._waiting:
            _, _, session, turn = self._waiting[0]
            slot = None if turn.done() else self._pick(session, now)
            if slot is not None:
                slot.in_flight += 1
                turn.set_result(slot)
            elif wake - now > MAX_WAIT and not turn.done():
                names = ", ".join(slot.label for slot in self.slots)
                turn.set_exception(EngineFault(f"{names}: asked to be left alone for {wake - now:.0f} s"))
            elif not turn.done():
                break
            heapq.heappop(self._waiting)
        resting = [slot.rest_until for slot in self.slots if slot.rest_until > now]
        if self._waiting and resting:
            self._alarm = loop.call_at(min(resting), self._serve)

    def _pick(self, session: str, now: float) -> SlotT | None:
        home = self._homes.get(session)
        if home is not None and home.has_room(now):
            return home
        free = [slot for slot in self.slots if slot.has_room(now)]
        if not free:
            return None
        best = min(free, key=lambda slot: slot.in_flight / slot.limit)
        if home is None or home.failures:  # an overloaded home stays home: its prefix cache is worth coming back to
            self._homes[session] = best
        return best
