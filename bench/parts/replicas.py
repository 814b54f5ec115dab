"""A discrete-event model of vLLM replicas: continuous batching, chunked prefill, KV memory, prefix cache.

A step of a replica, with B sequences decoding over K tokens of context and c prompt tokens, takes

    base + per_sequence B + per_context K + per_prompt c        seconds

and gives every sequence one token. Between two events (a prompt is done, a reply is done, a call arrives) B and c
are constant, so one formula covers many steps: nothing is simulated token by token.

Simplified: a step may be cut at an event; a call holds memory for its whole reply from the start, so nothing is ever
preempted; a prefix can be shared as soon as its first owner is admitted; the queue of a replica is by sample order.
"""

import heapq
import itertools
import math
from collections import Counter, OrderedDict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from agentark.types import UserError
from bench.parts.episodes import Call, Episode

Schedule = Literal["ours", "lockstep"]


@dataclass(frozen=True)
class Speed:
    """Speed and capacity of a replica, in seconds and tokens."""

    base: float
    per_sequence: float
    per_context: float
    per_prompt: float
    kv_tokens: int
    max_sequences: int
    chunk: int = 2048
    """Most tokens per step."""
    block: int = 16
    """Tokens per block of the prefix cache."""


@dataclass(eq=False)
class Job:
    """A sample's call in progress."""

    order: int
    index: int
    call: Call
    submitted: float = 0.0
    finished: float = 0.0
    cached: int = 0
    left: float = 0.0
    """Prompt tokens still to compute."""


@dataclass
class Run:
    """The figures of a simulated run."""

    seconds: float
    jobs: list[Job]

    @property
    def prompt(self) -> int:
        return sum(job.call.prompt_tokens for job in self.jobs)

    @property
    def cached(self) -> int:
        return sum(job.cached for job in self.jobs)


class Cache:
    """KV memory: pinned pieces of running calls, and other pieces that are dropped when least recently used."""

    def __init__(self, capacity: int) -> None:
        self._free = capacity
        self._sizes: dict[tuple[int, int], int] = {}
        self._pins: dict[tuple[int, int], int] = {}
        self._idle: OrderedDict[tuple[int, int], None] = OrderedDict()
        self._idle_tokens = 0

    def admit(self, order: int, call: Call) -> int | None:
        """Make room and pin. Returns the number of cached prompt tokens, or None if there is no room yet."""
        pieces = [((order, key), size) for key, size in (*call.prompt, call.reply)]
        held = itertools.takewhile(lambda piece: piece[0] in self._sizes, pieces[:-1])
        cached = sum(size for _, size in held)
        fresh = sum(size for key, size in dict(pieces).items() if key not in self._sizes)
        taken = sum(self._sizes[key] for key in {key for key, _ in pieces} if key in self._idle)
        if fresh > self._free + self._idle_tokens - taken:
            return None
        for key in dict.fromkeys(key for key, _ in pieces):
            if key in self._idle:
                del self._idle[key]
                self._idle_tokens -= self._sizes[key]
            self._pins[key] = self._pins.get(key, 0) + 1
        while fresh > self._free:
            key, _ = self._idle.popitem(last=False)
            size = self._sizes.pop(key)
            self._idle_tokens -= size
            self._free += size
        for key, size in pieces:
            if key not in self._sizes:
                self._sizes[key] = size
                self._free -= size
        return cached

    def release(self, order: int, call: Call) -> None:
        """Unpin; the end of a dialogue is dropped before its beginning."""
        for key, _ in reversed(list(dict.fromkeys((*call.prompt, call.reply)))):
            full = (order, key)
            self._pins[full] -= 1
            if not self._pins[full]:
                del self._pins[full]
                self._idle[full] = None
                self._idle_tokens += self._sizes[full]


