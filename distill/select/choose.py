"""Choose the trajectories to train on: preferred by class, filtered, and for DA different in structure.

The choice depends only on the labelled questions, never on the order of rows or files.
"""

import re
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.util import find_spec
from typing import Any

from msgspec import Struct, field
from pydantic import Field

from agentark import answers, jsonl
from agentark.config import ROOT, Config
from agentark.contamination import EvaluationQuestions
from agentark.engines.choose import Choice, choose_engine
from agentark.episode import Defaults
from agentark.job import Job, adapter, run_job
from agentark.labelled import Question
from agentark.trajectories import AGGREGATE, CLASSES, Trajectory, preferred
from agentark.types import MethodInfo, Sample, UserError
from distill.select import diversity, match, targets
from distill.select.duplicates import distinct

CONFIG = ROOT / "configs" / "distill" / "select.yaml"
K_MAX = 3
"""Most trajectories per question in DA (the paper: 1 to 3)."""


class Preference(Config):
    """How strongly each kind of trajectory is preferred; 0: never used."""

    corrective: float = Field(ge=0)
    always_right: float = Field(ge=0)
    aggregate: float = Field(ge=0)


class SelectConfig(Config):
    """See configs/distill/select.yaml."""

    preference: Preference
    """R-SFT takes the trajectory with the highest value, DA begins with it."""
    joiners: targets.Joiners
    answer_forms: targets.AnswerForms
    max_characters: int = Field(ge=1)
    """Longest target; longer ones are left out."""
    min_reasoning_words: int = Field(ge=0)
    """Fewest words of a target apart from its answer."""
    drop_truncated: bool
    """Leave out solutions that ended at their token limit."""
    peer_heading: re.Pattern[str]
    """Lines that the methods' prompts put above a peer's text; targets with such a line are left out."""
    near_duplicate: float = Field(gt=0, le=1)
    """Two solutions of a question count as the same from this Jaccard similarity; 1: only equal texts."""
    shingle: int = Field(ge=1)
    """Tokens per shingle."""
    ngram: int = Field(ge=0)
    """A question that shares this many words in a row with an evaluation question is left out; 0: only equal ones."""
    embedding_model: str | None
    """Model of sentence-transformers for --diversity embed; None: TF-IDF."""
    seed: int = Field(ge=0)
    """Seed of the draw among equally preferred trajectories."""


class Target(Struct, frozen=True):
    """A trajectory that may be trained on, and its text."""

    trajectory: Trajectory
    text: str


class Row(Struct, frozen=True, kw_only=True):
    """One line of a training set: what TRL reads (`prompt`, `completion`) and where it comes from."""

    id: str
    prompt: list[dict[str, str]]
    completion: list[dict[str, str]]
    source: str
    method: str
    teacher: str
    agent: str
    solution: int
    path: str
    """Class of the agent's path, or `aggregate`."""
    strategy: str
    trace: str


# ---------------------------------------------------------------- choosing


def usable_targets(
    question: Question, args: Namespace, settings: SelectConfig, dropped: Counter[str], thinking: Counter[str]
) -> list[Target]:
    """The trajectories of a question that pass the filters, best first; the others are counted."""
    passed = []
    weights = settings.preference.model_dump()
    ranked = preferred(question.sample.id, question.trajectories, weights, settings.seed)
    for trajectory in ranked:
        reason, text = _text(question.sample, trajectory, args, settings)
        if text is None:
            dropped[reason] += 1
            continue
        last = trajectory.replies[-1]
        if last.reasoning or answers.visible(last.text) != last.text:
            thinking["thinking kept" if args.thinking == "keep" else "thinking stripped"] += 1
        passed.append(Target(trajectory, text))
    if args.prefer == "shortest":
        passed.sort(key=lambda target: (-weights[target.trajectory.kind], match.size(target.text)))
    return passed


def _text(sample: Sample, trajectory: Trajectory, args: Namespace, settings: SelectConfig) -> tuple[str, str | None]:
    """(why there is no target, the target's text)."""
    if settings.drop_truncated and trajectory.truncated:
        return "truncated", None
    text = targets.compose(sample, trajectory, args.trace, args.thinking, settings.joiners, settings.answer_forms)
    if text is None or answers.extract(trajectory.replies[-1].text, sample.answer_type, sample.choices) is None:
        return "no answer", None
    if any(map(settings.peer_heading.match, text.splitlines())):
        return "repeats a peer", None
    if targets.reasoning_words(sample, text) < settings.min_reasoning_words:
        return "answer without reasoning", None
    if len(text) > settings.max_characters:
        return "too long", None
    return "", text


def _distances(args: Namespace, settings: SelectConfig) -> Callable[[Sequence[str]], diversity.Distances]:
    """The distance between solutions; (N,) texts -> (N, N)."""
    if args.diversity == "ngram":
        return diversity.ngram_distances
    if settings.embedding_model is None:
        return diversity.tfidf_distances
    if find_spec("sentence_transformers") is None:
        raise UserError(
            f"embedding_model = {settings.embedding_model!r}: needs sentence-transformers (pip install "
            "sentence-transformers); null takes TF-IDF"
        )
    return diversity.embedding_distances(settings.embedding_model)


