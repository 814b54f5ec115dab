"""Files: read as one object, hashed, put into their place as a whole; and the name of the manifest beside a file."""

import hashlib
import json
import os
from collections.abc import Iterable
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

from agentark.types import UserError


def manifest_of(path: Path) -> Path:
    """Where the manifest of a results, labels or training file stands."""
    return path.with_name(f"{path.name}.manifest.json")


def json_of(path: Path) -> dict[str, Any]:
    """A JSON file holding one object. Raises UserError when it is something else."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error})") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected an object, found a {type(value).__name__}")
    return value


def json_if_there(path: Path) -> dict[str, Any]:
    """`json_of`, empty where there is no such file."""
    return json_of(path) if path.is_file() else {}


def changes(before: dict[str, Any], now: dict[str, Any], keys: Iterable[str]) -> str:
    """Which of these keys have another value now, in words; empty where none has."""
    other = (key for key in sorted(keys) if before.get(key) != now.get(key))
    return "; ".join(f"{key} was {before.get(key)!r}, now {now.get(key)!r}" for key in other)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class Pending(AbstractContextManager["Pending"]):
    """A file that is written beside its place row by row, and put there as a whole; else nothing of it stays.

    Raises:
        OSError: it cannot be written; so do `write` and `place`.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        self._stream = self._temporary.open("wb")
        self._hash = hashlib.sha256()

    @property
    def sha256(self) -> str:
        """Of the content so far, hex."""
        return self._hash.hexdigest()

    def write(self, data: bytes) -> None:
        self._stream.write(data)
        self._hash.update(data)

    def place(self) -> None:
        """Put the file into its place, safe against kill and power loss."""
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()
        self._temporary.replace(self.path)

    def __exit__(self, *exc: object) -> None:
        with suppress(OSError):
            self._stream.close()
        self._temporary.unlink(missing_ok=True)


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a small file as a whole, safe against kill and power loss."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)