@dataclass(eq=False)
class Replica:
    """One server."""

    speed: Speed
    now: float = 0.0
    steps: float = 0.0
    """Decode steps so far; the step at which a sequence ends is known when it begins."""
    in_flight: int = 0
    _context: float = 0.0
    _decoding: list[tuple[float, int, Job]] = field(default_factory=list)
    _prefill: deque[Job] = field(default_factory=deque)
    _waiting: list[tuple[int, int, Job]] = field(default_factory=list)
    _arrivals: Iterator[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        self._cache = Cache(self.speed.kv_tokens)

    def submit(self, job: Job, now: float) -> None:
        if now > self.now:
            self._move(now, self._steps_in(now - self.now) if self._decoding or self._prefill else 0.0)
        job.submitted = now
        self.in_flight += 1
        heapq.heappush(self._waiting, (job.order, next(self._arrivals), job))
        self._admit()

    def next_event(self) -> float:
        """Time when a prompt or a reply will be done; infinity if nothing is running."""
        steps = self._steps_to_event()
        return self.now + self._duration(steps) if steps is not None else math.inf

    def fire(self) -> Job | None:
        """Go to the next event. Returns the call that ends with it, if any."""
        steps = self._steps_to_event()
        assert steps is not None
        by_prompt = bool(self._prefill) and steps == self._prompt_steps()
        self._move(self.now + self._duration(steps), steps)
        if by_prompt:
            job = self._prefill.popleft()
            # the prompt's last step gives the first token
            heapq.heappush(self._decoding, (self.steps + job.call.reply[1] - 1, next(self._arrivals), job))
            self._context += job.call.prompt_tokens
            return None
        _, _, job = heapq.heappop(self._decoding)
        self._context -= job.call.prompt_tokens + job.call.reply[1]
        if not self._decoding:
            self._context = 0.0  # remove rounding errors
        self._cache.release(job.order, job.call)
        self.in_flight -= 1
        job.finished = self.now
        self._admit()
        return job

    def _admit(self) -> None:
        while self._waiting and len(self._decoding) + len(self._prefill) < self.speed.max_sequences:
            job = self._waiting[0][2]
            cached = self._cache.admit(job.order, job.call)
            if cached is None:
                if not self._decoding and not self._prefill:
                    size = job.call.prompt_tokens + job.call.reply[1]
                    raise UserError(
                        f"a call of {size} tokens does not fit into the KV memory of a replica ({self.speed.kv_tokens})"
                    )
                return
            heapq.heappop(self._waiting)
            block = self.speed.block
            job.cached = min(cached, job.call.prompt_tokens - 1) // block * block
            job.left = float(job.call.prompt_tokens - job.cached)
            self._prefill.append(job)

    # a run of steps: B, c constant, K grows by B per step

    def _pace(self) -> tuple[float, float]:
        """(seconds of the next step, extra seconds of each further step)."""
        beside = self._chunk() if self._prefill else 0.0
        speed, decoding = self.speed, len(self._decoding)
        fixed = speed.base + speed.per_sequence * decoding + speed.per_prompt * beside
        return fixed + speed.per_context * self._context, speed.per_context * decoding

    def _chunk(self) -> float:
        return float(max(self.speed.block, self.speed.chunk - len(self._decoding)))

    def _duration(self, steps: float) -> float:
        first, growth = self._pace()
        return steps * first + growth * steps * steps / 2

    def _steps_in(self, seconds: float) -> float:
        first, growth = self._pace()
        if growth == 0.0:
            return seconds / first
        return (math.sqrt(first * first + 2 * growth * seconds) - first) / growth

    def _prompt_steps(self) -> float:
        return max(0.0, self._prefill[0].left) / self._chunk()

    def _steps_to_event(self) -> float | None:
        ends = [self._prompt_steps()] if self._prefill else []
        if self._decoding:
            ends.append(max(0.0, self._decoding[0][0] - self.steps))
        return min(ends, default=None)

    def _move(self, to: float, steps: float) -> None:
        self.now = to
        if self._decoding:
            self.steps += steps
            self._context += len(self._decoding) * steps
        if self._prefill:
            self._prefill[0].left -= steps * self._chunk()


class Cluster:
    """The runner's side: open samples, the gate, and a home replica per sample.

    Args:
        cap: calls in flight per replica; cap x replicas samples are open.
        schedule: `lockstep`: all samples are open, and a round of all of them ends before the next begins.
    """

    def __init__(self, episodes: Sequence[Episode], speed: Speed, replicas: int, cap: int, schedule: Schedule) -> None:
        self.replicas = [Replica(speed) for _ in range(replicas)]
        self._episodes = episodes
        self._cap = cap
        self._lockstep = schedule == "lockstep"
        self._ready: list[tuple[int, int, int, Job]] = []  # round under lockstep, sample order, arrival
        self._arrivals = itertools.count()
        self._homes: dict[int, Replica] = {}
        self._left: dict[int, list[int]] = {}
        self._calls_left: dict[int, int] = {}
        self._events: list[tuple[float, int, int]] = []
        self._versions = [0] * replicas
        self._rounds: Counter[int] = Counter()
        self._next = 0
        self.done: list[Job] = []

    def run(self) -> Run:
        if self._lockstep:
            self._rounds = Counter(call.round for episode in self._episodes for call in episode)
        window = len(self._episodes) if self._lockstep else self._cap * len(self.replicas)
        while self._next < min(window, len(self._episodes)):
            self._open()
        self._dispatch(0.0)
        now = 0.0
        while self._events:
            now, version, number = heapq.heappop(self._events)
            if version != self._versions[number]:
                continue
            job = self.replicas[number].fire()
            if job is not None:
                self._dispatch(now)  # the gate lets another call in before the sample has its next call ready
                self._finish(job)
                self._dispatch(now)
            self._schedule(number)
        return Run(now, self.done)

    def _open(self) -> None:
        order = self._next
        self._next += 1
        calls = self._episodes[order]
        self._left[order] = [len(call.needs) for call in calls]
        self._calls_left[order] = len(calls)
        for index, call in enumerate(calls):
            if not call.needs:
                self._queue(Job(order, index, call))

    def _queue(self, job: Job) -> None:
        first = job.call.round if self._lockstep else 0
        heapq.heappush(self._ready, (first, job.order, next(self._arrivals), job))

    def _finish(self, job: Job) -> None:
        self.done.append(job)
        calls, left = self._episodes[job.order], self._left[job.order]
        for index, call in enumerate(calls):
            if job.index in call.needs:
                left[index] -= 1
                if not left[index]:
                    self._queue(Job(job.order, index, call))
        self._calls_left[job.order] -= 1
        if self._lockstep:
            self._rounds[job.call.round] -= 1
        if not self._calls_left[job.order]:
            self._homes.pop(job.order, None)
            if self._next < len(self._episodes):
                self._open()

    def _dispatch(self, now: float) -> None:
        while self._ready:
            first, order, _, job = self._ready[0]
            if self._lockstep and any(left for round, left in self._rounds.items() if round < first):
                return
            home = self._homes.get(order)
            if home is None or home.in_flight >= self._cap:
                best = min(self.replicas, key=lambda replica: replica.in_flight)
                if best.in_flight >= self._cap:
                    return
                home = self._homes.setdefault(order, best) if home is None else best
            heapq.heappop(self._ready)
            home.submit(job, now)
            self._schedule(self.replicas.index(home))

    def _schedule(self, number: int) -> None:
        self._versions[number] += 1
        when = self.replicas[number].next_event()
        if when < math.inf:
            heapq.heappush(self._events, (when, self._versions[number], number))


def simulate(
    episodes: Sequence[Episode], speed: Speed, replicas: int = 1, cap: int = 256, schedule: Schedule = "ours"
) -> Run:
    """Run the episodes, in order, on a cluster."""
    return Cluster(episodes, speed, replicas, cap, schedule).run()


def work(episode: Episode, speed: Speed) -> float:
    """Fewest seconds of a replica for an episode: full batches, and no prefix computed twice."""
    seconds = 0.0
    seen: set[int] = set()
    for call in episode:
        for key, size in call.prompt:
            if key not in seen:
                seen.add(key)
                seconds += size * speed.per_prompt
        seen.add(call.reply[0])
        steps = call.reply[1] - 1
        seconds += steps * (speed.base / speed.max_sequences + speed.per_sequence)
        seconds += speed.per_context * steps * (call.prompt_tokens + steps / 2)
    return seconds


def chain(episode: Episode, speed: Speed) -> float:
    """Fewest seconds of an episode, alone on a replica with everything cached."""
    ends: list[float] = []
    for call in episode:
        steps = call.reply[1] - 1
        alone = steps * (speed.base + speed.per_sequence + speed.per_context * (call.prompt_tokens + steps / 2))
        ends.append(alone + max((ends[index] for index in call.needs), default=0.0))
    return max(ends, default=0.0)
