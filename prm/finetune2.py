"""Train a process reward model on labelled solutions.

    PYTHONPATH=$PYTHONPATH:$(pwd) python prm/finetune2.py --model_name_or_path Qwen/Qwen3-8B \
        --train_data_path results/QMSum/labeled.jsonl --output_dir outputs/prm_qmsum --fix_llm True --bf16 True

torchrun, accelerate launch or deepspeed may replace python; DeepSpeed takes `--deepspeed configs/deepspeed/zero2.json`.
All flags of transformers' TrainingArguments work besides ours (prm/settings.py). The same command continues a run,
however it was stopped.
"""

import os
import sys
from pathlib import Path

if sys.path and Path(sys.path[0]).resolve() == Path(__file__).resolve().parent:
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # else prm/evaluate.py would hide the package evaluate

from agentark import cli


def main(argv: list[str] | None = None) -> int:
    from prm.settings import parse
    from prm.training import run

    flags, notes = parse(argv)
    if os.environ.get("RANK", "0") == "0":
        for note in notes:
            say(note)
    run(flags, say)
    return 0


def say(line: str) -> None:
    """Print without delay, so that the line comes before the trainer's output."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    cli.entry(main)
