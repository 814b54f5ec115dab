"""Keeps off the terminal what libraries say about good runs. All else they say is shown, errors above all."""

import logging
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

COLOUR = re.compile(r"\x1b\[[0-9;]*m")
NVIDIA = Path("/proc/driver/nvidia/version")
"""There where a driver is loaded."""

VLLM = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1"}
"""vLLM's own log lines, which it reads from the environment at its import."""


def no_accelerator(message: str) -> bool:
    """DeepSpeed on a machine without a GPU; where there is a driver, its not finding the GPU is news."""
    return message.startswith("Setting accelerator to CPU") and not NVIDIA.exists()


def new_head(message: str) -> bool:
    """transformers' report on a causal model that gets a new head of token classes, and nothing else."""
    report = COLOUR.sub("", message)
    rows = set(re.findall(r"^(\S+) +\| (MISSING|UNEXPECTED|MISMATCH\w*|CONVERSION\w*)", report, re.M))
    head = {("score.weight", "MISSING"), ("score.bias", "MISSING"), ("lm_head.weight", "UNEXPECTED")}
    return "ForTokenClassification LOAD REPORT" in report and bool(rows) and rows <= head


EXPECTED: dict[str, Callable[[str], bool]] = {
    "DeepSpeed": no_accelerator,
    "transformers.modeling_utils": new_head,
}
"""Logger -> says of its messages whether a good run has them."""


class _Filter(logging.Filter):
    def __init__(self, expected: Callable[[str], bool]) -> None:
        super().__init__()
        self.expected = expected

    def filter(self, record: logging.LogRecord) -> bool:
        return not self.expected(record.getMessage())


def hush() -> None:
    """Set it up; before any of these libraries is imported."""
    for name, expected in EXPECTED.items():
        logging.getLogger(name).addFilter(_Filter(expected))
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # on-policy distillation is there on purpose
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")  # in a file a bar is one line per step


def hide_loading_bars() -> None:
    """No bars of transformers over weights that are read or written; those of downloads stay."""
    from huggingface_hub.utils import enable_progress_bars
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    enable_progress_bars()
