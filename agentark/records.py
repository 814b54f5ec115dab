"""The append-only JSONL store: records, call journal, manifest.

One run owns four files beside each other (`<output>` is `.../<method>_infer.jsonl`):

    <output>                 one Record a line; the last row of an id wins
    <output>.journal.jsonl   finished calls of unfinished samples; gone after a clean end
    <output>.manifest.json   configuration, versions and sessions
    <output>.lock            owner and engine processes (agentark/lock.py); gone after a clean end

A line is written by one `write` call, so it survives kill -9; fsync is grouped (100 ms) against power loss.
"""

import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from agentark.files import (
    append_to,
    changes,
    check_file,
    json_of,
    manifest_of,
    repair_tail,
    replacing,
    sessions_of,
    unwritable,
    write_atomically,
    writing,
)
from agentark.journal import JournalEntry
from agentark.jsonl import Line, Stored, decoded, latest, lines
from agentark.types import (
    SCHEMA,
    Message,
    Part,
    Record,
    RunError,
    Sample,
    Solution,
    Turn,
    UserError,
    digest,
)

SYNC_SECONDS = 0.1


# ---------------------------------------------------------------- trajectories


def pack(
    messages: Sequence[Message], sent: Mapping[str, tuple[Message, ...]]
) -> tuple[str | None, tuple[Message, ...]]:
    """(continues, new messages) of a call.

    Args:
        messages: the call's messages, texts filled in.
        sent: for each earlier turn, all of its messages with its reply as the last.

    Returns:
        The turn whose dialogue this call continues (None without one), and the messages after it.
    """
    for position in range(len(messages) - 1, -1, -1):
        parts = messages[position].parts
        ref = parts[0].ref if messages[position].role == "assistant" and len(parts) == 1 else None
        if ref is not None and sent.get(ref) == tuple(messages[: position + 1]):
            return ref, tuple(messages[position + 1 :])
    return None, tuple(messages)


def expand(record: Record, turn: Turn) -> list[Message]:
    """The messages of a turn exactly as the method sent them (before any truncation)."""
    turns = {other.id: other for other in record.trajectory}

    def fill(part: Part) -> Part:
        if part.ref is None:
            return part
        text = record.document if part.ref == "document" else turns[part.ref].text
        return msgspec.structs.replace(part, text=text or "")

    chain = [turn]
    while (before := chain[0].continues) is not None:
        chain.insert(0, turns[before])
    messages: list[Message] = []
    for number, one in enumerate(chain):
        if number:
            earlier = chain[number - 1]
            messages.append(Message("assistant", (Part(earlier.text, ref=earlier.id),)))
        messages += (Message(message.role, tuple(map(fill, message.parts))) for message in one.messages)
    return messages


def without_texts(turn: Turn) -> Turn:
    """The turn with every referenced text left out, as it is stored."""
    stored = tuple(
        Message(message.role, tuple(Part("", part.truncate, part.ref) if part.ref else part for part in message.parts))
        for message in turn.messages
    )
    return msgspec.structs.replace(turn, messages=stored)


def natural(text: str) -> tuple[tuple[int, str], ...]:
    """Sort key in which agent_2 comes before agent_10."""
    return tuple((int(piece), "") if piece.isdigit() else (-1, piece) for piece in re.split(r"(\d+)", text))


def turn_order(turn: Turn) -> tuple[Any, ...]:
    """Trajectories are ordered by address, never by time."""
    return (turn.round, natural(turn.agent), natural(turn.id))


def layout_response(record_solutions: Sequence[Solution], texts: Mapping[str, str]) -> str:
    """The published layout: each solution under `===== Solution k =====`, the aggregate last."""
    return "\n\n".join(f"===== Solution {solution.id} =====\n{texts[solution.turn]}" for solution in record_solutions)


# ---------------------------------------------------------------- reading


class _Key(Struct):
    id: str
    schema: int = 0
    input: str | None = None
    """Digest of the sample, in rows that are made again when it changes."""
    error: str | None = None


_key_decoder = msgspec.json.Decoder(_Key)
_decoder = msgspec.json.Decoder(Record)


def index(path: Path) -> tuple[dict[str, int], set[str]]:
    """(id -> byte offset of its last row; the ids whose last row has an error)."""
    offsets: dict[str, int] = {}
    failed: set[str] = set()
    for line in lines(path):
        key = line.decode(_key_decoder, "a record")
        offsets[key.id] = line.offset
        (failed.discard if key.error is None else failed.add)(key.id)
    return offsets, failed


def stored_records(path: Path, name: str | None = None) -> tuple[Stored[Record], dict[str, int]]:
    """(the records of a file, one per id (its last row), in the order of the file; id -> position there).

    Args:
        name: of the file in error messages; default: its path.

    Raises:
        UserError: file missing, or a row without an id. Reading a record raises it for a row that is none, or of a
            schema this version cannot read.
    """
    return latest(path, name or str(path), lambda line: line.decode(_key_decoder, "a record").id, record_in)


