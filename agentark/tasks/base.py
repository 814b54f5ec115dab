"""Shared by all datasets: finding the rows, turning them into samples, scoring a reply."""

import contextlib
import csv
import gzip
import hashlib
import importlib.util
import io
import logging
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from string import ascii_uppercase
from typing import Any, Literal, NoReturn

import msgspec
from msgspec import Struct
from pydantic import Field

from agentark import answers, jsonl, metrics
from agentark.config import Config, nearest
from agentark.hub import asked_once
from agentark.types import ANSWER_LINE, Kind, Sample, UserError, digest

_log = logging.getLogger(__name__)

Row = Mapping[str, Any]
Metric = Literal["accuracy", "f1", "rougeL", "pass@1", "none"]
"""`pass@1` needs a sandbox and `none` has no gold answer: `Task.score` of both is always None."""

BOXED_INSTRUCTION = "Work it out step by step, then give only your final answer inside \\boxed{}."
BOXED_NUMBER_INSTRUCTION = "Work it out step by step, then give the final number, without its unit, inside \\boxed{}."
CHOICE_INSTRUCTION = f"Exactly one option is right. End your reply with a line {ANSWER_LINE} followed by its letter."
CODE_INSTRUCTION = "Reply with one ```python block that holds the whole function and every import and helper it needs."
SHORT_INSTRUCTION = (
    "Answer with as few words as possible: a name, a date, a number, yes or no. "
    f"End your reply with a line {ANSWER_LINE} followed by that answer alone."
)
Grader = Literal["short_answer", "math", "choice", "code"]
GRADERS: dict[Kind, Grader | None] = {
    "number": "math",
    "math": "math",
    "choice": "choice",
    "text": "short_answer",
    "code": "code",
    "software": None,
}
LETTERS = ascii_uppercase[:10]
"""Letters of options; answers.py reads them as such in running text."""


class BadRow(Exception):
    """A row that lacks what the task needs; the loader adds the file and the row number."""


class NoOptions(Config):
    """For tasks without options."""


class ChoiceOptions(Config):
    """For multiple-choice tasks whose options may be put into another order."""

    shuffle_options: bool = False
    """Whether each sample's options stand in an order drawn from `seed` and its id; the gold letter follows."""
    seed: int = Field(0, ge=0)
    """Seed of that order, >= 0; without effect unless `shuffle_options`."""


class Hub(Struct, frozen=True):
    """Where a dataset lives: a repository on the hub, or files at a URL (`path` is then the format)."""

    path: str
    configs: tuple[str | None, ...] = (None,)
    """Their rows follow each other in this order; options of the task are filled in (`{subset}`)."""
    urls: Mapping[str, str] | None = None
    """Split -> URL, for data that is not on the hub."""
    revision: str | None = None
    """Branch or commit of the repository; None: main."""
    gated: bool = False
    """Whether the hub asks for an account that has accepted the dataset's terms."""

    def __str__(self) -> str:
        if self.urls is not None:
            return next(iter(self.urls.values())).rpartition("/")[0]
        return self.path if self.configs[0] is None or len(self.configs) > 1 else f"{self.path} ({self.configs[0]})"

    def filled(self, options: Config) -> "Hub":
        """With the task's options in the names of its configs."""
        names = tuple(name and name.format(**options.model_dump()) for name in self.configs)
        return msgspec.structs.replace(self, configs=names)


class Loaded(Struct, frozen=True):
    """Samples and where they come from."""

    samples: Sequence[Sample]
    split: str
    origin: str
    """Path of the file, hub id, or the generator and its seed."""
    sha256: str | None = None
    """Hash of the file's bytes; None when there is no file."""


