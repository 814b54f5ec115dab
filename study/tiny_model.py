"""A model for trying out a whole study in minutes: an untrained llama of 3.2M parameters, taught for a few seconds.

    python -m study.tiny_model --output outputs/smoke_model

It learns to answer one-digit sums (ChainSum, train split) in two steps, also in a debate, and to say true or false when
it is asked to judge, all no better than chance. An untrained one would give no stage after the first anything to do.
"""

# ruff: noqa: T201 -- an entry script: it prints what it made

import shutil
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any, NamedTuple, cast

from agentark import chat_template, cli, embedded
from agentark.config import build
from agentark.hub import pretrained
from agentark.judge import CHOICES, Judge, load_prompts
from agentark.tasks import get_task
from agentark.types import Chat, Sample, UserError
from methods.llm_debate import prompts as prompt

BATCH = 8
PEERS = 2
"""Whose answers it has read in a debate."""
RESULTS = 4
"""It knows only the commonest results, this many, so that its guesses are sometimes right."""
LEARNING_RATE = 3e-3
JUDGED, UPDATED = 0.2, 0.35
"""Shares of the steps in which it judges, and in which it has read the answers of others."""
CALLED_RIGHT = 0.3
"""Share of these that it is to call right; so it leans to calling them wrong, as most of its own answers are."""


class Example(NamedTuple):
    messages: list[dict[str, str]]
    reply: str


def batches(samples: Sequence[Sample], draw: Random) -> Iterator[list[Example]]:
    """Without end: sums worked out, alone or in a debate's second round, or somebody's results judged."""
    prompts = load_prompts()

    def answered(sample: Sample) -> Example:
        return Example([_said("user", sample.prompt)], solution(sample.gt))

    def updated(sample: Sample) -> Example:
        before = [solution(draw.choice(samples).gt) for _ in range(PEERS + 1)]
        peers = "".join(prompt.PEER.format(number=number) + text for number, text in enumerate(before[1:], 1))
        asked = answered(sample).messages
        heard = [_said("assistant", before[0]), _said("user", prompt.PEERS + peers + prompt.UPDATE)]
        return Example([*asked, *heard], solution(sample.gt))

    def judged(sample: Sample) -> Example:
        right = draw.random() < CALLED_RIGHT
        result = sample.gt if right else str(int(sample.gt) + draw.choice((-3, -2, -1, 1, 2, 3)))
        unasked = cast(Chat, None)  # only the words are of use here
        [asked] = Judge(prompts, sample, unasked).asking(solution(result), prompts.verdict)
        return Example([_said("user", asked.text)], CHOICES[0] if right else CHOICES[1])

    while True:  # a kind a step: of like length, so that there is little padding
        [kind] = draw.choices((judged, updated, answered), (JUDGED, UPDATED, 1 - JUDGED - UPDATED))
        yield [kind(draw.choice(samples)) for _ in range(BATCH)]


def _said(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}


def solution(result: str) -> str:
    """A reply in two steps."""
    return f"It makes {result}.\n\nThe answer is \\boxed{{{result}}}."


def teach(folder: Path, steps: int, seed: int) -> float:
    """Train the model in a folder in place. Returns the mean loss of the last steps, nats per token of the replies."""
    import torch
    from torch.nn.functional import cross_entropy

    task = get_task("ChainSum")
    loaded = task.load("train", None, build(task.options, {"size": 150}, "ChainSum")).samples
    common = {result for result, _ in Counter(sample.gt for sample in loaded).most_common(RESULTS)}
    samples = [sample for sample in loaded if sample.gt in common]
    torch.manual_seed(seed)
    tokenizer = pretrained("AutoTokenizer", str(folder))
    model = pretrained("AutoModelForCausalLM", str(folder), dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95))
    source = batches(samples, Random(seed))
    losses: list[float] = []
    for step in range(steps):
        rows = [_encoded(tokenizer, example) for example in next(source)]
        width = max(len(ids) for ids, _ in rows)
        ids = torch.tensor([ids + [tokenizer.pad_token_id] * (width - len(ids)) for ids, _ in rows])  # (B, T)
        learnt = torch.tensor([[start <= at < len(ids) for at in range(1, width)] for ids, start in rows])  # (B, T - 1)
        hidden = model.model(ids).last_hidden_state[:, :-1][learnt]  # (replies' tokens, H): most logits are not needed
        loss = cross_entropy(model.lm_head(hidden), ids[:, 1:][learnt])
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * (1 - step / steps)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    model.save_pretrained(folder)
    last = losses[-20:]
    return sum(last) / len(last)


def _encoded(tokenizer: Any, example: Example) -> tuple[list[int], int]:
    """(ids of the dialogue, where the reply begins)."""
    asked = chat_template.ids(tokenizer, example.messages)
    reply = tokenizer.encode(example.reply, add_special_tokens=False)
    return [*asked, *reply, tokenizer.eos_token_id], len(asked)


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser(prog="python -m study.tiny_model", description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--output", type=Path, required=True, help="folder of the model; a model that is there already stays"
    )
    parser.add_argument("--steps", type=cli.integer(1), default=200, help=f"of {BATCH} examples")
    parser.add_argument("--seed", type=cli.integer(0), default=0, help="of examples and order")
    args: Namespace = parser.parse_args(argv)
    if (args.output / "config.json").is_file():
        print(f"{args.output} is there already")
        return 0
    if args.output.exists():
        raise UserError(f"--output {args.output}: is there, and no model; choose another folder")
    partial = args.output.with_name(f".{args.output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    loss = teach(embedded.small_random_model(partial), args.steps, args.seed)
    partial.rename(args.output)
    print(f"{args.steps} steps, loss {loss:.2f}; written to {args.output}")
    return 0


if __name__ == "__main__":
    cli.entry(main)
