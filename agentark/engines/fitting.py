"""Fitting a prompt into the context of a server that holds the tokenizer.

The same rules as `agentark.engines.prompt.Prompter`, which has the tokenizer at hand: documents are cut in their
middle, the reply keeps at least `MIN_NEW_TOKENS`. Here the server counts a prompt (`/tokenize`), or its length is
estimated from its characters; a server's refusal corrects the estimate.
"""

import re
from collections.abc import Awaitable, Callable, Sequence

from msgspec import Struct

from agentark.cuts import apply_cuts
from agentark.engines.prompt import COARSE, MIN_NEW_TOKENS
from agentark.types import Message, SampleError, SamplingParams

Count = Callable[[Sequence[Message]], Awaitable[float]]
"""Length of a dialogue in tokens."""

CHARS_PER_TOKEN = (300.0, 100.0)
"""Characters and tokens to begin with; what servers report is added to them."""

CHARS_A_TOKEN = 4
"""Characters per token of English text, roughly; only sets how coarsely calls with choices cut documents."""

MARGIN = 1.15
"""Factor on an estimated length, to be safe."""

ROUNDS = 6
"""Most counts made to find how much of a document fits."""

GOOD_ENOUGH = 0.97
"""Once this share of the room is used, the search ends."""

_COMPLAINT = re.compile(
    r"context.{0,5}(length|size|window)|maximum (sequence|model) length|max_model_len|too (long|many tokens)"
    r"|tokens.{0,40}must be <=",
    re.IGNORECASE | re.DOTALL,
)
_CONTEXT = re.compile(r"context (?:length|size|window)\D{0,20}?(\d+)|must be <= (\d+)", re.IGNORECASE)
_PROMPT = re.compile(
    r"(?:at least )?(\d+)(?: tokens)? (?:in the messages|input tokens|tokens from the input|`inputs` tokens)"
    r"|input \((\d+) tokens\)|resulted in (\d+) tokens",
    re.IGNORECASE,
)


class Plan(Struct, frozen=True):
    """A call as it will be sent."""

    messages: Sequence[Message]
    max_tokens: int
    tokens: float
    """Length of the prompt, counted or estimated."""
    truncation: tuple[tuple[int, int], ...] | None = None


class TooLong(SampleError):
    """The server refused a call because of its length.

    Args:
        text: what it said.
        context: its context in tokens, where it said.
        prompt: the length of the prompt in tokens, where it said and counted to the end.
    """

    def __init__(self, text: str, context: int | None, prompt: int | None) -> None:
        super().__init__(text)
        self.context = context
        self.prompt = prompt


def complaint(text: str) -> TooLong | None:
    """A server's refusal as a TooLong, if it is about length."""
    if not _COMPLAINT.search(text):
        return None
    context, prompt = _CONTEXT.search(text), _PROMPT.search(text)
    counted = prompt is not None and not prompt[0].lower().startswith("at least")
    return TooLong(
        text,
        int(context[1] or context[2]) if context else None,
        int(prompt[1] or prompt[2] or prompt[3]) if prompt and counted else None,
    )


def characters(messages: Sequence[Message]) -> int:
    """Characters of a dialogue, with some for what the template adds."""
    return sum(len(message.text) + 16 for message in messages) + 16


class Fitter:
    """Fits calls into a context, and learns how many characters a token has."""

    def __init__(self) -> None:
        self._characters, self._tokens = CHARS_PER_TOKEN

    def learn(self, plan: Plan, tokens: int) -> None:
        """The length of a prompt as the server counted it."""
        self._characters += characters(plan.messages)
        self._tokens += tokens

    async def plan(
        self,
        messages: Sequence[Message],
        params: SamplingParams,
        context: int,
        count: Count | None,
        refused: tuple[Plan, TooLong] | None,
    ) -> Plan:
        """The call, cut to fit into `context` tokens.

        Args:
            count: length of a dialogue in tokens, where the server tells.
            refused: what was sent before, and the server's answer to it.

        Raises:
            SampleError: it cannot fit. (A length that is only estimated is left for the server to judge.)
        """
        told = None
        if refused is not None:
            last, refusal = refused
            told = refusal.prompt
            if told is not None:
                self._characters, self._tokens = float(characters(last.messages)), float(told)
            else:
                self._characters *= 0.75
            if refusal.context is None:
                context = min(context, int(last.tokens + last.max_tokens) * 3 // 4)
        guess = await self._estimate(messages)
        if refused is None and guess + params.max_tokens <= context:
            return Plan(messages, params.max_tokens, guess)
        documents = [part.text for message in messages for part in message.parts if part.truncate]
        room = context - max(MIN_NEW_TOKENS, min(params.max_tokens, context // 2))
        measure = count or self._estimate
        tokens = told if told is not None and not documents else await measure(messages)
        truncation = None
        if tokens > room and sum(map(len, documents)) > 0:
            grid = room * CHARS_A_TOKEN // COARSE if params.choices else 1
            truncation, tokens = await _cut(messages, documents, room, tokens, measure, grid)
            messages = apply_cuts(messages, truncation)
        left = context - int(tokens)
        if left < MIN_NEW_TOKENS and not params.choices:
            if count is not None or (told is not None and not documents):
                raise SampleError(
                    f"prompt of {int(tokens)} tokens leaves {left} of the context of {context}, "
                    f"fewer than {MIN_NEW_TOKENS}"
                )
            left = MIN_NEW_TOKENS
        return Plan(messages, min(params.max_tokens, max(1, left)), tokens, truncation)

    async def _estimate(self, messages: Sequence[Message]) -> float:
        return MARGIN * characters(messages) * self._tokens / self._characters


async def _cut(
    messages: Sequence[Message],
    documents: Sequence[str],
    room: int,
    tokens: float,
    count: Count,
    grid: int,
) -> tuple[tuple[tuple[int, int], ...], float]:
    """(cuts, tokens): as many characters of the documents as fit, found by interpolating between two counts.

    Args:
        grid: characters; what is kept is a multiple of them.
    """
    over, over_tokens = sum(map(len, documents)), tokens
    under = 0
    under_tokens = await count(apply_cuts(messages, _shares(documents, under)))
    for _ in range(ROUNDS - 2):
        if not under_tokens < GOOD_ENOUGH * room or over - under < 2:
            break
        share = (room - under_tokens) / (over_tokens - under_tokens)
        keep = under + max(1, min(over - under - 1, int((over - under) * 0.99 * share)))
        length = await count(apply_cuts(messages, _shares(documents, keep)))
        if length <= room:
            under, under_tokens = keep, length
        else:
            over, over_tokens = keep, length
    return _shares(documents, under - under % grid), under_tokens


def _shares(documents: Sequence[str], keep: int) -> tuple[tuple[int, int], ...]:
    """`keep` characters shared over the documents by length: what stays at head and tail of each."""
    total = sum(map(len, documents))
    kept = [keep * len(document) // total for document in documents]
    return tuple((share - share // 2, share // 2) for share in kept)
