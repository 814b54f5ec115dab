"""Messages -> token ids, for the engines that hold the tokenizer themselves (vllm, hf).

When a prompt does not fit, the parts marked
`truncate="middle"` are shortened; the cut is recorded so that the text as sent can be rebuilt.
"""

import asyncio
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

from msgspec import Struct
from pydantic import Field

from agentark.chat_template import rendered
from agentark.config import Config
from agentark.cuts import apply_cuts, ends
from agentark.thinking import ends_open, split_thinking
from agentark.types import Completion, EngineFault, Message, Part, SampleError, SamplingParams, UserError

MIN_NEW_TOKENS = 64
"""A call that cannot have this many new tokens is an error of its sample."""

THREADS = max(1, min(4, len(os.sched_getaffinity(0)) - 1))
"""Tokenising runs beside the event loop (a 15k-token prompt takes 50 ms); one core stays with the loop."""

COARSE = 16
"""Calls with choices keep a multiple of 1/COARSE of the context of their documents: candidates of unlike length that
are judged against one document then mostly see the same cut, and share the prefix up to where they differ."""

TAIL = 64
"""Characters at the end of a prompt that decide how what follows is tokenised."""

logger = logging.getLogger(__name__)


class LocalConfig(Config):
    """Settings of every engine that holds the model itself."""

    model: str
    """Hub id or local folder."""
    served_name: str
    """The model's name in records (never a local path)."""
    max_model_len: int | None = None
    """Tokens of context; None: the model's own."""
    lora_path: Path | None = None
    """Folder of a PEFT adapter."""
    adapters: dict[str, Path] = Field(default_factory=dict)
    """Name -> folder of those that calls ask for; nobody asks for `lora_path`, which is there for all others."""
    sharing: int = Field(1, ge=1)
    """Engines of the run, all of this kind; they share what memory there is for keys and values."""
    enable_thinking: bool | None = None
    """None: the template's own default."""
    chat_template: bool = True
    """False for base models: messages are sent as plain text."""
    timeout: float | None = None
    """Seconds one call may take, waiting inside the engine included; None: as long as it needs."""

    def answering(self, adapter: str | None) -> str:
        """Name in records of who answers."""
        return self.served_name if adapter is None else f"{self.served_name}@{adapter}"


class Prompt(Struct, frozen=True):
    """A call, ready for the model."""

    token_ids: list[int]
    max_tokens: int
    truncation: tuple[tuple[int, int], ...] | None
    thinking: bool
    """The template ended inside an open thought."""
    choice_ids: tuple[int, ...] | None = None
    """First token of each choice, where `choice_logprobs` asks for them and no two are the same."""