def ask_distiller(
    questions: Sequence[tuple[Question, list[Target]]],
    args: Namespace,
    choose_engine: Callable[..., Choice],
) -> tuple[dict[str, list[int]], int]:
    """(id -> positions that the distiller model picked, number of failed questions). Resumable like every run."""
    asked = [
        diversity.Choosable(**question.sample.fields(), solutions=tuple(target.text for target in usable))
        for question, usable in questions
        if len(usable) > 1
    ]
    if not asked:
        return {}, 0
    label, make_engine, *_ = choose_engine(args, args.distiller, "--distiller")
    path = args.output.with_name(f"{args.output.name}.picks.jsonl")
    failed = run_job(
        Job(
            path=path,
            identity={"distiller": label, "k": args.k, "seed": 0, "adapter": adapter(args)},
            samples=asked,
            order=[question.id for question in asked],
            method=diversity.Distiller(args.k),
            info=MethodInfo("distiller", "llm", {"k": args.k}),
            model=label,
            make_engine=make_engine,
            defaults=Defaults(0.0, diversity.PICK_TOKENS, 0),
            row=diversity.pick_row,
            overwrite=args.overwrite,
        )
    )
    ids = {question.id for question in asked}
    latest = {row.id: row for row in jsonl.decoded(path, diversity.PickRow, "a pick of the distiller")}
    return {id: row.picks for id, row in latest.items() if row.error is None and id in ids}, failed


class Yielded(Struct, kw_only=True):
    """What selection would make of some questions with its default flags, and without questions to avoid."""

    min_correct: int
    k: int
    """Most rows of a question in DA."""
    questions: int = 0
    enough: int = 0
    """Questions with at least `min_correct` right agents."""
    corrective: int = 0
    """Of these, questions that leave the path of an agent that was wrong and became right."""
    rsft: int = 0
    """Rows of a set for R-SFT: one for each question that leaves a solution."""
    da: int = 0
    """Rows of a set for DA."""

    def add(self, question: Question, settings: SelectConfig) -> None:
        self.questions += 1
        if question.correct < self.min_correct:
            return
        self.enough += 1
        flags = Namespace(trace="single", thinking="strip", prefer=None)
        passed = usable_targets(question, flags, settings, Counter(), Counter())
        texts = [target.text for target in passed]
        kept = distinct(texts, settings.near_duplicate, settings.shingle)
        self.corrective += any(target.trajectory.kind == "corrective" for target in passed)
        self.rsft += bool(passed)
        self.da += len(diversity.farthest(diversity.tfidf_distances([texts[index] for index in kept]), self.k))


# ---------------------------------------------------------------- the whole


class Tally(Struct):
    """The counts of a selection."""

    questions: int = 0
    by_correct: Counter[int] = field(default_factory=Counter)
    paths: Counter[str] = field(default_factory=Counter)
    enough: int = 0
    contaminated: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    alike: int | None = None
    """Near-duplicates; None: nobody looked for any."""
    thinking: Counter[str] = field(default_factory=Counter)
    sizes: Counter[int] = field(default_factory=Counter)
    """Trajectories chosen -> questions."""
    chosen: Counter[str] = field(default_factory=Counter)
    """Class of the path -> rows."""
    matched: dict[str, Any] | None = None
    """What --match has kept and dropped."""

    def left_out(self) -> Counter[str]:
        return self.dropped + Counter({"near-duplicate": self.alike or 0})

    def counts(self, args: Namespace) -> dict[str, Any]:
        """As the manifest has them."""
        alike = {} if self.alike is None else {"near-duplicate": self.alike}
        counts = {
            "questions": self.questions,
            "questions_by_correct_agents": {str(number): count for number, count in sorted(self.by_correct.items())},
            "agent_paths": {name: self.paths[name] for name in CLASSES},
            "questions_with_enough_correct": self.enough,
            "contaminated": dict(sorted(self.contaminated.items())),
            "dropped_trajectories": dict(sorted({**self.dropped, **alike}.items())),
            "thinking": dict(sorted(self.thinking.items())),
            "questions_left_out_by_filters": self.sizes[0],
            "questions_chosen": self.sizes.total() - self.sizes[0],
            "trajectories_per_question": {str(size): count for size, count in sorted(self.sizes.items()) if size},
            "chosen_paths": dict(sorted(self.chosen.items())),
            "rows": self.chosen.total(),
        }
        if args.strategy == "da":
            fewer = sum(count for size, count in self.sizes.items() if 0 < size < args.k)
            counts["questions_with_fewer_than_k"] = fewer
        return counts if self.matched is None else counts | {"matched": self.matched}


