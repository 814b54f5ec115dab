"""Labelled solutions for the reward model, from every kind of file that has them.

Rows that are read, told apart by their keys:

    ours         {"labels_schema": 1, "id", "query", ..., "solutions": [{"text", "step_labels"?, ...}], "labels"}
    published    {"query", "gt", "solutions": [{"id", "text", "is_correct"}], "labels": [true, false]}
    stepwise     {"prompt", "completions": ["step", ...], "labels": [true, ...]}   one solution a row, also on the hub

A label is 1 (right), 0 (wrong) or -100 (nobody knows). It is checked to be exactly true, false, 0, 1 or null before it
becomes one: a cast to bool would turn -100 into true.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct

from agentark.hub import answers as hub_answers
from agentark.labels import LabelRow, read_labels
from agentark.steps import one_step
from agentark.types import UserError
from prm.steps import StepCodec

IGNORED = -100
StepLabel = Literal["inherit", "judge"]


class Solved(Struct, frozen=True):
    """A solution with the labels of its steps."""

    id: str
    question: str
    """Key of its question: the same for the same prompt."""
    prompt: str
    steps: tuple[str, ...]
    labels: tuple[int, ...]


def read(source: str, flag: str, split: str = "train") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(where it stands, row) of a JSONL file, or of a dataset on the hub.

    Raises:
        UserError: neither, or a line that is no JSON object.
    """
    path = Path(source)
    if path.is_dir() or source.startswith((".", "/", "~")) or path.suffix in (".jsonl", ".json"):
        if not path.is_file():
            raise UserError(f"{flag} {source}: no such file")
        yield from _lines(path)
    elif path.is_file():
        yield from _lines(path)
    else:
        yield from _hub(source, flag, split)


