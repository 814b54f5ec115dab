"""JSON lines: the one reader of every file that holds an object a line.

A byte order mark and blank lines are skipped. Rows are numbered like the lines of the file, from 1.
"""

import io
import json
import os
import weakref
from array import array
from codecs import BOM_UTF8
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar, overload

import msgspec

from agentark.types import UserError

Row = TypeVar("Row")
Other = TypeVar("Other")


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


def chunks(items: Iterable[Row], size: int) -> Iterator[list[Row]]:
    """The items, `size` at a time."""
    left = iter(items)
    while chunk := list(islice(left, size)):
        yield chunk


# ---------------------------------------------------------------- rows that stay in the file


class _File:
    """A file that is open for as long as somebody reads from it, whatever its name stands for by then."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self.descriptor)


class Stored(Sequence[Row], Generic[Row]):
    """Rows of a file in memory's stead: each is read and decoded anew whenever it is asked for.

    Only the places of the rows are kept, 24 bytes a row. Slices and other choices share the open file.

    Args:
        name: of the file in error messages.
        decode: makes a row of its line.
        places: number, offset and size in bytes of every line, one after the other.
    """

    def __init__(
        self, path: Path, name: str, decode: Callable[[Line], Row], places: "array[int]", file: _File | None = None
    ) -> None:
        self.path, self.name = path, name
        self.decode = decode
        self.places = places
        self._file = file or _File(path)

    def __len__(self) -> int:
        return len(self.places) // 3

    @overload
    def __getitem__(self, position: int) -> Row: ...
    @overload
    def __getitem__(self, position: slice) -> "Stored[Row]": ...
    def __getitem__(self, position: int | slice) -> "Row | Stored[Row]":
        if isinstance(position, slice):
            return self.take(range(*position.indices(len(self))))
        return self.decode(self.line(position))

    def line(self, position: int) -> Line:
        """The line of a row; its row may be decoded elsewhere."""
        start = 3 * range(len(self))[position]
        number, offset, size = self.places[start : start + 3]
        return Line(self.path, self.name, number, offset, os.pread(self._file.descriptor, size, offset))

    def take(self, positions: Iterable[int]) -> "Stored[Row]":
        """The rows at these positions, in this order."""
        places = array("Q")
        for position in positions:
            places.extend(self.places[3 * position : 3 * position + 3])
        return self.at(places)

    def at(self, places: "array[int]") -> "Stored[Row]":
        """The rows at other places of the file."""
        return Stored(self.path, self.name, self.decode, places, self._file)

    def map(self, make: Callable[[Row], Other]) -> "Stored[Other]":
        """What a function makes of every row, whenever it is asked for."""
        return Stored(self.path, self.name, _Made(self.decode, make), self.places, self._file)


class _Made(Generic[Row, Other]):
    """A function of the row in a line; it can be sent to another process where both of its parts can."""

    def __init__(self, decode: Callable[[Line], Row], make: Callable[[Row], Other]) -> None:
        self.decode, self.make = decode, make

    def __call__(self, line: Line) -> Other:
        return self.make(self.decode(line))


class ById(Mapping[str, Row]):
    """Stored rows by their ids; each is read anew whenever it is asked for."""

    def __init__(self, rows: Stored[Row], ids: Mapping[str, int]) -> None:
        self._rows, self._ids = rows, ids

    def __getitem__(self, id: str) -> Row:
        return self._rows[self._ids[id]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._ids)

    def __len__(self) -> int:
        return len(self._ids)


def stored(path: Path, name: str, decode: Callable[[Line], Row]) -> Stored[Row]:
    """All rows of a file. Raises UserError: no such file."""
    places = array("Q")
    for line in lines(path, name):
        places.extend((line.number, line.offset, len(line.content)))
    return Stored(path, name, decode, places)


def latest(
    path: Path, name: str, id_of: Callable[[Line], str], decode: Callable[[Line], Row]
) -> tuple[Stored[Row], dict[str, int]]:
    """(the last row of every id in the order of the file, id -> position there).

    Raises:
        UserError: no such file; or what `id_of` raises.
    """
    places, ids = array("Q"), dict[str, int]()
    for line in lines(path, name):
        id = id_of(line)
        ids.pop(id, None)
        ids[id] = len(places) // 3
        places.extend((line.number, line.offset, len(line.content)))
    rows = Stored(path, name, decode, places)
    if len(ids) == len(rows):
        return rows, ids
    return rows.take(ids.values()), {id: position for position, id in enumerate(ids)}
