"""Make a model for trying out a whole study in minutes: a llama of 3.2M parameters, trained for a few seconds.

    python -m study.tiny_model --output outputs/smoke_model

It learns to answer one-digit sums (ChainSum, train split) in two steps, also in a debate, and to say true or false when
asked to judge, all no better than chance. An untrained model would leave the later stages nothing to do.
"""

# ruff: noqa: T201 -- an entry script: it prints the result

import shutil
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import cast

from agentark import cli, embedded
from agentark.config import build
from agentark.files import space_in
from agentark.hub import pretrained
from agentark.judge import CHOICES, Judge, load_prompts
from agentark.tasks import get_task
from agentark.types import Chat, Sample, UserError
from methods.llm_debate import prompts as prompt
from study.lab import model
from study.lab.model import Lesson, said

BATCH = 8
PEERS = 2
"""Number of other agents whose answers it reads in a debate."""
RESULTS = 4
"""It knows only this many of the commonest results, so that its guesses are sometimes right."""
LEARNING_RATE = 3e-3
JUDGED, UPDATED = 0.2, 0.35
"""Share of the steps in which it judges, and share in which it reads the answers of others."""
CALLED_RIGHT = 0.3
"""Share of judged answers that are right; so it tends to judge "wrong", as most of its own answers are."""


def batches(samples: Sequence[Sample], draw: Random) -> Iterator[list[Lesson]]:
    """Endless examples: sums solved alone or in a debate's second round, or results to be judged."""
    prompts = load_prompts()

    def answered(sample: Sample) -> Lesson:
        return Lesson([said("user", sample.prompt)], solution(sample.gt))

    def updated(sample: Sample) -> Lesson:
        before = [solution(draw.choice(samples).gt) for _ in range(PEERS + 1)]
        peers = "".join(prompt.PEER.format(number=number) + text for number, text in enumerate(before[1:], 1))
        asked = answered(sample).messages
        heard = [said("assistant", before[0]), said("user", prompt.PEERS + peers + prompt.UPDATE)]
        return Lesson([*asked, *heard], solution(sample.gt))

    def judged(sample: Sample) -> Lesson:
        right = draw.random() < CALLED_RIGHT
        result = sample.gt if right else str(int(sample.gt) + draw.choice((-3, -2, -1, 1, 2, 3)))
        unasked = cast(Chat, None)  # only the prompts are needed here
        [asked] = Judge(prompts, sample, unasked).asking(solution(result), prompts.verdict)
        return Lesson([said("user", asked.text)], CHOICES[0] if right else CHOICES[1])

    while True:  # one kind per step: similar lengths need little padding
        [kind] = draw.choices((judged, updated, answered), (JUDGED, UPDATED, 1 - JUDGED - UPDATED))
        yield [kind(draw.choice(samples)) for _ in range(BATCH)]


def solution(result: str) -> str:
    """A reply in two steps."""
    return f"It makes {result}.\n\nThe answer is \\boxed{{{result}}}."


def teach(folder: Path, steps: int, seed: int) -> float:
    """Train the model in a folder in place. Returns the mean loss of the last steps, in nats per reply token."""
    import torch

    task = get_task("ChainSum")
    loaded = task.load("train", None, build(task.options, {"size": 150}, "ChainSum")).samples
    common = {result for result, _ in Counter(sample.gt for sample in loaded).most_common(RESULTS)}
    samples = [sample for sample in loaded if sample.gt in common]
    torch.manual_seed(seed)
    tokenizer = pretrained("AutoTokenizer", str(folder))
    made = pretrained("AutoModelForCausalLM", str(folder), dtype=torch.float32)
    loss = model.teach(made, tokenizer, batches(samples, Random(seed)), steps, adam=LEARNING_RATE)
    made.save_pretrained(folder)
    return loss


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser(prog="python -m study.tiny_model", description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--output", type=cli.output_folder, required=True, help="folder of the model; an existing model stays"
    )
    parser.add_argument("--steps", type=cli.integer(1), default=200, help=f"of {BATCH} examples")
    parser.add_argument("--seed", type=cli.integer(0), default=0, help="seed of examples and order")
    args: Namespace = parser.parse_args(argv)
    if (args.output / "config.json").is_file():
        print(f"{args.output} is there already")
        return 0
    if args.output.exists():
        raise UserError(f"--output {args.output}: is there, and no model; choose another folder")
    partial = args.output.with_name(f".{args.output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    with space_in(args.output):
        loss = teach(embedded.small_random_model(partial), args.steps, args.seed)
    partial.rename(args.output)
    print(f"{args.steps} steps, loss {loss:.2f}; written to {args.output}")
    return 0


if __name__ == "__main__":
    cli.entry(main)
