"""JSON lines: the one reader of every file that holds an object a line.

A byte order mark and blank lines are skipped. Rows are numbered like the lines of the file, from 1.
"""

import io
import json
from codecs import BOM_UTF8
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec

from agentark.types import UserError

Row = TypeVar("Row")


class Line(NamedTuple):
    """A line that is not blank."""

    source: Path | bytes
    name: str
    number: int
    offset: int
    """Bytes before it, a byte order mark included."""
    content: bytes

    @property
    def where(self) -> str:
        return f"{self.name}, row {self.number}"

    def decode(self, decoder: msgspec.json.Decoder[Row], what: str) -> Row:
        """The row, decoded; see `decoded`."""
        try:
            return decoder.decode(self.content)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            if shape := _shape(self.source):
                raise UserError(f"{self.name}: expected JSON lines, one object a line; found {shape}") from None
            fault = f"not {what}" if isinstance(error, msgspec.ValidationError) else "not valid JSON"
            nan = "; JSON has no NaN" if b"NaN" in self.content else ""
            raise UserError(f"{self.where}: {fault} ({error}{nan})") from None


def lines(source: Path | bytes, name: str | None = None) -> Iterator[Line]:
    """The lines of a file, or of the content of one.

    Args:
        name: of the file in error messages; default: its path.

    Raises:
        UserError: no such file.
    """
    name = str(source) if name is None else name
    if isinstance(source, Path) and not source.is_file():
        raise UserError(f"{name}: no such file")
    offset = 0
    with source.open("rb") if isinstance(source, Path) else io.BytesIO(source) as stream:
        for number, content in enumerate(stream, 1):
            skipped = len(BOM_UTF8) if offset == 0 and content.startswith(BOM_UTF8) else 0
            if content[skipped:].strip():
                yield Line(source, name, number, offset + skipped, content[skipped:])
            offset += len(content)


def _shape(source: Path | bytes) -> str | None:
    """Names the JSON that a file begins with, if that is not an object on one line."""
    content = source.read_bytes() if isinstance(source, Path) else source
    text = content.decode("utf-8-sig", "replace").strip()
    try:
        value, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return None
    if isinstance(value, list):
        return "an array"
    return "an object over several lines" if "\n" in text[:end] else None


def decoded(path: Path, kind: type[Row], what: str, name: str | None = None) -> Iterator[Row]:
    """The rows of a file of JSON lines.

    Args:
        kind: msgspec type of a row.
        what: name of such a row in the error message.
        name: as of `lines`.

    Raises:
        UserError: no such file, JSON over several lines, or a row that is not UTF-8 or not of this kind.
    """
    decoder = msgspec.json.Decoder(kind)
    return (line.decode(decoder, what) for line in lines(path, name))


def objects(source: Path | bytes, name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) of every row. Raises UserError like `decoded`."""
    decoder = msgspec.json.Decoder(dict[str, Any])
    return ((line.number, line.decode(decoder, "a JSON object")) for line in lines(source, name))
