"""Teach a student on its own samples, with a teacher that has read what a team said (on-policy distillation).

    python -m distill.opd --model_name_or_path Qwen/Qwen3-0.6B --train_data_path results/.../labels.jsonl \
        --output_dir outputs/gsm8k_opd --context transcript --divergence forward_kl

The student answers; the teacher, the same model with the team's correct solutions in its prompt (or --teacher MODEL),
gives its probabilities at every token of that answer, and the student moves towards them. Takes every flag of TRL's
trainer: of SDFTConfig with --teacher context, of DistillationConfig with another model. The same command continues a
stopped run from its last checkpoint.

Exit code beyond those of every script: 3 if a bound of --stops was crossed; the model is saved as it was then.
"""

from pathlib import Path

from agentark import cli
from agentark.files import space_in
from distill.opd.flags import parse
from distill.opd.train import train


def main(argv: list[str] | None = None) -> int:
    ours, training = parse(argv)
    with space_in(Path(training.output_dir)):
        return train(ours, training)


if __name__ == "__main__":
    cli.entry(main)
