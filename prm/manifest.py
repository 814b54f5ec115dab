"""`manifest.json` in a reward model's folder: what made it, and on which questions."""

import shutil
from pathlib import Path
from typing import Any

import msgspec

from agentark.files import json_of, write_atomically
from agentark.types import UserError

MANIFEST = "manifest.json"


class Manifest:
    """`manifest.json` of an output folder: what made the model in it. Written by the first process only."""

    def __init__(self, folder: Path, identity: dict[str, Any], overwrite: bool, main: bool) -> None:
        self.path = folder / MANIFEST
        self.main = main
        self.values: dict[str, Any] = {"kind": "process reward model", "config": identity, "status": "running"}
        before = json_of(self.path) if self.path.is_file() else None
        if main and before is None and folder.is_dir() and any(folder.iterdir()):
            raise UserError(f"--output_dir {folder}: is not empty and holds no run of ours; choose another folder")
        if overwrite:
            if main:
                shutil.rmtree(folder, ignore_errors=True)
        elif before is not None and before.get("config") == identity:
            self.values = before
        elif before is not None and main:
            changes = _changes(before.get("config") or {}, identity)
            raise UserError(
                f"--output_dir {folder}: holds another run ({changes:.400}); choose another folder or use "
                "--overwrite_output_dir True"
            )

    @property
    def done(self) -> bool:
        return bool(self.values["status"] == "done")

    def write(self, **values: Any) -> None:
        self.values |= values
        if self.main:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.path, msgspec.json.format(msgspec.json.encode(self.values), indent=2) + b"\n")


def _changes(before: dict[str, Any], now: dict[str, Any]) -> str:
    """What differs between two identities."""
    keys = [key for key in sorted(before.keys() | now) if before.get(key) != now.get(key)]
    return "; ".join(f"{key} was {before.get(key)!r}, is {now.get(key)!r}" for key in keys)
