"""Episodes as a server sees them: calls with their dependencies, prompts in shared pieces, replies of known length.

A real method runs with prepared replies (recorded, or with drawn lengths), so the prompts are those that the method
builds; `shared_order` on and off are different runs with the same replies.
"""

import asyncio
import math
import random
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentark.config import build as build_config
from agentark.records import expand, read_records
from agentark.types import Completion, Message, Method, Record, Sample, Turn, UserError
from bench.parts.clock import Lengths, tokens
from bench.parts.questions import problems
from methods import method_class
from methods.llm_debate.llm_debate import LLMDebate, LLMDebateConfig

TEMPLATE_TOKENS = 5
"""Tokens that a chat template adds to a message."""
CHARS_A_TOKEN = 4.0

Given = Callable[[str], tuple[str, int]]
"""A turn's id -> its reply and number of tokens."""


@dataclass(frozen=True)
class Call:
    """A call of an episode."""

    round: int
    needs: tuple[int, ...]
    """Indices of the episode's calls that must end before this call can start."""
    prompt: tuple[tuple[int, int], ...]
    """(key of the prefix that ends here, tokens of the piece): equal keys, equal prefixes."""
    reply: tuple[int, int]
    """(key of prompt plus reply, tokens of the reply)."""

    @property
    def prompt_tokens(self) -> int:
        return sum(size for _, size in self.prompt)


Episode = tuple[Call, ...]


class _Listening:
    """A chat that answers at once, and records the calls."""

    models = frozenset({"main"})

    def __init__(self, given: Given, chars_a_token: float) -> None:
        self.calls: list[Call] = []
        self._given = given
        self._chars = chars_a_token
        self._indices: dict[str, int] = {}
        self._sizes: dict[str, int] = {}
        self._times: Counter[str] = Counter()

    def __call__(
        self, messages: Sequence[Message], *, agent: str, round: int, role: str, **_: Any
    ) -> Coroutine[Any, Any, Turn]:
        address = f"{agent}/{round}/{role}"
        again = self._times[address]
        self._times[address] += 1
        return self._answer(f"{address}#{again}" if again else address, messages, agent, round, role)

    async def _answer(self, turn_id: str, messages: Sequence[Message], agent: str, round: int, role: str) -> Turn:
        text, size = self._given(turn_id)
        key, pieces, shown = 0, [], set()
        for message in messages:
            key = hash((key, message.role))
            pieces.append((key, TEMPLATE_TOKENS))
            for part in message.parts:
                key = hash((key, part.text))
                own = self._sizes.get(part.ref or "")
                pieces.append((key, max(1, math.ceil(len(part.text) / self._chars)) if own is None else own))
                shown.add(part.ref)
        needs = tuple(sorted(index for ref, index in self._indices.items() if ref in shown))
        after = hash((hash((key, "assistant")), text))
        self._indices[turn_id] = len(self.calls)
        self._sizes[turn_id] = size
        self.calls.append(Call(round, needs, tuple(pieces), (after, size)))
        completion = Completion(text, "stop", sum(tokens for _, tokens in pieces), size, "given", 0.0)
        return Turn(id=turn_id, agent=agent, round=round, role=role, messages=tuple(messages), completion=completion)


async def episode(method: Method, sample: Sample, given: Given, chars_a_token: float = CHARS_A_TOKEN) -> Episode:
    """The calls that the method makes for this sample, in order."""
    chat = _Listening(given, chars_a_token)
    await method.run(sample, chat)
    return tuple(chat.calls)


def drawn(method: Method, count: int, lengths: Lengths, question_tokens: int, seed: int = 0) -> list[Episode]:
    """Episodes over made-up problems, reply lengths drawn per (sample, address)."""

    def given_for(sample: Sample) -> Given:
        def given(turn_id: str) -> tuple[str, int]:
            draw = random.Random(f"{seed}/{sample.id}/{turn_id}")
            # numbers differ between agents, so no debate ends early
            return f"{turn_id} of {sample.id}: \\boxed{{{draw.getrandbits(30)}}}", lengths(draw.getrandbits(48))

        return given

    async def build() -> list[Episode]:
        plain = next(iter(problems(1)))
        padding = max(0, question_tokens - tokens(plain.query) - tokens(plain.instruction)) * 4
        return [await episode(method, sample, given_for(sample)) for sample in problems(count, padding)]

    return asyncio.run(build())


def debate(agents: int, rounds: int, shared_order: bool = False) -> LLMDebate:
    return LLMDebate(LLMDebateConfig(num_agents=agents, num_rounds=rounds, shared_order=shared_order))


def recorded(
    records: Sequence[Record], shared_order: bool | None = None, reply_tokens: float | None = None
) -> list[Episode]:
    """The episodes of a results file, whose methods run again with the recorded replies.

    Args:
        shared_order: run debates with this order of answers; None: as recorded.
        reply_tokens: scale reply lengths to this mean; None: as recorded.

    Raises:
        UserError: the method of a record makes a call that was not recorded.
    """
    replies = [turn.completion.completion_tokens for record in records for turn in record.trajectory]
    mean = sum(replies) / max(1, len(replies))
    scale = 1.0 if reply_tokens is None else reply_tokens / mean
    chars = _chars_a_token(records)

    async def build() -> list[Episode]:
        episodes = []
        for record in records:
            config: Mapping[str, Any] = record.method.config
            if shared_order is not None and "shared_order" in config:
                config = {**config, "shared_order": shared_order}
            kind = method_class(record.method.name)
            turns = {turn.id: turn.completion for turn in record.trajectory}

            def given(
                turn_id: str, turns: Mapping[str, Completion] = turns, sample: str = record.id
            ) -> tuple[str, int]:
                if turn_id not in turns:
                    raise UserError(f"{sample}: its method now makes the call {turn_id}, which was not recorded")
                return turns[turn_id].text, max(1, round(turns[turn_id].completion_tokens * scale))

            try:
                episodes.append(
                    await episode(kind(build_config(kind.Config, config, record.id)), record.sample(), given, chars)
                )
            except ExceptionGroup as group:
                first: Exception = group
                while isinstance(first, ExceptionGroup):
                    first = first.exceptions[0]
                raise first from None
        return episodes

    return asyncio.run(build())


def _chars_a_token(records: Sequence[Record]) -> float:
    """Characters per token of text other than replies, chosen so that prompts have their recorded lengths."""
    characters = counted = 0
    for record in records:
        sizes = {turn.id: turn.completion.completion_tokens for turn in record.trajectory}
        for turn in record.trajectory:
            messages = expand(record, turn)
            parts = [part for message in messages for part in message.parts]
            counted += turn.completion.prompt_tokens - TEMPLATE_TOKENS * len(messages)
            counted -= sum(sizes.get(part.ref or "", 0) for part in parts)
            characters += sum(len(part.text) for part in parts if part.ref not in sizes)
    return characters / counted if counted > 0 else CHARS_A_TOKEN


def good_records(path: Path) -> list[Record]:
    """The rows of a results file without an error, in the order in which they began."""
    if not path.is_file():
        raise UserError(f"{path}: no such results file")
    records = [record for record in read_records(path) if record.error is None]
    if not records:
        raise UserError(f"{path}: no good row")
    return records
