"""The samples as files that a page opened from disk can load piece by piece.

    samples/index.js          one short row a sample, by columns, for lists and filters
    samples/chunk-<n>.js      the samples in full, some CHUNK bytes together
    samples/words-<key>.js    word -> samples it occurs in, by the word's beginning: the search

A page from disk may not fetch, so every piece is a script that hands a JSON text to `AgentArk.receive`; the text is
parsed as data and never evaluated.
"""

import re
import tempfile
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise, repeat
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from agentark.evaluation import Graded
from agentark.files import writing
from agentark.labels import LabelledSolution, LabelRow
from agentark.records import natural
from agentark.steps import reply_spans
from agentark.types import SANDBOX, Message, Record, Turn
from eval.team.debate import Sampled

CHUNK = 512 * 1024
"""Bytes after which a chunk is closed: read and parsed in a few milliseconds."""
PREVIEW = 160
"""Characters of the question in a list."""
POSTINGS = 2_000_000
"""Words of samples that are held in memory, 16 MB."""
LONGEST_WORD = 40
"""Characters of a word that count in the search."""
_CJK = "\u3040-\u30ff\u3400-\u9fff"
WORD = re.compile(rf"[{_CJK}]|[^\W_{_CJK}]+")
"""The page splits a query by the same rule (static/samples.js): letters and digits; CJK characters one by one."""

VERDICTS = ("right", "wrong", "null", "error")
CORRECTIVE, CORRUPTED, TRUNCATED, VOTE_ENOUGH, VOTE_LOST = 1, 2, 4, 8, 16
"""Bits of a row's flags. The last two: the first round's vote was right, and the answer is right or wrong."""


def words(text: str) -> set[str]:
    return {word[:LONGEST_WORD] for word in WORD.findall(text.lower())}


def shard(word: str) -> str:
    """The piece of the index that holds a word: by its first two characters, so that beginnings can be searched."""
    head = word[:2]
    if head.isascii():
        return head if len(head) == 2 else f"{head}_"
    return f"u{ord(word[0]) % 32}"


def escaped(text: bytes) -> bytes:
    """JSON as it stands in a string in single quotes; it has no raw line ends."""
    return text.replace(b"\\", b"\\\\").replace(b"'", b"\\'")


def script(name: str, parts: Iterable[bytes]) -> Iterator[bytes]:
    """A piece, the JSON text in `parts`, as a script."""
    yield b"AgentArk.receive('" + name.encode() + b"','"
    yield from map(escaped, parts)
    yield b"');\n"


class Column:
    """Values in a file, one a line, in JSON."""

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 -- closed with the column

    def append(self, value: Any) -> None:
        self._file.write(msgspec.json.encode(value) + b"\n")

    def __iter__(self) -> Iterator[Any]:
        return map(msgspec.json.decode, self._lines())

    def parts(self) -> Iterator[bytes]:
        """The JSON array of all values."""
        before = b"["
        for line in self._lines():
            yield before + line.rstrip()
            before = b","
        yield b"]" if before == b"," else b"[]"

    def _lines(self) -> Iterator[bytes]:
        self._file.seek(0)
        return iter(self._file)

    def close(self) -> None:
        self._file.close()