class Task(Struct, frozen=True, kw_only=True):
    """One dataset."""

    name: str
    splits: tuple[str, ...]
    eval_split: str
    """The split that results are reported on, and the default."""
    metric: Metric
    kind: Kind
    """Kind of its samples, or of most of them."""
    licence: str
    """Licence of the data, as its publishers state it."""
    to_samples: Callable[[Row, int, str, Any], Iterable[Sample]]
    """(row, its 0-based index, split, options) -> its samples; raises BadRow."""
    file_patterns: tuple[str, ...] = ()
    """Accepted file names in order (.jsonl, .jsonl.gz, .csv), `{split}` and options of the task filled in; a name
    without `{split}` serves the split it ends in, or all of them when it ends in none."""
    packaged: tuple[str, str] | None = None
    """(import name of an installed package, path of the data file inside it), tried after the data folder."""
    hub: Hub | None = None
    generate: Callable[[Any], tuple[str, Iterable[Row]]] | None = None
    """Options -> (origin, rows), for tasks that are generated instead of read."""
    options: type[Config] = NoOptions

    @property
    def grader(self) -> Grader | None:
        """The evaluation for records of this task; None: there is nothing to compare them with."""
        return GRADERS[self.kind]

    @property
    def graded(self) -> bool:
        """Whether `score` can ever be a number."""
        return self.metric not in ("pass@1", "none")

    def files(self, split: str, options: Config | None = None) -> tuple[str, ...]:
        """File names tried in a data folder, in order."""
        values = (self.options() if options is None else options).model_dump()
        others = tuple(f"_{other}.jsonl" for other in self.splits if other != split)
        return tuple(
            pattern.format(split=split, **values) for pattern in self.file_patterns if not pattern.endswith(others)
        )

    def load(
        self,
        split: str | None = None,
        data_dir: Path | None = None,
        options: Config | None = None,
        limit: int | None = None,
    ) -> Loaded:
        """Samples of a split: from a file in `data_dir`, else from an installed package or the hub, or generated.

        Args:
            split: one of `splits`; None: `eval_split`.
            data_dir: folder with files in the upstream schema.
            options: of this task; None: their defaults.
            limit: at most this many samples, from the first on; rows after them are not checked.

        Raises:
            UserError: unknown split, no such folder, data nowhere to be found, a broken row, no sample at all.
        """
        split = self.eval_split if split is None else split
        if split not in self.splits:
            raise UserError(f"{self.name} has no split {split!r} ({nearest(split, self.splits)})")
        options = self.options() if options is None else options
        if data_dir is not None:
            data_folder(data_dir)
        sha256 = None
        if self.generate is not None:
            origin, generated = self.generate(options)
            rows: Iterable[tuple[int, Row]] = enumerate(generated, 1)
        elif (path := self._file(split, data_dir, options) or self._packaged_file(data_dir)) is not None:
            origin, content = str(path), path.read_bytes()
            sha256 = hashlib.sha256(content).hexdigest()
            rows = _file_rows(content, path)
        else:
            assert self.hub is not None
            hub = self.hub.filled(options)
            origin = str(hub)
            rows = enumerate(self._hub_rows(hub, split, data_dir, self.files(split, options)), 1)
        samples = tuple(islice(self._samples(rows, split, options, origin), limit))
        if not samples:
            raise UserError(f"{origin}: holds no sample of {self.name}'s split {split}")
        return Loaded(samples, split, origin, sha256)

    def _file(self, split: str, data_dir: Path | None, options: Config) -> Path | None:
        if data_dir is None:
            return None
        names = self.files(split, options)
        for name in names:
            if (data_dir / name).is_file():
                if name != names[0]:
                    _log.warning("%s: no %s in %s, using %s", self.name, names[0], data_dir, name)
                return data_dir / name
        return None

    def _packaged_file(self, data_dir: Path | None) -> Path | None:
        if self.packaged is None:
            return None
        package, name = self.packaged
        spec = importlib.util.find_spec(package)
        for folder in (spec and spec.submodule_search_locations) or ():
            if (path := Path(folder) / name).is_file():
                if data_dir is not None:
                    _log.warning("%s: no file of it in %s, using %s", self.name, data_dir, path)
                return path
        return None

    def _hub_rows(self, hub: Hub, split: str, data_dir: Path | None, names: Sequence[str]) -> Iterator[Row]:
        if data_dir is not None:
            _log.warning("%s: no %s in %s, trying %s", self.name, " or ".join(names), data_dir, hub)

        def nowhere(reason: str) -> NoReturn:
            folder = "a folder given as --data_dir" if data_dir is None else str(data_dir)
            page = f"https://huggingface.co/datasets/{hub.path}"
            instead = (
                f"accept the terms of the gated dataset at {page} and set HF_TOKEN to a token of that account"
                if hub.gated
                else f"make {hub} reachable"
            )
            raise UserError(
                f"{self.name}: no data for split {split}: put {' or '.join(names)} into {folder}, "
                f"or {instead} ({reason})"
            )

        try:
            import datasets
        except ImportError:
            nowhere("the package datasets is not installed")
        if hub.urls is not None and split not in hub.urls:
            nowhere("not there for this split")
        files = None if hub.urls is None else {split: hub.urls[split]}
        try:
            with contextlib.nullcontext() if hub.urls else asked_once(datasets.config, "HF_ENDPOINT"):
                parts = [
                    datasets.load_dataset(hub.path, config, split=split, data_files=files, revision=hub.revision)
                    for config in hub.configs
                ]
        except (OSError, RuntimeError, ValueError, datasets.exceptions.DatasetsError) as error:
            nowhere(" ".join(str(error).split())[:200] or type(error).__name__)
        for part in parts:
            yield from part

    def _samples(self, rows: Iterable[tuple[int, Row]], split: str, options: Config, origin: str) -> Iterator[Sample]:
        seen: dict[str, int] = {}
        for index, (number, row) in enumerate(rows):
            try:
                for sample in self.to_samples(row, index, split, options):
                    if sample.id in seen:
                        raise BadRow(f"id {sample.id!r} was row {seen[sample.id]}'s already")
                    seen[sample.id] = number
                    yield sample
            except BadRow as error:
                raise UserError(f"{origin}, row {number}: {error}") from None
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                raise UserError(f"{origin}, row {number}: not in {self.name}'s schema ({error!r:.100})") from None

    def score(self, sample: Sample, text: str) -> float | None:
        """The task's metric of one reply, in [0, 1]; None when it holds no answer or the task isn't graded. Blocks."""
        return self.score_many([(sample, text)])[0]

    def score_many(self, replies: Sequence[tuple[Sample, str]]) -> list[float | None]:
        """`score` of many (sample, reply text), comparisons spread over the worker processes. Blocks."""
        if not self.graded:
            return [None] * len(replies)
        if self.metric != "accuracy":
            return [self._overlap(sample, text) for sample, text in replies]
        found = [answers.extract(text, sample.answer_type, sample.choices) for sample, text in replies]
        verdicts = iter(
            answers.equivalent_many(
                [
                    (sample.gt, answer.value, sample.answer_type)
                    for (sample, _), answer in zip(replies, found, strict=True)
                    if answer is not None
                ]
            )
        )
        return [None if answer is None else float(next(verdicts)) for answer in found]

    def _overlap(self, sample: Sample, text: str) -> float | None:
        references = sample.golds
        if self.metric == "f1":
            answer = answers.extract(text, sample.answer_type, sample.choices)
            return None if answer is None else metrics.f1(answer.value, references)
        reply = (answers.visible(text) or "").strip()
        return metrics.rouge(reply, references)["rougeL"] if reply else None


