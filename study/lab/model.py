"""Tiny llamas taught from scratch in minutes: a tokenizer with a token per word and digit, and the loop of teaching."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from agentark import chat_template, quiet

START, END, PAD, UNKNOWN = "<|im_start|>", "<|im_end|>", "<|pad|>", "<|unknown|>"
TEMPLATE = (
    f"{{% for message in messages %}}{START}{{{{ message.role }}}}\n{{{{ message.content }}}}{END}\n{{% endfor %}}"
    f"{{% if add_generation_prompt %}}{START}assistant\n{{% endif %}}"
)
WORDS = r"[a-j]\) |\n+| ?\\boxed\{| ?[A-Za-z]+| ?\d| ?[^\sA-Za-z\d]"
"""A word, a digit or a sign is a token, with the space before it; so are the letter of an item and a blank line."""
EVERY = 50
"""Steps between two reports."""


class Lesson(NamedTuple):
    """A dialogue, and the reply that is learnt."""

    messages: list[dict[str, str]]
    reply: str
    whole: bool = False
    """Learn from the whole dialogue, not from the reply alone: the lines of peers teach copying."""


def said(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}


def make_tokenizer(texts: Iterable[str]) -> Any:
    """A tokenizer with the words of these texts; anything else is spelled in bytes."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = sorted({word for text in ["user\nassistant\n", *texts] for word in re.findall(WORDS, text)})
    pieces = [PAD, START, END, UNKNOWN, *(f"<0x{byte:02X}>" for byte in range(256)), *words]
    scored = [(piece, -1.0) for piece in pieces]
    made = Tokenizer(models.Unigram(scored, unk_id=pieces.index(UNKNOWN), byte_fallback=True))
    made.add_special_tokens([PAD, START, END])
    made.pre_tokenizer = pre_tokenizers.Split(Regex(WORDS), "isolated")
    made.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token=START, eos_token=END, pad_token=PAD, unk_token=UNKNOWN,
        chat_template=TEMPLATE, clean_up_tokenization_spaces=False,
    )  # fmt: skip


def new_model(tokenizer: Any, *, hidden: int, layers: int, heads: int, seed: int) -> Any:
    """An untrained llama with heads of 32."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=hidden, intermediate_size=11 * hidden // 4, num_hidden_layers=layers,
            num_attention_heads=heads, num_key_value_heads=heads, head_dim=32, max_position_embeddings=2048,
            tie_word_embeddings=True, initializer_range=0.1, bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip


def encoded(tokenizer: Any, lesson: Lesson) -> tuple[list[int], int]:
    """(ids of the whole dialogue, index where the reply begins)."""
    asked = chat_template.ids(tokenizer, lesson.messages)
    reply = tokenizer.encode(lesson.reply, add_special_tokens=False)
    return [*asked, *reply, tokenizer.eos_token_id], len(asked)


def teach(
    model: Any,
    tokenizer: Any,
    batches: Iterator[Sequence[Lesson]],
    steps: int,
    *,
    adam: float,
    muon: float | None = None,
    warmup: int = 1,
    report: Callable[[int, float], None] = lambda step, loss: None,
) -> float:
    """Train a model in place; learning rates fall to zero.

    Args:
        adam: learning rate of all parameters, or of embeddings and norms alone if `muon` is that of the matrices.
        warmup: steps in which they rise.
        report: called every `EVERY` steps and at the end with the step and its loss.

    Returns:
        Mean loss of the last steps, in nats per learnt token.
    """
    import torch
    from torch.nn.functional import cross_entropy

    matrices = [value for name, value in model.named_parameters() if value.ndim == 2 and "embed" not in name]
    apart = set(map(id, matrices)) if muon is not None else set()
    others = [value for value in model.parameters() if id(value) not in apart]
    optimizers: list[Any] = [torch.optim.AdamW(others, lr=adam, betas=(0.9, 0.98), weight_decay=0.0)]
    if muon is not None:
        optimizers.append(torch.optim.Muon(matrices, lr=muon, momentum=0.95, weight_decay=0.0))
    peaks = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    losses: list[float] = []
    model.train()
    for step in range(1, steps + 1):
        lessons = next(batches)
        rows = [encoded(tokenizer, lesson) for lesson in lessons]
        firsts = [1 if lesson.whole else start for lesson, (_, start) in zip(lessons, rows, strict=True)]
        width = max(len(ids) for ids, _ in rows)
        ids = torch.tensor([ids + [tokenizer.pad_token_id] * (width - len(ids)) for ids, _ in rows])  # (B, T)
        learnt = torch.tensor(
            [[first <= at < len(ids) for at in range(1, width)] for first, (ids, _) in zip(firsts, rows, strict=True)]
        )  # (B, T - 1)
        hidden = model.model(ids).last_hidden_state[:, :-1][learnt]  # (learnt, H): other logits are not needed
        loss = cross_entropy(model.lm_head(hidden), ids[:, 1:][learnt])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            optimizer.param_groups[0]["lr"] = peak * min(step / warmup, 1 - (step - 1) / steps)
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.item())
        if step % EVERY == 0 or step == steps:
            report(step, losses[-1])
    model.eval()
    return sum(losses[-20:]) / len(losses[-20:])


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    quiet.hide_loading_bars()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