def select(
    args: Namespace,
    settings: SelectConfig,
    questions: Iterable[Question],
    write: Callable[[Row], None],
    choose_engine: Callable[..., Choice] = choose_engine,
) -> tuple[dict[str, Any], int]:
    """Choose, question by question, and write the rows of the training set.

    Returns:
        The counts made on the way, and the number of failed distiller calls.

    Raises:
        UserError: nothing is left to train on.
    """
    tally = Tally()
    usable = _usable(args, settings, questions, tally)
    failed = 0
    if args.strategy == "da" and args.diversity == "llm":
        chosen, failed = _picked(list(usable), args, choose_engine)
    elif args.strategy == "da":
        chosen = _farthest(usable, args, settings)
    else:
        chosen = ((question, passed[:1]) for question, passed in usable)
    if args.match and not failed:
        chosen = _matched(chosen, args, settings, tally)
    for question, picked in chosen:
        tally.sizes[len(picked)] += 1
        for target in picked:
            tally.chosen[target.trajectory.kind] += 1
            write(_row(question.sample, target, args))
    if not tally.enough:
        listing = ", ".join(f"{count} with {number}" for number, count in sorted(tally.by_correct.items()))
        raise UserError(
            f"--min_correct {args.min_correct}: no question has that many correct agents (of {tally.questions}: "
            f"{listing}); lower it, or label more"
        )
    if not tally.chosen and not failed:
        reasons = ", ".join(f"{count} {name}" for name, count in (tally.left_out() + tally.contaminated).items())
        raise UserError(f"--output {args.output}: nothing is left to train on ({reasons}); see --config")
    return tally.counts(args), failed


def _usable(
    args: Namespace, settings: SelectConfig, questions: Iterable[Question], tally: Tally
) -> Iterator[tuple[Question, list[Target]]]:
    """The questions that may be trained on, with their targets; for DA without near-duplicates."""
    held_out: EvaluationQuestions | None = None
    for question in questions:
        tally.questions += 1
        tally.by_correct[question.correct] += 1
        tally.paths.update(path.kind for path in question.trajectories if path.kind != AGGREGATE)
        if question.correct < args.min_correct:
            continue
        tally.enough += 1
        held_out = held_out or EvaluationQuestions(args.contamination, settings.ngram)
        if (hit := held_out.hit(question.sample.id, question.sample.query)) is not None:
            tally.contaminated[hit] += 1
            continue
        passed = usable_targets(question, args, settings, tally.dropped, tally.thinking)
        if args.strategy == "da":
            kept = distinct([target.text for target in passed], settings.near_duplicate, settings.shingle)
            tally.alike = (tally.alike or 0) + len(passed) - len(kept)
            passed = [passed[index] for index in kept]
        yield question, passed


def _picked(
    usable: Sequence[tuple[Question, list[Target]]], args: Namespace, choose_engine: Callable[..., Choice]
) -> tuple[Iterable[tuple[Question, list[Target]]], int]:
    """The targets that the distiller picked, and the number of its failed calls."""
    picked, failed = ask_distiller(usable, args, choose_engine)
    chosen = [
        (question, [passed[index] for index in picked.get(question.sample.id, range(len(passed)))])
        for question, passed in usable
        if len(passed) <= 1 or question.sample.id in picked
    ]
    return chosen, failed


def _farthest(
    usable: Iterable[tuple[Question, list[Target]]], args: Namespace, settings: SelectConfig
) -> Iterator[tuple[Question, list[Target]]]:
    """At most k targets per question that are far from each other."""
    distances: Callable[[Sequence[str]], diversity.Distances] | None = None
    for question, passed in usable:
        distances = distances or _distances(args, settings)
        picks = diversity.farthest(distances([target.text for target in passed]), args.k)
        yield question, [passed[index] for index in picks]


def _matched(
    chosen: Iterable[tuple[Question, list[Target]]], args: Namespace, settings: SelectConfig, tally: Tally
) -> Iterable[tuple[Question, list[Target]]]:
    """Of the chosen targets those that the sets of `--match` leave; nothing where nothing was chosen."""
    every = list(chosen)
    texts = {
        question.sample.id: [_target_text(question.sample, one, args) for one in picked] for question, picked in every
    }
    if not any(texts.values()):
        return every
    kept, tally.matched = match.kept_of(texts, args.match, settings.seed)
    return [
        (question, picked[: kept.get(question.sample.id, 0)])
        for question, picked in every
        if question.sample.id in kept or not picked
    ]


def _target_text(sample: Sample, target: Target, args: Namespace) -> str:
    return targets.answer_only(sample) if args.target == "answer" else target.text


def _row(sample: Sample, target: Target, args: Namespace) -> Row:
    trajectory = target.trajectory
    text = _target_text(sample, target, args)
    return Row(
        id=sample.id,
        prompt=[{"role": "user", "content": sample.prompt}],  # as inference asks a single model (vanilla)
        completion=[{"role": "assistant", "content": text}],
        source=sample.source,
        method=trajectory.method,
        teacher=trajectory.teacher,
        agent=trajectory.agent,
        solution=trajectory.solution,
        path=trajectory.kind,
        strategy=args.strategy,
        trace="answer" if args.target == "answer" else args.trace,
    )