def data_folder(path: str | Path) -> Path:
    """An argparse type: a folder with datasets' files. Raises UserError."""
    if not Path(path).is_dir():
        raise UserError(f"--data_dir {path!s:.200}: not a folder")
    return Path(path)


def string(row: Row, *keys: str) -> str:
    """The text under the first of these keys that the row has; BadRow when it is missing or blank."""
    key = next((key for key in keys if row.get(key) is not None), None)
    if key is None:
        raise BadRow(f"no {keys[0]!r}")
    if not isinstance(row[key], str):
        raise BadRow(f"{key!r} is no text but {row[key]!r:.60}")
    if not row[key].strip():
        raise BadRow(f"{key!r} is blank")
    return str(row[key])


def integer(row: Row, key: str) -> int:
    """The integer under this key; BadRow when it is missing or something else (true is not 1)."""
    value = row.get(key)
    if not isinstance(value, int) or isinstance(value, bool):
        raise BadRow(f"no {key!r}" if value is None else f"{key!r} is no integer but {value!r:.60}")
    return value


def option_index(row: Row, key: str, choices: Sequence[Any]) -> int:
    """0-based index of the gold option under this key: an index, a letter or an option's text; BadRow otherwise."""
    value = row.get(key)
    if not isinstance(value, str):
        return integer(row, key)
    index = answers.named(value, ["" if choice is None else str(choice) for choice in choices])
    if index is None and (letter := answers.gold(value, "choice")) is not None:
        index = LETTERS.index(letter)
    elif index is None and value.strip().isdecimal():
        index = int(value)
    if index is None:
        raise BadRow(f"{key!r} is none of the options but {value!r:.60}")
    return index