def record_in(line: Line) -> Record:
    """The record of a line. Raises UserError for another row, or a schema this version cannot read."""
    try:
        record = _decoder.decode(line.content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        check_schema(line.where, "schema", line.decode(_key_decoder, "a record").schema, SCHEMA)
        return line.decode(_decoder, "a record")
    check_schema(line.where, "schema", record.schema, SCHEMA)
    return record


def read_records(path: Path) -> Iterator[Record]:
    """The records of a file, one per id (its last row), in the order of the file.

    Raises:
        UserError: file missing, a row that is not a record, or a schema this version cannot read.
    """
    return iter(stored_records(path)[0])


def check_schema(where: str, key: str, value: Any, known: int) -> None:
    """Raises UserError when a row is of a version that this one cannot read."""
    if value != known:
        raise UserError(f"{where}: {key} {value!r}; this version reads [{known}]")


# ---------------------------------------------------------------- writing


_HEAD = ("schema", "id", "source", "query", "gt", "method", "model", "guarantee")
_LAYOUT = (*_HEAD, *(name for name in Record.__struct_fields__ if name not in _HEAD))


def encoded(row: Any) -> bytes:
    """A row as one line of JSON; a record's own facts stand between those of its sample, as they always have.

    Bytes are such a line already.
    """
    if isinstance(row, bytes):
        return row
    if isinstance(row, Record):
        row = {name: value for name in _LAYOUT if (value := getattr(row, name)) is not msgspec.UNSET}
    return msgspec.json.encode(row) + b"\n"


class AppendLog:
    """A JSONL file that only grows; each line is one write, fsync is left to `sync`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        repair_tail(path)
        with writing(path):
            self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self.dirty = False

    def append(self, value: Any) -> None:
        """Raises RunError when the disk does not take the line (nothing half-written stays)."""
        try:
            append_to(self._descriptor, encoded(value))
        except OSError as error:
            raise RunError(unwritable(self.path, error)) from None
        self.dirty = True

    def sync(self) -> None:
        """Raises RunError when the disk did not take it."""
        self.dirty = False
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            raise RunError(unwritable(self.path, error)) from None

    def close(self) -> None:
        try:
            self.sync()
        finally:
            os.close(self._descriptor)


TRIAL = "prepare/"
"""Comes before a sample's id where its calls serve the method's one decision for the run."""


class Store:
    """The results of one run: what is done, what is journalled, and the way to add to both.

    Opening checks and reads but writes nothing; `start` begins a session.

    Args:
        path: the results file.
        config: what decides the content of a record. A file of another configuration is refused.
        overwrite: forget what is there when the session starts.
        today: writes the configuration of an earlier session as this version does.
    """

    ended = True
    """Whether the last session came to its end: one row an id, in order, and only calls of samples that are open."""

    def __init__(
        self,
        path: Path,
        config: Mapping[str, Any],
        *,
        overwrite: bool = False,
        today: Callable[[dict[str, Any]], dict[str, Any]] = dict,
    ) -> None:
        self.path = path
        self.manifest_path = manifest_of(path)
        self.journal_path = path.with_name(path.name + ".journal.jsonl")
        self.config = json.loads(json.dumps(config))
        self._overwrite = overwrite
        self._today = today
        self.done: set[str] = set()
        self.failed: set[str] = set()
        self._inputs: dict[str, str] = {}
        self._journalled: dict[str, dict[str, JournalEntry]] = {}
        self._manifest: dict[str, Any] = {"sessions": []}
        for file in (path, self.manifest_path, self.journal_path):
            check_file(file)
        if not overwrite:
            self._open_existing()

    def _open_existing(self) -> None:
        if self.manifest_path.exists():
            self._manifest = json_of(self.manifest_path)
            try:
                stored, sessions = self._manifest["config"], self._manifest["sessions"]
                if not isinstance(stored, dict) or sessions_of(self._manifest) != sessions:
                    raise TypeError
                before = json.loads(json.dumps(self._today(stored)))
                self.ended = not sessions or "finished" in sessions[-1]
            except (ValueError, KeyError, TypeError):
                raise UserError(f"{self.manifest_path}: not a manifest; move it away or use --overwrite") from None
            if changed := changes(before, self.config, {*before, *self.config}):
                raise UserError(
                    f"{self.path}: holds results of another configuration ({changed}); "
                    "use --overwrite to replace them, or another output path"
                )
            self.config = stored
        elif self.path.exists() and self.path.stat().st_size:
            raise UserError(
                f"{self.path}: has no manifest, so it is not ours to continue; use another output path or --overwrite"
            )
        if self.path.exists():
            repair_tail(self.path)
            for key in decoded(self.path, _Key, "a record"):
                now, before = (self.done, self.failed) if key.error is None else (self.failed, self.done)
                now.add(key.id)
                before.discard(key.id)
                self._inputs.pop(key.id, None)
                if key.input is not None:
                    self._inputs[key.id] = key.input
        if self.journal_path.exists():
            repair_tail(self.journal_path)
            self.ended &= self.journal_path.stat().st_size > 0
            for entry in decoded(self.journal_path, JournalEntry, "a journal entry"):
                self.ended &= self._is_open(entry.sample)
                if entry.sample not in self.done:
                    self._journalled.setdefault(entry.sample, {})[entry.turn] = entry

    def _is_open(self, sample_id: str) -> bool:
        return sample_id not in self.done and not sample_id.startswith(TRIAL)

    def has(self, sample: Sample) -> bool:
        """Whether there is a good row of this sample as it is now."""
        return sample.id in self.done and self._inputs.get(sample.id) in (None, digest(sample))

    def start(self, session: Mapping[str, Any]) -> None:
        """Write the manifest and open the files for appending."""
        if self._overwrite:
            for path in (self.path, self.journal_path):
                path.unlink(missing_ok=True)
        self._manifest |= {"schema": SCHEMA, "file": self.path.name, "config": self.config}
        self._manifest["config_hash"] = digest(self.config)
        self._manifest["sessions"].append(dict(session))
        self._write_manifest()
        self._rows = AppendLog(self.path)
        self._calls = AppendLog(self.journal_path)
        self._closing = threading.Event()
        self._sync_error: RunError | None = None
        self._syncer = threading.Thread(target=self._sync_loop, name="fsync", daemon=True)
        self._syncer.start()

    def _sync_loop(self) -> None:
        while not self._closing.wait(SYNC_SECONDS):
            try:
                for log in (self._calls, self._rows):
                    if log.dirty:
                        log.sync()
            except RunError as error:
                self._sync_error = error
                return

    def _check_disk(self) -> None:
        if self._sync_error is not None:
            raise self._sync_error

    def journalled(self, sample_id: str) -> dict[str, JournalEntry]:
        """Finished calls of a sample, by turn id; handed out once."""
        return self._journalled.pop(sample_id, {})

    @property
    def begun(self) -> list[str]:
        """Samples with finished calls that are not handed out yet."""
        return list(self._journalled)

    def noted(self, key: str) -> Any:
        """The value that `note` kept under this key, in this session or an earlier one; None: nothing."""
        return self._manifest.get(key)

    def note(self, key: str, value: Any) -> None:
        """Keep something about the whole run in the manifest, at once."""
        self._manifest[key] = value
        self._write_manifest()

    def add_call(self, entry: JournalEntry) -> None:
        self._check_disk()
        self._calls.append(entry)

    def add(self, row: Struct | bytes) -> None:
        """Append one row, or its line; it has `id`, `schema` and `error`."""
        self._check_disk()
        self._rows.append(row)

    def close(self, order: Mapping[str, int] | None = None, **summary: Any) -> None:
        """End the session.

        Args:
            order: rank of every sample id of the dataset. Given at a clean end, it compacts the file: one row an
                id, in this order; the journal keeps only samples without a good row.
            summary: added to the session in the manifest.
        """
        self._closing.set()
        self._syncer.join()
        try:
            self._rows.close()
        finally:
            self._calls.close()
        self._manifest["sessions"][-1] |= summary
        if order is not None:
            self._compact(order)
        self._write_manifest()

    def end_killed(self, order: Mapping[str, int]) -> None:
        """End the last session as `close` would have, if it was killed when nothing was left to do."""
        *before, last = self._manifest["sessions"]
        if "finished" not in last:
            done = len(self.done) - sum(session.get("done", 0) for session in before)
            last |= {"finished": now(), "done": done, "failed": len(self.failed)}
        self._compact(order)
        self._write_manifest()

    def _compact(self, order: Mapping[str, int]) -> None:
        rows, failed = index(self.path)
        strangers = len(order)

        def place(id: str) -> tuple[Any, ...]:
            rank = order.get(id, strangers)
            return (rank,) if rank < strangers else (rank, natural(id))

        ranked = sorted(rows, key=place)
        with self.path.open("rb") as source, replacing(self.path) as target:
            for sample_id in ranked:
                source.seek(rows[sample_id])
                target.write(source.readline())
        if not self.journal_path.exists():  # killed after this, before the manifest was written
            return
        self.done = rows.keys() - failed
        decoder = msgspec.json.Decoder(JournalEntry)
        journal = (line.content for line in lines(self.journal_path))
        kept = [line for line in journal if self._is_open(decoder.decode(line).sample)]
        if kept:
            write_atomically(self.journal_path, b"".join(kept))
        else:
            self.journal_path.unlink()

    def _write_manifest(self) -> None:
        write_atomically(self.manifest_path, json.dumps(self._manifest, indent=2, ensure_ascii=False).encode() + b"\n")


def now() -> str:
    """UTC, ISO 8601, seconds."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
