"""Turn labelled solutions into training sequences: deduplicate, filter, split by question, put into batches."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from msgspec import Struct

from agentark.types import UserError
from prm.reading import IGNORED, Overlong, Solved, solutions
from prm.settings import Flags
from prm.steps import Encoded, StepCodec, TooLong

PERCENTILES = (50, 90, 99, 100)


class Item(Struct, frozen=True):
    """A training sequence."""

    id: str
    question: int
    """Number of the sequence's question."""
    ids: list[int]
    """(T,)"""
    ends: list[int]
    """Positions of the separators, (S,)."""
    labels: list[int]
    """(S,)"""


class Card(Struct):
    """Counts of the kept and left-out parts of a file; `text` says them in words."""

    name: str
    questions: int = 0
    solutions: int = 0
    steps: int = 0
    positive: int = 0
    unlabelled: int = 0
    lengths: list[int] = []
    truncated: int = 0
    dropped: Counter[str] = Counter()

    def text(self) -> str:
        ordered = sorted(self.lengths) or [0]
        marks = [ordered[min(len(ordered) - 1, len(ordered) * share // 100)] for share in PERCENTILES]
        known = max(1, self.steps - self.unlabelled)
        lines = [
            f"{self.name}: {self.questions} questions, {self.solutions} solutions, {self.steps} steps, "
            f"{self.positive / known:.0%} of them positive" + f", {self.unlabelled} unlabelled" * bool(self.unlabelled),
            "  tokens: " + ", ".join(f"p{s} {m}" if s < 100 else f"longest {m}" for s, m in zip(PERCENTILES, marks,
                                                                                              strict=True)),
            f"  truncated prompts: {self.truncated}",
            "  left out: " + (", ".join(f"{count} {why}" for why, count in sorted(self.dropped.items())) or "nothing"),
        ]  # fmt: skip
        return "\n".join(lines)

    def figures(self) -> dict[str, Any]:
        """For the manifest."""
        values = {name: getattr(self, name) for name in ("questions", "solutions", "steps", "positive", "truncated")}
        return values | {"dropped": dict(self.dropped), "tokens": sum(self.lengths)}


class Dataset(NamedTuple):
    items: list[Item]
    questions: list[str]
    """Ids of the questions, sorted; the guard against contamination reads them."""
    card: Card


# ---------------------------------------------------------------- choosing


class Questions(NamedTuple):
    """The solutions of each question, deduplicated."""

    solved: dict[str, list[Solved]]
    """Key -> solutions, in the order of the file."""
    names: dict[str, set[str]]
    """Key -> ids of the rows with this question."""


def gather(pairs: Iterable[tuple[str, Solved]], dropped: Counter[str]) -> Questions:
    """Group by question. Equal solutions are kept once, or not at all if their labels contradict."""
    texts: dict[tuple[str, tuple[str, ...]], Solved] = {}
    doubtful = set()
    names: dict[str, set[str]] = defaultdict(set)
    for name, solution in pairs:
        names[solution.question].add(name)
        key = (solution.question, solution.steps)
        first = texts.setdefault(key, solution)
        if first is not solution:
            dropped["duplicates"] += 1
            if first.labels != solution.labels:
                doubtful.add(key)
    dropped.update({"with contradictory labels": len(doubtful)} if doubtful else {})
    solved: dict[str, list[Solved]] = defaultdict(list)
    for key, solution in texts.items():
        if key not in doubtful:
            solved[solution.question].append(solution)
    return Questions(dict(solved), names)


def divide(questions: Questions, share: float, seed: int) -> tuple[Questions, Questions]:
    """(training data, held-out data), split by question; the order of the file does not matter."""
    keys = sorted(questions.solved, key=lambda key: hashlib.sha256(f"{seed}/{key}".encode()).digest())
    held = set(keys[: round(len(keys) * share)])
    return without(questions, held), without(questions, questions.solved.keys() - held)


def without(questions: Questions, keys: Iterable[str]) -> Questions:
    out = set(keys)
    return Questions({key: value for key, value in questions.solved.items() if key not in out}, questions.names)


def build(
    name: str, questions: Questions, codec: StepCodec, dropped: Counter[str], *, mixed: bool, limit: int | None = None,
    overlong: Overlong = "cut",
) -> Dataset:  # fmt: skip
    """The sequences of the questions.

    Args:
        mixed: only questions with right and wrong steps.
        limit: most solutions; only whole questions are taken (and at least one).
        overlong: `cut` the prompt's middle where a sequence does not fit, or `drop` it.
    """
    card = Card(name, dropped=dropped)
    items: list[Item] = []
    used: set[str] = set()
    for key, candidates in questions.solved.items():
        pairs = [(solution, _encode(solution, codec, overlong, dropped)) for solution in candidates]
        fitting = [(solution, encoded) for solution, encoded in pairs if encoded is not None]
        if mixed and not {0, 1} <= {label for solution, _ in fitting for label in solution.labels}:
            dropped["of questions without right and wrong ones"] += len(fitting)
            continue
        if limit is not None and items and len(items) + len(fitting) > limit:
            break
        if not fitting:
            continue
        used |= questions.names[key]
        for solution, encoded in fitting:
            items.append(Item(solution.id, card.questions, encoded.ids, encoded.ends, list(solution.labels)))
            card.truncated += encoded.cut > 0
        card.questions += 1
    card.solutions = len(items)
    card.steps = sum(len(item.labels) for item in items)
    card.positive = sum(item.labels.count(1) for item in items)
    card.unlabelled = sum(item.labels.count(IGNORED) for item in items)
    card.lengths = [len(item.ids) for item in items]
    return Dataset(items, sorted(used), card)


def _encode(solution: Solved, codec: StepCodec, overlong: Overlong, dropped: Counter[str]) -> Encoded | None:
    try:
        encoded = codec.encode(solution.prompt, solution.steps)
    except TooLong:
        dropped["too long without their prompt"] += 1
        return None
    if encoded.cut and overlong == "drop":
        dropped["too long"] += 1
        return None
    return encoded


def load(flags: Flags, codec: StepCodec) -> tuple[Dataset, Dataset | None]:
    """(training data, held-out data if the flags ask for it). No question is in both.

    Raises:
        UserError: nothing is left to train on.
    """
    prm = flags.prm
    dropped: Counter[str] = Counter()
    held_dropped: Counter[str] = Counter()

    def read(source: str, counter: Counter[str], flag: str) -> Questions:
        return gather(solutions(source, codec, prm.step_label, counter, flag, prm.train_split), counter)

    kept, held = divide(read(prm.train_data_path, dropped, "--train_data_path"), prm.eval_ratio, flags.values["seed"])
    if prm.eval_data_path is not None:
        held = read(prm.eval_data_path, held_dropped, "--eval_data_path")
        shared = held.solved.keys() & kept.solved.keys()
        dropped["of questions in --eval_data_path"] += sum(len(kept.solved[key]) for key in shared)
        kept = without(kept, shared)
    train = build(
        "training data", kept, codec, +dropped, mixed=flags.mixed, limit=prm.max_train_samples, overlong=prm.overlong
    )
    if not train.items:
        mixing = train.card.dropped["of questions without right and wrong ones"]
        why = (
            f"all {mixing} solutions are of questions without right and wrong ones: --loss ce or --require_mixed False"
        )
        left_out = train.card.text().splitlines()[-1].strip()
        raise UserError(f"--train_data_path {prm.train_data_path}: nothing to train on ({why if mixing else left_out})")
    if not held.solved:
        return train, None
    return train, build("held-out data", held, codec, held_dropped, mixed=False, overlong=prm.overlong)


# ---------------------------------------------------------------- batches


def collate(items: Sequence[Item]) -> dict[str, Any]:
    """Tensors of a batch, right-padded to its longest sequence.

    Returns:
        input_ids (B, T), lengths (B,), and flat over the separators of all sequences: rows (S,) and ends (S,), which
        give their positions, labels (S,), questions (S,).
    """
    import torch

    width = max(len(item.ids) for item in items)
    flat = [
        (row, end, label, item.question)
        for row, item in enumerate(items)
        for end, label in zip(item.ends, item.labels, strict=True)
    ]
    rows, ends, labels, questions = (torch.tensor(values) for values in zip(*flat, strict=True))
    return {
        "input_ids": torch.tensor([item.ids + [0] * (width - len(item.ids)) for item in items]),
        "lengths": torch.tensor([len(item.ids) for item in items]),
        "rows": rows,
        "ends": ends,
        "labels": labels,
        "questions": questions,
    }


def check_batch(batch: Mapping[str, Any], codec: StepCodec) -> str:
    """Assert that labels are at separators and nowhere else, and return the first sequence in readable form.

    Raises:
        UserError: a label or a separator is elsewhere (an assertion, in words).
    """
    ids, rows, ends, labels = (batch[name] for name in ("input_ids", "rows", "ends", "labels"))
    at = ids[rows, ends]
    if not bool((at == codec.separator_id).all()):
        raise UserError(f"first batch: labels stand at tokens {at.tolist()}; the separator is {codec.separator_id}")
    if not set(labels.tolist()) <= {0, 1, IGNORED}:
        raise UserError(f"first batch: labels {sorted(set(labels.tolist()))}; expected 0, 1 and {IGNORED}")
    if bool((ends >= batch["lengths"][rows]).any()):
        raise UserError("first batch: a separator stands in the padding")
    shown, start = [], 0
    mine = rows == 0
    for end, label in zip(ends[mine].tolist(), labels[mine].tolist(), strict=True):
        shown.append(f"{codec.tokenizer.decode(ids[0, start:end])}<label {label} at {end}>")
        start = end + 1
    return f"separator {codec.settings.separator!r} is token {codec.separator_id}; the first sequence:\n" + "\n".join(
        shown
    )