class Words:
    """Word -> the samples it occurs in, as differences: written aside by shard whenever too much is in memory.

    Args:
        folder: of the files written aside; they are removed at the end.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: dict[str, array[int]] = {}
        self._size = 0
        self._shards: dict[str, None] = {}
        """In the order in which they first occur."""

    def add(self, word: str, number: int) -> None:
        self._open.setdefault(word, array("L")).append(number)
        self._size += 1
        if self._size >= POSTINGS:
            self._put_aside()

    def _put_aside(self) -> None:
        parts: dict[str, list[bytes]] = defaultdict(list)
        for word, numbers in self._open.items():
            parts[shard(word)].append(msgspec.json.encode((word, list(numbers))) + b"\n")
        for key, lines in parts.items():
            self._shards.setdefault(key)
            with self._aside(key).open("ab") as stream:
                stream.writelines(lines)
        self._open, self._size = {}, 0

    def _aside(self, key: str) -> Path:
        return self._folder / f".words-{key}"

    def finished(self) -> Iterator[tuple[str, dict[str, list[int]]]]:
        """(shard, word -> samples); rising numbers as differences, which are shorter."""
        self._put_aside()
        for key in self._shards:
            words: dict[str, list[int]] = {}
            with self._aside(key).open("rb") as stream:
                for word, numbers in map(msgspec.json.decode, stream):
                    words.setdefault(word, []).extend(numbers)
            self._aside(key).unlink()
            yield key, {word: [now - before for before, now in pairwise((0, *of))] for word, of in words.items()}


COLUMNS = ("run", "id", "verdict", "flags", "question", "gold", "answer", "tokens", "chunk")


class Writer:
    """Takes sample after sample and writes the pieces; rows of the index wait in files too.

    Args:
        folder: of the pieces; exists.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.columns = {name: Column(folder) for name in COLUMNS}
        self._words = Words(folder)
        self._open: dict[str, msgspec.Raw] = {}
        self._size = 0
        self._chunks = 0
        self._samples = 0

    def __len__(self) -> int:
        return self._samples

    def add(self, run: int, record: Record, full: Mapping[str, Any], verdict: str, flags: int) -> None:
        """One sample.

        Args:
            full: the result of `detail`.
            verdict: one of VERDICTS.
        """
        number = len(self)
        self._samples += 1
        answer = record.final_answer
        row = {
            "run": run,
            "id": record.id,
            "verdict": VERDICTS.index(verdict),
            "flags": flags,
            "question": record.query[:PREVIEW],
            "gold": record.gt[:PREVIEW],
            "answer": None if answer is None else answer[:PREVIEW],
            "tokens": sum(stats.completion_tokens for stats in record.token_stats.values()),
            "chunk": self._chunks,
        }
        for name, value in row.items():
            self.columns[name].append(value)
        for word in sorted(words(" ".join(_texts(record)))):  # a set has another order in every process
            self._words.add(word, number)
        encoded = msgspec.json.encode(full)
        self._open[str(number)] = msgspec.Raw(encoded)
        self._size += len(encoded)
        if self._size >= CHUNK:
            self._close_chunk()

    def _close_chunk(self) -> None:
        if not self._open:
            return
        self._write(f"chunk-{self._chunks}", [msgspec.json.encode(self._open)])
        self._open, self._size, self._chunks = {}, 0, self._chunks + 1

    def finish(self, runs: Sequence[Mapping[str, Any]]) -> None:
        """Write the last pieces, and the index."""
        self._close_chunk()
        shards = []
        for key, content in self._words.finished():
            self._write(f"words-{key}", [msgspec.json.encode(content)])
            shards.append(key)
        self._write("index", self._index(runs, sorted(shards)))

    def _index(self, runs: Sequence[Mapping[str, Any]], shards: Sequence[str]) -> Iterator[bytes]:
        yield b'{"runs":' + msgspec.json.encode(list(runs)) + b',"columns":'
        for before, (name, column) in zip((b"{", *repeat(b",", len(COLUMNS) - 1)), self.columns.items(), strict=True):
            yield before + msgspec.json.encode(name) + b":"
            yield from column.parts()
        yield b'},"words":' + msgspec.json.encode(shards) + b',"verdicts":' + msgspec.json.encode(VERDICTS) + b"}"

    def _write(self, name: str, parts: Iterable[bytes]) -> None:
        path = self.folder / f"{name}.js"
        with writing(path), path.open("wb") as stream:
            stream.writelines(script(name, parts))

    def close(self) -> None:
        """Forget the columns."""
        for column in self.columns.values():
            column.close()


def _texts(record: Record) -> list[str]:
    said = [text for turn in record.trajectory for text in (turn.text, turn.completion.reasoning)]
    return [text for text in (record.id, record.query, record.gt, record.final_answer, record.error, *said) if text]


# ---------------------------------------------------------------- one sample in full


class StepScores(Struct, frozen=True):
    """A reward model's p(right) of the steps of one solution."""

    solution: int
    scores: list[float]
    verdict: bool | None = None
    """Verdict on the solution, as in the scorer's input."""