class Prompter:
    """Applies the chat template, counts, truncates, and splits thinking from replies.

    Args:
        chat_template: False for base models: a lone message is sent as it is, a dialogue with its roles as plain text.
    """

    def __init__(
        self,
        tokenizer: Any,
        context_length: int,
        enable_thinking: bool | None = None,
        chat_template: bool = True,
    ) -> None:
        if context_length < 2 * MIN_NEW_TOKENS:
            raise UserError(f"--max_model_len {context_length}: too small for any call (at least {2 * MIN_NEW_TOKENS})")
        self.tokenizer = tokenizer
        self.context_length = context_length
        self.enable_thinking = enable_thinking
        self._templated = chat_template and tokenizer.chat_template is not None
        self._bare = not chat_template
        self._plain_roles = self._templated and not self._takes_all_roles()
        if chat_template and tokenizer.chat_template is None:
            logger.warning("the model has no chat template: messages are sent as plain text")
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is not None:
            backend.no_truncation()
            backend.no_padding()
        self._backend = backend
        self._threads = ThreadPoolExecutor(THREADS if backend is not None else 1, thread_name_prefix="tokenize")
        self._offsets = lru_cache(maxsize=32)(self._token_offsets)
        self._first_ids = lru_cache(maxsize=32)(self._first_tokens)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def build(self, messages: Sequence[Message], params: SamplingParams) -> Prompt:
        """Render and tokenise off the event loop. Raises SampleError when the prompt cannot fit."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self.build_sync, messages, params)

    def build_sync(self, messages: Sequence[Message], params: SamplingParams) -> Prompt:
        thinking = self.enable_thinking if params.enable_thinking is None else params.enable_thinking
        if params.choices or params.schema:  # guidance begins at once
            thinking = False
        text = self._render(messages, thinking)
        token_ids = self._encode(text)
        truncation = None
        reserve = max(MIN_NEW_TOKENS, min(params.max_tokens, self.context_length // 2))
        documents = [part for message in messages for part in message.parts if part.truncate]
        excess = len(token_ids) + reserve - self.context_length
        budget = sum(len(self._offsets(part.text)) for part in documents) if excess > 0 else 0
        while excess > 0 and budget > 0:
            budget = max(0, budget - excess - 4)
            if params.choices:
                budget -= budget % (self.context_length // COARSE)
            truncation = self._cuts(documents, budget)
            text = self._render(apply_cuts(messages, truncation), thinking)
            token_ids = self._encode(text)
            excess = len(token_ids) + reserve - self.context_length
        left = self.context_length - len(token_ids)
        if left < MIN_NEW_TOKENS and not params.choices:
            raise SampleError(
                f"prompt of {len(token_ids)} tokens leaves {left} of the context of {self.context_length}, "
                f"fewer than {MIN_NEW_TOKENS}"
            )
        ids = self._first_ids(text[-TAIL:], params.choices) if params.choices and params.choice_logprobs else None
        return Prompt(token_ids, min(params.max_tokens, left), truncation, ends_open(text), ids)

    def completion(self, text: str, prompt: Prompt, params: SamplingParams, **fields: Any) -> Completion:
        """A Completion from the model's raw text, with the cuts and bounds of its prompt.

        Raises:
            EngineFault: it is none of the choices that decoding was guided to.
        """
        reply, reasoning = split_thinking(text, prompt.thinking)
        if params.choices and reply not in params.choices:
            raise EngineFault(f"guided decoding gave {reply!r}, not one of {list(params.choices)}")
        return Completion(
            text=reply,
            reasoning=reasoning,
            prompt_tokens=len(prompt.token_ids),
            max_tokens=prompt.max_tokens if prompt.max_tokens < params.max_tokens else None,
            truncation=prompt.truncation,
            **fields,
        )

    def _render(self, messages: Sequence[Message], thinking: bool | None) -> str:
        turns = [{"role": message.role, "content": message.text} for message in messages]
        if self._bare and len(turns) == 1:
            return turns[0]["content"]
        if not self._templated:
            return "".join(f"{turn['role'].capitalize()}: {turn['content']}\n\n" for turn in turns) + "Assistant:"
        return rendered(self.tokenizer, alternating(turns) if self._plain_roles else turns, thinking=thinking)

    def _takes_all_roles(self) -> bool:
        """Whether the template takes a system message and two user messages in a row (Gemma's and Mistral's don't)."""
        from jinja2 import TemplateError

        try:
            rendered(self.tokenizer, [{"role": role, "content": "x"} for role in ("system", "user", "user")])
        except TemplateError:
            logger.warning("the chat template wants user and assistant in turn: system text goes with the user's")
            return False
        return True

    def _encode(self, text: str) -> list[int]:
        return self._ids(text, special=not self._templated)  # a template writes its own special tokens

    def _ids(self, text: str, special: bool) -> list[int]:
        if self._backend is not None:
            # encode_batch gives up the GIL while it works, encode does not
            ids: list[int] = self._backend.encode_batch_fast([text], add_special_tokens=special)[0].ids
            return ids
        return list(self.tokenizer.encode(text, add_special_tokens=special))

    def _token_offsets(self, text: str) -> list[tuple[int, int]]:
        """Character spans of the tokens of a document."""
        if self._backend is None:
            raise UserError("documents can only be truncated with a fast tokenizer")
        return list(self._backend.encode_batch([text], add_special_tokens=False)[0].offsets)

    def _first_tokens(self, tail: str, choices: tuple[str, ...]) -> tuple[int, ...] | None:
        """The token each choice begins with after a prompt that ends in `tail`; None when two share one."""
        before = self._ids(tail, special=False)
        first = []
        for choice in choices:
            after = self._ids(tail + choice, special=False)
            joined = after[: len(before)] != before  # the end of the prompt and the choice would be one token
            first.append((self._ids(choice, special=False) if joined else after[len(before) :])[0])
        return tuple(first) if len(set(first)) == len(first) else None

    def _cuts(self, documents: Sequence[Part], budget: int) -> tuple[tuple[int, int], ...]:
        """Share `budget` tokens over the documents by length; characters kept at head and tail of each."""
        lengths = [len(self._offsets(part.text)) for part in documents]
        cuts = []
        for part, length in zip(documents, lengths, strict=True):
            keep = budget * length // max(1, sum(lengths))
            cuts.append(ends(part.text, self._offsets(part.text), keep))
        return tuple(cuts)


def alternating(turns: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """The dialogue without system messages and without two of a role in a row: their texts are joined."""
    merged: list[dict[str, str]] = []
    for turn in turns:
        role = "user" if turn["role"] == "system" else turn["role"]
        if merged and merged[-1]["role"] == role:
            merged[-1] = {"role": role, "content": f"{merged[-1]['content']}\n\n{turn['content']}"}
        else:
            merged.append({"role": role, "content": turn["content"]})
    return merged