def part_of(row: Row, key: str) -> Row:
    """The row inside a row under this key; BadRow when there is none."""
    inner = row.get(key)
    if not isinstance(inner, Mapping):
        raise BadRow(f"no {key!r}" if inner is None else f"{key!r} is no object but {inner!r:.60}")
    return inner


def choice_sample(
    *,
    id: str,
    source: str,
    question: str,
    choices: Sequence[Any],
    gold: int,
    options: ChoiceOptions | None = None,
    tag: str | None = None,
) -> Sample:
    """The sample of a multiple-choice row. Options that are null or blank are none; those after them move up.

    Args:
        choices: the options, in upstream order.
        gold: 0-based index of the right one in that order.
        options: they say whether to shuffle; None: never.

    Raises:
        BadRow: fewer than two options with text, more than there are letters, gold outside them or blank.
    """
    texts = ["" if choice is None else str(choice) for choice in choices]
    written = [index for index, text in enumerate(texts) if text.strip()]
    if len(written) < 2:
        raise BadRow(f"{len(written)} option{'s' * (len(written) != 1)} with text; a choice needs at least 2")
    if len(texts) > len(LETTERS):
        raise BadRow(f"{len(texts)} options; there are letters for {len(LETTERS)}")
    if not 0 <= gold < len(texts) or not texts[gold].strip():
        raise BadRow(f"the gold answer must be one of the options, 0 to {len(texts) - 1}, not {gold}")
    texts, gold = [texts[index] for index in written], written.index(gold)
    if options is not None and options.shuffle_options:
        order = sorted(range(len(texts)), key=lambda index: digest((options.seed, id, index)))
        texts, gold = [texts[index] for index in order], order.index(gold)
    lines = [f"{letter}. {text}" for letter, text in zip(LETTERS, texts, strict=False)]
    return Sample(
        id=id,
        source=source,
        query="\n".join([question, "", *lines]),
        gt=LETTERS[gold],
        answer_type="choice",
        instruction=CHOICE_INSTRUCTION,
        choices=tuple(texts),
        tag=tag,
    )


def _file_rows(content: bytes, path: Path) -> Iterator[tuple[int, Row]]:
    """(1-based line number, row) of a data file, by the ending of its name."""
    if path.suffix == ".gz":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise UserError(f"{path}: not a gzip file ({error})") from None
    is_csv = path.name.removesuffix(".gz").endswith(".csv")
    return _csv_rows(content, str(path)) if is_csv else jsonl.objects(content, str(path))


def _csv_rows(content: bytes, origin: str) -> Iterator[tuple[int, Row]]:
    """(1-based number of the line a row ends on, row) of a CSV file with a header."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{origin}: not UTF-8 ({error})") from None
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        for row in reader:
            if None in row or None in row.values():
                raise UserError(f"{origin}, row {reader.line_num}: not as many fields as the header has")
            yield reader.line_num, row
    except csv.Error as error:
        raise UserError(f"{origin}, row {reader.line_num}: not valid CSV ({error})") from None
