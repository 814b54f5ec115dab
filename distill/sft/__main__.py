"""Fine-tune a student on chosen trajectories with TRL's SFTTrainer.

    python -m distill.sft --model_name_or_path Qwen/Qwen3-0.6B --train_data_path data/gsm8k_rsft.jsonl \
        --output_dir outputs/gsm8k_rsft --learning_rate 1e-5 --num_train_epochs 3

Takes every flag of TRL's SFTConfig (`--config FILE` reads them from YAML) besides those below. The loss covers only
the completion, and the k trajectories of a question together weigh as much as a single one. The same command continues
a stopped run from its last checkpoint. The folder holds the model, metrics.jsonl, plot.png and manifest.json, whose
`train_ids` keep the evaluation from scoring the model on questions it was trained on.
"""

from pathlib import Path

from agentark import cli
from agentark.files import space_in
from distill.sft.flags import parse
from distill.sft.train import train


def main(argv: list[str] | None = None) -> int:
    ours, training = parse(argv)
    with space_in(Path(training.output_dir)):
        return train(ours, training)


if __name__ == "__main__":
    cli.entry(main)
