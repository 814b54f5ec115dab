"""Score solutions step by step, and choose the best of several.

    python -m prm.score --prm outputs/prm_gsm8k --input results/GSM8K/.../llm_debate_infer_labeled_by_rules.jsonl

As a library (GRPO uses it): `Scorer.load(folder).score([(prompt, reply), ...])`, or `score_responses` for a policy's
own token ids. One forward pass per solution; solutions of similar length share a batch.
"""

import math
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from agentark import cli
from agentark.engines.vllm import CPU_ENVIRONMENT, engine_log, root_cause
from agentark.files import check_file, write_atomically
from agentark.progress import starting
from agentark.quiet import VLLM
from agentark.rows import Question, questions
from agentark.scratch import Folder
from agentark.types import UserError
from prm.steps import Encoded, Response, StepCodec, TooLong

AGGREGATES: dict[str, Callable[[Sequence[float]], float]] = {
    "min": min,
    "product": math.prod,
    "last": lambda steps: steps[-1],
}
"""Ways to turn a solution's p(right) per step into a single score; (S,) -> number."""
MAX_TOKENS = 1 << 14
Score = Callable[[Sequence[Encoded | None]], list[list[float] | None]]


class Scorer:
    """A trained reward model, ready to score.

    Args:
        codec: the codec the model was trained with.
        model: a prm.model.RewardModel in eval mode.
        max_tokens: most tokens in a forward pass, including padding.
    """

    def __init__(self, codec: StepCodec, model: Any, max_tokens: int = MAX_TOKENS) -> None:
        self.codec = codec
        self.model = model
        self.max_tokens = max_tokens

    @classmethod
    def load(
        cls, folder: Path, device: str | None = None, dtype: str = "auto", max_tokens: int = MAX_TOKENS
    ) -> "Scorer":
        """Load a folder written by prm/finetune2.py, onto the GPU if there is one.

        Raises:
            UserError: no reward model there.
        """
        import torch

        from prm.model import load

        codec = StepCodec.load(folder)
        on = device or ("cuda" if torch.cuda.is_available() else "cpu")
        wanted = {"auto": "auto" if on.startswith("cuda") else torch.float32}
        model = load(str(folder), "--prm", dtype=wanted[dtype] if dtype in wanted else getattr(torch, dtype))
        try:
            model.to(on)
        except RuntimeError as error:
            raise UserError(f"--device {on}: cannot be used ({' '.join(str(error).split()):.200})") from None
        return cls(codec, model.requires_grad_(False).eval(), max_tokens)

    def score(self, pairs: Sequence[tuple[str, str]]) -> list[list[float] | None]:
        """p(right) of every step of each (prompt, reply); None where the reply does not fit the model."""
        return self.score_encoded([fitting(self.codec, *pair) for pair in pairs])

    def score_responses(
        self, prompts: Sequence[str], responses: Sequence[Sequence[int]], policy: Any = None
    ) -> list[tuple[list[float] | None, Response]]:
        """The same for a policy's responses, given as token ids without the prompt, with the positions of their steps.

        Args:
            policy: its tokenizer; None: the reward model's.
        """
        from prm.steps import response_steps

        tokenizer = policy or self.codec.tokenizer
        replies = [response_steps(tokenizer, ids, self.codec.settings.step_unit) for ids in responses]
        encoded = [
            fitting_steps(self.codec, prompt, reply.steps) for prompt, reply in zip(prompts, replies, strict=True)
        ]
        return list(zip(self.score_encoded(encoded), replies, strict=True))

    def score_encoded(self, sequences: Sequence[Encoded | None]) -> list[list[float] | None]:
        """p(right) at the separators of each sequence; None stays None."""
        import torch

        from prm.model import chunked

        indices = [index for index, sequence in enumerate(sequences) if sequence is not None]
        known = [sequence for sequence in sequences if sequence is not None]
        scores: list[list[float] | None] = [None] * len(sequences)
        device = next(self.model.parameters()).device
        with torch.inference_mode():
            for chunk in chunked([len(sequence.ids) for sequence in known], self.max_tokens):
                rows = [(row, end) for row, index in enumerate(chunk) for end in known[index].ends]
                width = max(len(known[index].ids) for index in chunk)
                ids = [known[index].ids + [0] * (width - len(known[index].ids)) for index in chunk]
                lengths = [len(known[index].ids) for index in chunk]
                at = torch.tensor(rows, device=device)
                logits = self.model(
                    at[:, 0], at[:, 1], torch.tensor(ids, device=device), torch.tensor(lengths, device=device)
                )["logits"]
                right = iter(logits.softmax(-1)[:, 1].tolist())
                for index in chunk:
                    scores[indices[index]] = [next(right) for _ in known[index].ends]
        return scores


def fitting(codec: StepCodec, prompt: str, reply: str) -> Encoded | None:
    """The sequence of a reply, or None if it does not fit."""
    return fitting_steps(codec, prompt, codec.steps(reply) or [""])


