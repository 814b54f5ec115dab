"""The prompt tokens that an ideal prefix cache would have saved in given calls."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, takewhile


@dataclass(frozen=True)
class Served:
    """A call as the engine saw it."""

    start: float
    end: float
    prompt: tuple[int, ...]
    reply: tuple[int, ...]
    cached: int
    """Prompt tokens the engine took from its cache."""


def _prefixes(tokens: Sequence[int], block: int) -> Iterator[int]:
    """A key for each prefix of 1, 2, ... whole blocks."""
    key = 0
    for end in range(block, len(tokens) + 1, block):
        key = hash((key, tuple(tokens[end - block : end])))
        yield key


def ideal_cached(calls: Sequence[Served], block: int = 1) -> int:
    """Prompt tokens that a boundless cache of whole blocks would have served.

    A prompt counts from the moment its call starts, a reply from its call's end. At least one token of each prompt
    has to be computed, as the model needs its output.

    Args:
        calls: calls with their times; if two start together, the earlier in the list comes first.
        block: tokens per block.
    """
    starts = [(call.start, 1, position) for position, call in enumerate(calls)]
    ends = [(call.end, 0, position) for position, call in enumerate(calls)]
    cache: set[int] = set()
    total = 0
    for _, starting, position in sorted(starts + ends):
        call = calls[position]
        if starting:
            total += block * sum(1 for _ in takewhile(cache.__contains__, _prefixes(call.prompt[:-1], block)))
            cache.update(_prefixes(call.prompt, block))
        else:
            cache.update(_prefixes(call.prompt + call.reply, block))
    return total


def occupancy(calls: Sequence[Served], slots: int) -> tuple[float, float]:
    """(share of the slots in use in steady state, drain tail in seconds).

    Steady state lasts from the first moment to the last at which all slots are full; the tail is the time after it. If
    the slots are never all full, the share is that of the whole run.
    """
    changes = sorted([(call.start, 1) for call in calls] + [(call.end, -1) for call in calls])
    levels: list[tuple[float, float, int]] = []  # from, to, calls in flight
    in_flight = 0
    for (now, change), (then, _) in pairwise(changes):
        in_flight += change
        if then > now:
            levels.append((now, then, in_flight))
    full = [(begin, end) for begin, end, level in levels if level >= slots]
    first, last = (full[0][0], full[-1][1]) if full else (levels[0][0], levels[-1][1])
    used = sum((end - begin) * level for begin, end, level in levels if first <= begin and end <= last)
    return used / ((last - first) * slots), changes[-1][0] - last
