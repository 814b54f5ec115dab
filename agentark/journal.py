"""A line of the journal of calls, and the calls of one sample out of it. The store writes it (agentark/records.py)."""

from pathlib import Path

from msgspec import Struct

from agentark.jsonl import decoded
from agentark.types import Completion, Message, Sample


class Asked(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What a turn holds beside its reply, for a call that no method will make again (the gateway)."""

    agent: str
    round: int
    role: str
    messages: tuple[Message, ...]
    continues: str | None = None
    error: str | None = None


class JournalEntry(Struct, frozen=True, omit_defaults=True):
    """One finished call."""

    sample: str
    turn: str
    request: str | None
    """Digest of messages and sampling parameters; a mismatch on replay is an error. None: not checked."""
    completion: Completion
    asked: Asked | None = None
    stated: Sample | None = None
    """The question itself, in the entry that opens a sample of no dataset; that entry is no call."""


def calls_of(path: Path, sample_id: str) -> dict[str, JournalEntry]:
    """Finished calls of one sample, by turn id, for one that the store has handed out already.

    Args:
        path: the journal.
    """
    entries = decoded(path, JournalEntry, "a journal entry")
    return {entry.turn: entry for entry in entries if entry.sample == sample_id}