def _lines(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    with path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            try:
                row = msgspec.json.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise UserError(f"{path}, row {number}: not valid JSON, where NaN is none either ({error})") from None
            if not isinstance(row, dict):
                raise UserError(f"{path}, row {number}: expected an object, found a {type(row).__name__}")
            yield f"{path}, row {number}", row


def _hub(source: str, flag: str, split: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    import datasets

    if source.count("/") != 1:
        raise UserError(f"{flag} {source}: neither a file nor a dataset on the hub (organisation/name)")
    before = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = before or not hub_answers(datasets.config.HF_ENDPOINT)
    try:
        rows = datasets.load_dataset(source, split=split)
    except (OSError, ValueError, datasets.exceptions.DatasetNotFoundError) as error:
        raise UserError(
            f"{flag} {source}: no such file, and not on the hub ({' '.join(str(error).split()):.200})"
        ) from None
    finally:
        datasets.config.HF_HUB_OFFLINE = before
    for number, row in enumerate(rows, 1):
        yield f"{source}, row {number}", row


def solutions(source: str, codec: StepCodec, label: StepLabel, dropped: Counter[str], flag: str,
              split: str = "train") -> Iterator[tuple[str, Solved]]:  # fmt: skip
    """(id of the question, solution) of every labelled solution; what has no verdict or no step is counted instead.

    Args:
        label: `inherit`: every step has its solution's verdict; `judge`: the row's `step_labels`. Rows of the stepwise
            kind bring their own labels.

    Raises:
        UserError: a row of no known kind, or labels of the wrong number or type.
    """
    seen_ours = False
    for where, row in read(source, flag, split):
        if "labels_schema" in row:
            seen_ours = True
        elif "solutions" in row:
            yield from _published(where, row, codec, label, dropped)
        elif "completions" in row and "prompt" in row:
            yield from _stepwise(where, row, codec, dropped)
        else:
            raise UserError(
                f"{where}: neither a labelled row (query, solutions, labels) nor a stepwise one (prompt, completions, "
                f"labels); its keys are {', '.join(map(str, row))}; label.py makes labelled rows"
            )
    if seen_ours:
        for labelled in read_labels(Path(source)):
            yield from _ours(f"{source}, {labelled.id}", labelled, codec, label, dropped)


def _ours(
    where: str, row: LabelRow, codec: StepCodec, label: StepLabel, dropped: Counter[str]
) -> Iterator[tuple[str, Solved]]:
    if row.error is not None:
        dropped["rows with an error"] += 1
        return
    if len(row.labels) != len(row.solutions):
        raise UserError(f"{where}: {len(row.labels)} labels of {len(row.solutions)} solutions")
    prompt = row.prompt
    found = [
        (str(one.id), one.text, verdict, one.step_labels if one.step_labels is not msgspec.UNSET else None)
        for one, verdict in zip(row.solutions, row.labels, strict=True)
    ]
    yield from _labelled(where, row.id, prompt, found, codec, label, dropped)


def _published(
    where: str, row: Mapping[str, Any], codec: StepCodec, label: StepLabel, dropped: Counter[str]
) -> Iterator[tuple[str, Solved]]:
    listed = row["solutions"]
    if not isinstance(row.get("query"), str):
        raise UserError(f"{where}: 'query' must be a text")
    if not isinstance(listed, list) or not all(
        isinstance(one, dict) and isinstance(one.get("text"), str) for one in listed
    ):
        raise UserError(f"{where}: 'solutions' must be a list of objects with a 'text'")
    labels = row.get("labels", [one.get("is_correct") for one in listed])
    if not isinstance(labels, list) or len(labels) != len(listed):
        raise UserError(f"{where}: 'labels' must be a list of {len(listed)}, one per solution")
    verdicts = [_verdict(where, value) for value in labels]
    for number, (one, verdict) in enumerate(zip(listed, verdicts, strict=True), 1):
        if "is_correct" in one and _verdict(where, one["is_correct"]) != verdict:
            raise UserError(
                f"{where}: solution {number} is {one['is_correct']!r} in 'is_correct', {verdict!r} in 'labels'"
            )
    found = [
        (str(one.get("id", number)), one["text"], verdict, one.get("step_labels"))
        for number, (one, verdict) in enumerate(zip(listed, verdicts, strict=True), 1)
    ]
    name = str(row.get("id") or f"prompt/{question_key(row['query'])}")
    yield from _labelled(where, name, row["query"], found, codec, label, dropped)


def _labelled(
    where: str, name: str, prompt: str, found: Sequence[tuple[str, str, bool | None, Any]], codec: StepCodec,
    label: StepLabel, dropped: Counter[str],
) -> Iterator[tuple[str, Solved]]:  # fmt: skip
    """The solutions of one question: a sequence each, or one of all with the step unit `solution`."""
    key = question_key(prompt)
    kept: list[Solved] = []
    for number, text, verdict, judged in found:
        steps = codec.steps(text)
        if not steps:
            dropped["without a step"] += 1
            continue
        if label == "judge":
            if judged is None:
                dropped["without step labels"] += 1
                continue
            labels = _numbers(where, judged, len(steps), f"'step_labels' of solution {number}")
        elif verdict is None:
            dropped["without a verdict"] += 1
            continue
        else:
            labels = [int(verdict)] * len(steps)
        kept.append(Solved(f"{name}#{number}", key, prompt, tuple(steps), tuple(labels)))
    if codec.settings.step_unit == "solution" and kept:
        joined = tuple(step for one in kept for step in one.steps)
        kept = [Solved(name, key, prompt, joined, tuple(label for one in kept for label in one.labels))]
    for one in kept:
        yield name, one


def _stepwise(
    where: str, row: Mapping[str, Any], codec: StepCodec, dropped: Counter[str]
) -> Iterator[tuple[str, Solved]]:
    prompt, steps = row["prompt"], row["completions"]
    if not isinstance(prompt, str) or not isinstance(steps, list) or not all(isinstance(one, str) for one in steps):
        raise UserError(f"{where}: 'prompt' must be a text and 'completions' a list of texts")
    labels = _numbers(where, row.get("labels"), len(steps), "'labels'")
    texts = [one_step(step) for step in steps]
    if not texts or not all(texts):
        dropped["without a step"] += 1
        return
    if codec.settings.step_unit == "solution":
        texts, labels = ["\n\n".join(texts)], [min(labels)]
    if set(labels) <= {IGNORED}:
        dropped["without a verdict"] += 1
        return
    key = question_key(prompt)
    name = f"prompt/{key}"
    number = question_key("\n\n".join(texts))[:8]
    yield name, Solved(f"{name}#{number}", key, prompt, tuple(texts), tuple(labels))


def _verdict(where: str, value: Any) -> bool | None:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int) and value in (0, 1):
        return bool(value)
    raise UserError(f"{where}: label {value!r}; expected true, false or null")


def _numbers(where: str, values: Any, count: int, what: str) -> list[int]:
    """Labels of steps as 1, 0 and -100 (null)."""
    if not isinstance(values, list) or len(values) != count:
        size = f"{len(values)} of them" if isinstance(values, list) else f"a {type(values).__name__}"
        raise UserError(f"{where}: {what} must be a list of {count}, one per step; found {size}")
    return [
        IGNORED if value == IGNORED or (verdict := _verdict(where, value)) is None else int(verdict)
        for value in values
    ]  # fmt: skip


def question_key(text: str) -> str:
    """The same for texts that differ in white space and case only: one question is on one side of a split."""
    return hashlib.blake2b(" ".join(text.casefold().split()).encode(), digest_size=8).hexdigest()