def fitting_steps(codec: StepCodec, prompt: str, steps: Sequence[str]) -> Encoded | None:
    """The sequence of these steps, or None if it does not fit."""
    try:
        return codec.encode(prompt, steps)
    except TooLong:
        return None


def vllm_scores(folder: Path, sequences: Sequence[Encoded | None]) -> list[list[float] | None]:
    """`Scorer.score_encoded` by vLLM's token-classification pooling, on raw logits.

    Prefix caching and chunked prefill are off: the pooler must see every position.
    """
    import torch

    from prm.model import PROJECTOR

    on_cpu = not torch.cuda.is_available()
    settings = CPU_ENVIRONMENT if on_cpu else {}
    for name, value in {**settings, **VLLM}.items():
        os.environ.setdefault(name, value)
    known = [sequence for sequence in sequences if sequence is not None]
    longest = max((len(sequence.ids) for sequence in known), default=1)
    with starting("vLLM") as phase, Folder("classifier") as classifier:
        phase("importing")
        try:
            from vllm import LLM, PoolingParams
        except ImportError as error:
            missing = error.name or "vllm"
            raise UserError(f"--engine vllm: {missing} is not installed; use --engine transformers") from None
        phase("loading")
        for file in folder.resolve().iterdir():
            if file.name != PROJECTOR:  # vLLM reads every file of weights
                Path(classifier, file.name).symlink_to(file)
        with engine_log(quiet=True) as log:
            try:
                engine = LLM(
                    model=classifier,
                    runner="pooling",
                    dtype="float32" if on_cpu else "auto",
                    enforce_eager=on_cpu,
                    max_model_len=longest,
                    max_num_batched_tokens=max(longest, MAX_TOKENS),
                    enable_prefix_caching=False,
                    enable_chunked_prefill=False,
                )
            except (RuntimeError, ValueError, OSError, TypeError, NotImplementedError) as error:
                raise UserError(f"--engine vllm: cannot serve {folder}: {root_cause(log, error)}") from error
    if log is not None:
        log.unlink(missing_ok=True)
    outputs = engine.encode(
        [{"prompt_token_ids": sequence.ids} for sequence in known],
        pooling_params=PoolingParams(use_activation=False),
        pooling_task="token_classify",
        use_tqdm=False,
    )
    right = iter(
        output.outputs.data[sequence.ends].float().softmax(-1)[:, 1].tolist()
        for sequence, output in zip(known, outputs, strict=True)
    )
    return [None if sequence is None else next(right) for sequence in sequences]


def best(scores: Sequence[Sequence[float] | None], aggregate: str) -> int | None:
    """Index of the best of n solutions, the first among equals; None if no solution has a score."""
    known = [(AGGREGATES[aggregate](steps), -index) for index, steps in enumerate(scores) if steps]
    return -max(known)[1] if known else None


def scored_row(question: Question, scores: Sequence[Sequence[float] | None]) -> dict[str, Any]:
    """A line of the output."""
    listed, rivals = [], []
    for candidate, steps in zip(question.candidates, scores, strict=True):
        totals = {name: aggregate(steps) for name, aggregate in AGGREGATES.items()} if steps else {}
        listed.append({"id": candidate.id, "verdict": candidate.verdict, "steps": steps, **totals})
        rivals.append(None if candidate.aggregate else steps)
    chosen = {name: best(rivals, name) for name in AGGREGATES}
    ids = {name: None if index is None else question.candidates[index].id for name, index in chosen.items()}
    return {"id": question.name, "scores": listed, "best": ids}


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser(prog="prm.score", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--prm", type=Path, required=True, help="folder of a reward model")
    parser.add_argument("--input", type=Path, required=True, help="results, labelled or stepwise file")
    parser.add_argument("--output", type=cli.output_file, help="default: <input>_scored.jsonl")
    parser.add_argument("--engine", choices=["transformers", "vllm"], default="transformers")
    parser.add_argument("--max_tokens", type=cli.integer(1), default=MAX_TOKENS, help="most tokens per forward pass")
    args = parser.parse_args(argv)
    output = args.output or args.input.with_name(f"{args.input.stem}_scored.jsonl")
    check_file(output)
    asked = [question for question in questions(args.input, "--input") if question.error is None]
    if args.engine == "vllm":
        codec = StepCodec.load(args.prm)
        score: Score = partial(vllm_scores, args.prm)
    else:
        scorer = Scorer.load(args.prm, max_tokens=args.max_tokens)
        codec, score = scorer.codec, scorer.score_encoded
    sequences = [
        fitting(codec, question.prompt, candidate.text) for question in asked for candidate in question.candidates
    ]
    scores = iter(score(sequences))
    rows = [scored_row(question, [next(scores) for _ in question.candidates]) for question in asked]
    write_atomically(output, b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
    left_out = sum(sequence is None for sequence in sequences)
    sys.stdout.write(
        f"{len(sequences)} solutions of {len(asked)} questions scored"
        + f", {left_out} of them too long for the model" * bool(left_out)
        + f"\nwritten to {output}\n"
    )
    return 0


if __name__ == "__main__":
    cli.entry(main)
