"""Train a small language model from scratch to solve the chains of bench/parts/chains.py, in minutes on one core."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agentark.chat_template import rendered

VOCABULARY = 400
"""Most tokens of the vocabulary, so that it does not make up most of the model's size."""
START, END = "<|im_start|>", "<|im_end|>"
TEMPLATE = (
    f"{{% for message in messages %}}{START}{{{{ message.role }}}}\n{{{{ message.content }}}}{END}\n{{% endfor %}}"
    f"{{% if add_generation_prompt %}}{START}assistant\n{{% endif %}}"
)
WORDS = r" ?\d| ?[A-Za-z]+|\n+| ?[^\sA-Za-z\d]+"
"""A digit is a token, and so is a word with the space before it."""
BATCH, WARMUP, CHECK_EVERY = 32, 100, 50
"""Solutions per step; steps in which the learning rate rises before it falls; steps between two accuracy checks."""
CHECKED = 100
"""Held-out questions of an accuracy check."""
Row = dict[str, Any]


def make_tokenizer(rows: Sequence[Row], vocabulary: int = VOCABULARY) -> Any:
    """A tokenizer with all bytes and the words of the rows."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(WORDS), "isolated"), bytes_])
    made.decoder = decoders.ByteLevel()
    texts = [text for row in rows for text in (row["query"], *(solution["text"] for solution in row["solutions"]))]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=["<unk>", START, END], initial_alphabet=bytes_.alphabet(),
        show_progress=False,
    )  # fmt: skip
    made.train_from_iterator([*texts, "user\nassistant\n"], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token=START, eos_token=END, pad_token=END, chat_template=TEMPLATE
    )


def teach(
    folder: Path, rows: Sequence[Row], held_out: Sequence[Row], *, hidden: int, layers: int, steps: int,
    learning_rate: float, seed: int, early: tuple[Path, float] | None = None,
) -> None:  # fmt: skip
    """Train a model on the right solutions of `rows`, unless the folder holds it already.

    Args:
        hidden: H, in heads of 32; layers: many narrow layers learn this sooner than few wide ones.
        early: another folder, and the share of held-out questions answered right at which the model is saved there.

    Raises:
        SystemExit: the model never reached that share.
    """
    if (folder / "config.json").is_file():
        return
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    draw = random.Random(seed)
    tokenizer = make_tokenizer(rows)
    heads = hidden // 32
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=hidden, intermediate_size=11 * hidden // 4, num_hidden_layers=layers,
            num_attention_heads=heads, num_key_value_heads=heads, max_position_embeddings=1024,
            tie_word_embeddings=True, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip
    print(f"base: {model.num_parameters() / 1e6:.1f}M parameters", flush=True)
    right = [
        (row["query"], solution["text"]) for row in rows for solution in row["solutions"] if solution["is_correct"]
    ]
    encoded = sorted((encode(tokenizer, *pair) for pair in right), key=lambda pair: len(pair[0]))
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.98))
    for step in range(1, steps + 1):
        first = draw.randrange(max(1, len(encoded) - 4 * BATCH))  # similar lengths need little padding
        batch = draw.sample(encoded[first : first + 4 * BATCH], BATCH)
        width = max(len(ids) for ids, _ in batch)
        inputs = torch.tensor([ids + [tokenizer.pad_token_id] * (width - len(ids)) for ids, _ in batch])
        labels = torch.tensor([[-100] * start + ids[start:] + [-100] * (width - len(ids)) for ids, start in batch])
        loss = model(input_ids=inputs, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * min(step / WARMUP, 1 - step / steps)
        optimizer.step()
        optimizer.zero_grad()
        if step % CHECK_EVERY and step != steps:
            continue
        share = accuracy(model, tokenizer, held_out[:CHECKED])
        print(f"base, step {step}: loss {loss.item():.3f}, accuracy {share:.2f}", flush=True)
        if early is not None and share >= early[1]:
            save(model, tokenizer, early[0])
            early = None
    if early is not None:
        raise SystemExit(f"the model never answered {early[1]:.0%} of the held-out questions")
    save(model, tokenizer, folder)


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def prompt_of(tokenizer: Any, query: str) -> str:
    return rendered(tokenizer, [{"role": "user", "content": query}])


def encode(tokenizer: Any, query: str, text: str) -> tuple[list[int], int]:
    """(ids of prompt and solution, index where the solution begins)."""
    asked = tokenizer.encode(prompt_of(tokenizer, query), add_special_tokens=False)
    return [*asked, *tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id], len(asked)


def accuracy(model: Any, tokenizer: Any, rows: Sequence[Row]) -> float:
    """Of greedy answers."""
    import torch

    prompts = [prompt_of(tokenizer, row["query"]) for row in rows]
    batch = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False)
    with torch.no_grad():
        made = model.generate(**batch, max_new_tokens=120, do_sample=False)
    texts = tokenizer.batch_decode(made[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    return sum(text.strip().rstrip(".")[-1:] == row["gt"] for text, row in zip(texts, rows, strict=True)) / len(rows)