def _in_order(record: Record) -> list[str]:
    """Its agents as they begin to speak; those of one round by name."""
    first: dict[str, int] = {}
    for turn in record.trajectory:
        first[turn.agent] = min(turn.round, first.get(turn.agent, turn.round))
    return sorted(first, key=lambda agent: (first[agent], natural(agent)))


def detail(
    record: Record, row: LabelRow | None, seen: Sampled | None, grade: Graded | None, scores: Sequence[StepScores] = ()
) -> dict[str, Any]:
    """Everything the page shows of a sample. Each text is stored once; a turn's messages refer to other turns.

    Args:
        row, seen, grade, scores: facts about it beside the record.
    """
    labelled = {solution.id: solution for solution in row.solutions} if row else {}
    by_turn = {solution.turn: solution for solution in record.solutions}
    scored = {steps.solution: steps.scores for steps in scores}
    several = len({turn.completion.model for turn in record.trajectory} - {SANDBOX}) > 1
    turns = []
    for turn in record.trajectory:
        solution = by_turn.get(turn.id)
        label = labelled.get(solution.id) if solution else None
        is_last = solution is not None and solution is record.solutions[-1]
        turns.append(
            _turn(turn)
            | {
                "model": turn.completion.model if several else None,
                "verdict": _verdict(turn, seen, label, is_last),
                "answer": solution.answer if solution else seen.answers.get((turn.agent, turn.round)) if seen else None,
                "solution": solution.id if solution else None,
                "by": label.by if label else None,
                "p": label.p_correct if label else None,
                "note": label.note if label else None,
                "steps": _marks(turn.text, scored.get(solution.id) if solution else None, label),
            }
        )  # fmt: skip
    return {
        "id": record.id,
        "query": record.query,
        "instruction": record.instruction,
        "document": record.document,
        "choices": record.choices,
        "gold": record.gt,
        "references": record.references,
        "tag": record.tag,
        "answer": record.final_answer,
        "error": record.error,
        "seconds": record.seconds,
        "tokens": record.token_stats,
        "parse_failures": record.parse_failures,
        "info": record.info,
        "figures": grade.figures if grade else None,
        "agents": _in_order(record),
        "paths": seen.paths if seen else {},
        "turns": turns,
    }


def _turn(turn: Turn) -> dict[str, Any]:
    done = turn.completion
    return {
        "id": turn.id,
        "agent": turn.agent,
        "round": turn.round,
        "role": turn.role,
        "text": turn.text,
        "reasoning": done.reasoning,
        "finish": done.finish_reason,
        "prompt": done.prompt_tokens,
        "cached": done.cached_tokens,
        "completion": done.completion_tokens,
        "seconds": done.seconds,
        "continues": turn.continues,
        "messages": [_message(message) for message in turn.messages],
    }


def _message(message: Message) -> dict[str, Any]:
    parts = [{"ref": part.ref} if part.ref else {"text": part.text} for part in message.parts]
    return {"role": message.role, "parts": parts}


def _verdict(turn: Turn, seen: Sampled | None, label: LabelledSolution | None, is_last: bool) -> bool | None:
    """The verdict on a turn: of its label, else of the round; for the method's own answer, the verdict on that."""
    if label is not None:
        return label.verdict
    if seen is None:
        return None
    known = seen.verdicts.get((turn.agent, turn.round))
    return seen.final if is_last and known is None else known


def _marks(text: str, scores: Sequence[float] | None, label: LabelledSolution | None) -> list[dict[str, Any]]:
    """Steps to be coloured: their spans (in UTF-16 units, as the page counts), p(right), and the judge's label.

    Empty without scores of the steps, or where the scores are of another text.
    """
    labels = label.step_labels if label is not None and label.step_labels is not msgspec.UNSET else None
    if scores is None and labels is None:
        return []
    spans = reply_spans(text, whole=scores is not None and len(scores) == 1)
    if any(given is not None and len(given) != len(spans) for given in (scores, labels)):
        return []
    return [
        {
            "start": _units(text[:start]),
            "end": _units(text[:end]),
            "p": scores[index] if scores is not None else None,
            "label": labels[index] if labels is not None else None,
        }
        for index, (start, end) in enumerate(spans)
    ]


def _units(text: str) -> int:
    return len(text.encode("utf-16-le")) // 2
