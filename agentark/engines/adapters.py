"""PEFT adapters on a model: what their folders must hold, and how several of them are told apart."""

from collections.abc import Iterable
from pathlib import Path

from agentark.files import json_if_there
from agentark.types import UserError

WEIGHTS = "adapter_model.safetensors"
MOST = 1 << 16
"""Rank of an adapter, at most."""


def rank_of(folder: Path, flag: str = "--lora_path") -> int:
    """Rank of an adapter.

    Args:
        flag: that names it.

    Raises:
        UserError: it is none, or its weights are pickles, which vLLM would read.
    """
    rank = json_if_there(folder / "adapter_config.json").get("r")
    if type(rank) is not int or not 0 < rank <= MOST:
        raise UserError(f"{flag} {folder}: no adapter_config.json with a rank `r` from 1 to {MOST}")
    check_weights(folder, flag)
    return rank


def check_weights(folder: Path, flag: str = "--lora_path") -> None:
    """Raises UserError where an adapter's weights are missing, or pickles."""
    if not (folder / WEIGHTS).is_file():
        raise UserError(f"{flag} {folder}: no {WEIGHTS} in it")


def names_of(folders: Iterable[Path]) -> dict[Path, str]:
    """Names for adapters: those of their folders, with as many of the folders above as it takes to tell them apart."""
    paths = sorted({folder.expanduser().resolve() for folder in folders})
    depth = 1
    while len({path.parts[-depth:] for path in paths}) < len(paths):
        depth += 1
    return {path: "/".join(path.parts[-depth:]) for path in paths}
