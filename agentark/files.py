"""Small files: read as one object, hashed, replaced as a whole; and the name of the manifest beside a file."""

import hashlib
import json
import os
from codecs import BOM_UTF8
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from agentark.types import UserError

T = TypeVar("T")


def manifest_of(path: Path) -> Path:
    """Where the manifest of a results, labels or training file stands."""
    return path.with_name(f"{path.name}.manifest.json")


def json_in(path: Path) -> Any:
    """The content of a JSON file, at most one value per key of an object.

    Raises:
        UserError: the file cannot be read, or is something else.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) < len(pairs):
            keys = [key for key, _ in pairs]
            raise UserError(f"{path}: key {next(key for key in keys if keys.count(key) > 1)!r} is given twice")
        return value

    try:
        return json.loads(path.read_bytes().removeprefix(BOM_UTF8), object_pairs_hook=unique)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON ({error})") from None


def json_of(path: Path) -> dict[str, Any]:
    """A JSON file holding one object. Raises UserError when it is something else."""
    value = json_in(path)
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected an object, found a {type(value).__name__}")
    return value


def struct_of(path: Path, kind: type[T], what: str) -> T:
    """A JSON file as a msgspec type.

    Args:
        what: name of such a file in the error message.

    Raises:
        FileNotFoundError: there is none. UserError: it cannot be read, or is something else.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path}: is not {what} ({error})") from None


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


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a small file as a whole, safe against kill and power loss."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)
