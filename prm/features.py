"""The frozen backbone's states at the separators, computed once and read from disk in all later epochs.

One file per shard, one row per separator; `index.json` says where each sequence's rows are and which model and data
made them. Shards are mapped into memory, so neither writing nor reading needs more than one shard.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agentark.files import json_of, write_atomically
from agentark.types import UserError, digest
from prm.data import Item, collate
from prm.model import RewardModel, chunked

INDEX = "index.json"
SHARD_BYTES = 256 << 20
MIB = 1 << 20


class Features:
    """States of the sequences of a data set, by their index in it."""

    def __init__(self, folder: Path) -> None:
        from safetensors import safe_open

        index = json_of(folder / INDEX)
        self.spans: list[tuple[int, int, int]] = [tuple(span) for span in index["places"]]
        self._shards = [
            safe_open(folder / shard_name(number), framework="pt").get_slice("states")  # type: ignore[no-untyped-call]
            for number in range(index["shards"])
        ]

    def __getitem__(self, number: int) -> Any:
        """(S, H) of one sequence."""
        shard, start, count = self.spans[number]
        return self._shards[shard][start : start + count]


def shard_name(number: int) -> str:
    return f"states-{number:05d}.safetensors"


def prepare(
    model: RewardModel, items: Sequence[Item], folder: Path, device: Any, origin: str, max_tokens: int = 1 << 14,
    shard_bytes: int = SHARD_BYTES,
) -> Features:  # fmt: skip
    """The states of `items`; read from the folder if it has them for the same model and sequences, else computed.

    Args:
        origin: name of the base model; part of the key, as are the sequences.
        max_tokens: most tokens per call, including padding.
    """
    import torch

    key = digest([origin, str(next(model.backbone.parameters()).dtype), [[item.ids, item.ends] for item in items]])
    if (folder / INDEX).is_file() and json_of(folder / INDEX).get("key") == key:
        return Features(folder)
    folder.mkdir(parents=True, exist_ok=True)
    model.backbone.eval()
    spans: list[tuple[int, int, int]] = [(0, 0, 0)] * len(items)
    held: list[Any] = []
    rows = shard = 0
    with torch.inference_mode():
        for chunk in chunked([len(item.ids) for item in items], max_tokens):
            batch = {name: value.to(device) for name, value in collate([items[number] for number in chunk]).items()}
            states = model.states(batch["input_ids"], batch["lengths"], batch["rows"], batch["ends"]).cpu()
            start = 0
            for number in chunk:
                count = len(items[number].ends)
                spans[number] = (shard, rows, count)
                held.append(states[start : start + count])
                start += count
                rows += count
            if rows * states.shape[1] * states.element_size() >= shard_bytes:
                _write(held, folder / shard_name(shard))
                held, rows, shard = [], 0, shard + 1
    if held:
        _write(held, folder / shard_name(shard))
        shard += 1
    write_atomically(folder / INDEX, json.dumps({"key": key, "shards": shard, "places": spans}).encode() + b"\n")
    return Features(folder)


def _write(states: list[Any], path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    partial = path.with_suffix(".partial")
    save_file({"states": torch.cat(states).contiguous()}, partial)
    partial.replace(path)


def refuse_unfrozen(hidden: int, items: Sequence[Item], element_size: int) -> UserError:
    """Why states cannot be cached below a trained layer: it needs the states of all tokens, not only of separators."""
    tokens = sum(len(item.ids) for item in items)
    separators = sum(len(item.ends) for item in items)
    whole, ours = (count * hidden * element_size / MIB for count in (tokens, separators))
    return UserError(
        f"--cache_features: with --unfreeze_last_layer every token's state would have to be stored: {tokens} tokens x "
        f"{hidden} x {element_size} bytes = {whole:.0f} MiB, against {ours:.0f} MiB for the separators alone; "
        "leave out one of the two flags"
    )
