"""Each row of a transformers batch has its own attention and its own sampling.

transformers' continuous batching runs on the CPU too, but two of its parts do not suit us and are replaced here:

- attention: without flash-attn a batch is one dense mask over everyone's keys, so 16 prompts of 600 tokens took twice
  as long together as with `generate` one by one. `attend` shows each request its own keys only.
- sampling: all rows draw from one generator, and all sample or none. `RowSampler` gives each row its temperature, its
  choices, and noise that follows from its seed and position alone, whatever else is in the batch.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Struct

from agentark.types import digest

TAIL = 8
"""Further tokens that are decoded where a stop text is looked for."""


class Row(Struct, frozen=True):
    """How one row of the batch is sampled."""

    temperature: float
    seed: int
    prompt_tokens: int
    paths: tuple[tuple[int, ...], ...] = ()
    """Guided decoding: the only token sequences that may follow the prompt."""
    first: tuple[int, ...] = ()
    """The log-probability of each of these tokens as the first of the reply is wanted."""
    logprobs: dict[int, float] = {}
    """Filled in by the sampler, before guidance and temperature."""
    top_p: float | None = None
    """This and the following are those of `SamplingParams`."""
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    stop: tuple[str, ...] = ()

    @property
    def looks_back(self) -> bool:
        """Whether earlier tokens decide on the next."""
        return bool(self.paths or self.stop) or (self.repetition_penalty or self.presence_penalty) is not None

    def __deepcopy__(self, memo: object) -> "Row":
        return self  # transformers copies what comes with a request that it starts over


class RowSampler:
    """A logits processor after which the largest score of a row is its next token.

    The argmax of probabilities over exponential noise is a sample (the Gumbel-max trick, as torch.multinomial does it).

    Args:
        decode: tokens -> text.
        end: the token that a reply ends with after one of its stop texts.
    """

    supported_kwargs = {"row": Row}  # noqa: RUF012 -- transformers reads these two
    ignored_kwargs = ()

    def __init__(self, decode: Callable[[Sequence[int]], str], end: int) -> None:
        self._decode = decode
        self._end = end

    def fill_defaults(self, storage: Any) -> None:
        storage.zero_()

    def prepare_tensor_args(self, requests: Sequence[Any]) -> Any:
        """Keep the requests that get a token in the coming pass; the tensor they could be packed in stays empty."""
        import torch

        self._states = [request.state for request in requests]
        return torch.zeros(len(requests), dtype=torch.int32)

    def __call__(self, scores: Any, _: Any) -> Any:
        """Rewrite scores (B, V) in place; rows after the last request are padding."""
        import torch

        for scored, state in zip(scores, self._states, strict=False):
            row: Row = state.logit_processor_kwargs["row"]
            place = state.current_len() - row.prompt_tokens
            if row.first and place == 0:
                row.logprobs.update(zip(row.first, scored.log_softmax(-1)[list(row.first)].tolist(), strict=True))
            if row.looks_back:
                self._look_back(scored, row, (*state.initial_tokens, *state.generated_tokens))
            if row.temperature > 0:
                generator = torch.Generator(scored.device)
                generator.manual_seed(int(digest((row.seed, place))[:15], 16))
                noise = torch.empty_like(scored).exponential_(generator=generator)
                scored.copy_(narrowed((scored / row.temperature).softmax(-1), row) / noise)
        return scores

    def _look_back(self, scores: Any, row: Row, tokens: Sequence[int]) -> None:
        """What follows from earlier tokens, prompt included; scores (V) in place."""
        penalise(scores, row, tokens)
        reply = tokens[row.prompt_tokens :]
        if row.paths:
            keep_only(scores, sorted({path[len(reply)] for path in row.paths if path[: len(reply)] == reply}))
        if row.stop and stopped(self._decode, reply, row.stop):
            keep_only(scores, [self._end])


def penalise(scores: Any, row: Row, tokens: Sequence[int]) -> None:
    """Lower the scores (V) of tokens that were there before, in place: by a factor, and within the reply by a term."""
    if row.repetition_penalty is not None:
        seen = sorted(set(tokens))
        before = scores[seen]
        scores[seen] = (before / row.repetition_penalty).where(before > 0, before * row.repetition_penalty)
    if row.presence_penalty is not None:
        scores[sorted(set(tokens[row.prompt_tokens :]))] -= row.presence_penalty


def narrowed(probabilities: Any, row: Row) -> Any:
    """Probabilities (V) with those of unlikely tokens set to 0; the others are left as they are. In vLLM's order."""
    if row.min_p is not None:
        probabilities = probabilities.where(probabilities >= row.min_p * probabilities.max(), 0.0)
    if row.top_k:
        least = probabilities.topk(min(row.top_k, len(probabilities))).values[-1]
        probabilities = probabilities.where(probabilities >= least, 0.0)
    if row.top_p is not None:
        ranked, places = probabilities.sort(descending=True)
        before = ranked.cumsum(-1) - ranked
        beyond = before >= row.top_p * ranked.sum()
        probabilities = probabilities.index_fill(-1, places[beyond], 0.0)
    return probabilities


def keep_only(scores: Any, allowed: list[int]) -> None:
    """Leave only these tokens possible, in place."""
    kept = scores[allowed]
    scores.fill_(-float("inf"))
    scores[allowed] = kept


def stopped(decode: Callable[[Sequence[int]], str], reply: Sequence[int], stop: Sequence[str]) -> bool:
    """Whether the last tokens of a reply hold one of these texts. A character has four tokens at most."""
    tail = decode(reply[-(4 * max(map(len, stop)) + TAIL) :])
    return any(text in tail for text in stop)


def before_stop(text: str, stop: Sequence[str]) -> str:
    """The text up to the first of these."""
    places = [place for one in stop if (place := text.find(one)) >= 0]
    return text[: min(places)] if places else text


def attend(
    module: Any, query: Any, key: Any, value: Any, mask: Any, *, cache: Any, scaling: float | None = None, **given: Any
) -> tuple[Any, None]:
    """Attention of a packed batch, request by request; an entry of transformers' AttentionInterface.

    Args:
        query: (1, heads, T, D), the new tokens of all requests one after the other; `key` and `value` likewise.

    Returns:
        (1, T, heads, D), and no weights.
    """
    import torch

    if unknown := [name for name in ("softcap", "s_aux") if given.get(name) is not None]:
        raise NotImplementedError(f"its attention has {unknown[0]}, which continuous batching does not support")
    key, value = cache.update(key, value, module.layer_idx, given["read_index"], given["write_index"])
    key, value = key.transpose(0, 1)[None], value.transpose(0, 1)[None]  # (1, heads, T with the cached, D)
    ends = given["cu_seq_lens_k"]
    ends = ends["full_attention"] if isinstance(ends, dict) else ends  # windows hold the whole context, see HFEngine
    edges = given["cu_seq_lens_q"].tolist(), ends.tolist()
    attended = []
    for (start, end), (first, last) in zip(*map(itertools.pairwise, edges), strict=True):
        new, seen = end - start, last - first
        visible = None
        if new > 1:
            visible = torch.ones(new, seen, dtype=torch.bool, device=query.device).tril(seen - new)
        attended.append(
            torch.nn.functional.scaled_dot_product_attention(
                query[:, :, start:end],
                key[:, :, first:last],
                value[:, :, first:last],
                attn_mask=visible,
                scale=scaling,
                enable_gqa=True,
            )
        )
    return torch.cat(attended, 2).transpose(1, 2), None
