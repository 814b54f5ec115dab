"""Choose training trajectories from labelled debates: R-SFT and DA (AgentArk, arXiv 2602.03955, phases 2 and 3).

    python -m distill.select --input results/GSM8K/<model>/llm_debate_infer_labeled_by_<judge>.jsonl \
        --output data/gsm8k_rsft.jsonl --strategy rsft

Writes prompt-completion rows for TRL, a dataset card beside them (<output>.card.md) and <output>.manifest.json. What is
chosen depends on the labelled questions alone, never on the order of rows or files.
"""

# ruff: noqa: T201 -- an entry script: it prints what it found

import re
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct
from pydantic import Field

from agentark import answers, cli, config
from agentark.config import Config
from agentark.labels import fields_of
from agentark.lock import RunLock
from agentark.records import Store, now
from agentark.runner import Defaults, session
from agentark.types import MethodInfo, Sample, UserError, digest
from distill import card, diversity, targets
from distill.overlap import EvaluationQuestions, distinct
from distill.paths import AGGREGATE, CLASSES, Trajectory, trajectories
from distill.sources import Labelled, read_labelled

CONFIG = Path(__file__).parents[1] / "configs" / "distill" / "select.yaml"
Strategy = Literal["rsft", "da"]
K_MAX = 3
"""Trajectories of a question in DA (the paper: 1 to 3)."""


class Preference(Config):
    """How much each kind of trajectory is preferred; 0: never used."""

    corrective: float = Field(ge=0)
    always_right: float = Field(ge=0)
    aggregate: float = Field(ge=0)


class SelectConfig(Config):
    """See configs/distill/select.yaml."""

    preference: Preference
    """R-SFT takes the highest, DA begins with it."""
    joiners: targets.Joiners
    answer_forms: targets.AnswerForms
    max_characters: int = Field(ge=1)
    """Of a target; longer ones are left out."""
    min_reasoning_words: int = Field(ge=0)
    """Of a target, beside its answer."""
    drop_truncated: bool
    """Whether solutions that ended at their token limit are left out."""
    peer_heading: re.Pattern[str]
    """A line that stands above a peer's text in the methods' prompts; targets that have one are left out."""
    near_duplicate: float = Field(gt=0, le=1)
    """Jaccard similarity from which two solutions of a question are the same; 1: only equal texts."""
    shingle: int = Field(ge=1)
    """Tokens that make a shingle."""
    ngram: int = Field(ge=0)
    """Words in a row shared with an evaluation question that make a question contaminated; 0: whole questions only."""
    embedding_model: str | None
    """Of sentence-transformers, for --diversity embed; None: TF-IDF."""
    seed: int = Field(ge=0)
    """Draws among equally preferred trajectories."""


class Question(Struct, frozen=True):
    """A question with all its labelled solutions, from every input."""

    sample: Sample
    trajectories: list[Trajectory]

    @property
    def correct(self) -> int:
        """Agents whose final answer is right."""
        return sum(one.verdict is True and one.kind != AGGREGATE for one in self.trajectories)


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


def parse(argv: list[str] | None = None) -> Namespace:
    parser = cli.Parser(prog="python -m distill.select", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--input", type=Path, nargs="+", required=True, help="labelled files of one dataset")
    parser.add_argument("--output", type=Path, required=True, help="training set to write (.jsonl)")
    parser.add_argument("--strategy", choices=["rsft", "da"], required=True, help="one trajectory a question, or k")
    parser.add_argument("--trajectories", type=Path, nargs="+", help="results files of the inputs, in their order")
    parser.add_argument("--min_correct", type=cli.integer(1), default=2, help="agents of a question that must be right")
    parser.add_argument("--trace", choices=["single", "dialogue"], default="single", help="what of a trajectory")
    parser.add_argument("--target", choices=["full", "answer"], default="full", help="answer: the gold answer alone")
    parser.add_argument("--thinking", choices=["strip", "keep"], default="strip", help="text between thinking tags")
    parser.add_argument("--k", type=int, choices=range(1, K_MAX + 1), default=K_MAX, help="DA: at most so many")
    parser.add_argument("--diversity", choices=["llm", "embed", "ngram"], default="embed", help="DA: who says differs")
    parser.add_argument("--distiller", help="DA with --diversity llm: the model that picks")
    parser.add_argument("--contamination", type=Path, nargs="+", default=[], help="evaluation files to stay clear of")
    parser.add_argument("--config", type=Path, default=CONFIG, help="settings of the selection")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="overrides of that file")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing training set")
    parser.add_argument("--push_to_hub", metavar="REPO", help="also upload set and card to this dataset repository")
    cli.add_engine_flags(parser)
    parser.set_defaults(debug=False)
    args: Namespace = parser.parse_args(argv)
    llm = args.strategy == "da" and args.diversity == "llm"
    if llm and args.distiller is None:
        raise UserError("--diversity llm: the model that picks is missing (--distiller MODEL)")
    if not llm and args.distiller is not None:
        raise UserError(f"--distiller {args.distiller}: goes with --strategy da --diversity llm")
    if args.target == "answer" and args.strategy == "da":
        raise UserError("--target answer: one answer per question, so it goes with --strategy rsft")
    if args.trajectories is not None and len(args.trajectories) != len(args.input):
        raise UserError(f"--trajectories: {len(args.trajectories)} files for {len(args.input)} of --input")
    return args


# ---------------------------------------------------------------- reading


def read(args: Namespace) -> list[Labelled]:
    """The inputs, in an order that does not depend on the command line."""
    given = args.trajectories or [None] * len(args.input)
    found = [read_labelled(labels, trajectories) for labels, trajectories in zip(args.input, given, strict=True)]
    names = {one.task.name for one in found}
    if len(names) > 1:
        raise UserError(f"--input: files of several datasets ({', '.join(sorted(names))}); select each by itself")
    hashes = Counter(one.labels_sha256 for one in found)
    if max(hashes.values()) > 1:
        raise UserError("--input: the same file twice")
    return sorted(found, key=lambda one: (one.name, one.labels_sha256))


def merge(sources: Sequence[Labelled]) -> list[Question]:
    """Every question once, with the solutions of all inputs, ordered by id.

    Raises:
        UserError: the same id with another question.
    """
    questions: dict[str, Question] = {}
    for source in sources:
        for record, row in source.pairs:
            sample = record.sample()
            known = questions.setdefault(record.id, Question(sample, []))
            if known.sample != sample:
                raise UserError(f"--input {source.labels}: {record.id} is another question than in the other inputs")
            known.trajectories.extend(trajectories(record, row))
    return [questions[id] for id in sorted(questions)]


# ---------------------------------------------------------------- choosing


def preferred(one: Question, settings: SelectConfig) -> list[Trajectory]:
    """The correct trajectories, best first: by preference, then in an order drawn from the seed and the id."""
    weights = settings.preference.model_dump()
    usable = [each for each in one.trajectories if each.verdict is True and weights.get(each.kind, 0) > 0]
    return sorted(
        usable, key=lambda each: (-weights[each.kind], digest((settings.seed, one.sample.id, each.key)), each.key)
    )


def usable_targets(
    one: Question, args: Namespace, settings: SelectConfig, dropped: Counter[str], thinking: Counter[str]
) -> list[Target]:
    """The trajectories of a question that pass the filters, best first; what does not is counted."""
    found = []
    for trajectory in preferred(one, settings):
        reason, text = _text(one.sample, trajectory, args, settings)
        if text is None:
            dropped[reason] += 1
            continue
        last = trajectory.replies[-1]
        if last.reasoning or "</think>" in last.text:
            thinking["thinking kept" if args.thinking == "keep" else "thinking stripped"] += 1
        found.append(Target(trajectory, text))
    return found


def _text(sample: Sample, one: Trajectory, args: Namespace, settings: SelectConfig) -> tuple[str, str | None]:
    """(why there is none, the target's text)."""
    if settings.drop_truncated and one.truncated:
        return "truncated", None
    text = targets.compose(sample, one, args.trace, args.thinking, settings.joiners, settings.answer_forms)
    if text is None or answers.extract(one.replies[-1].text, sample.answer_type, sample.choices) is None:
        return "no answer", None
    if any(map(settings.peer_heading.match, text.splitlines())):
        return "repeats a peer", None
    if targets.reasoning_words(sample, text) < settings.min_reasoning_words:
        return "answer without reasoning", None
    if len(text) > settings.max_characters:
        return "too long", None
    return "", text


def diverse(usable: Sequence[Target], args: Namespace, embedder: diversity.Embedder | None) -> list[int]:
    """Places of at most k structurally different targets, by distances."""
    texts = [one.text for one in usable]
    if args.diversity == "ngram":
        distances = diversity.ngram_distances(texts)
    else:
        distances = embedder.distances(texts) if embedder else diversity.tfidf_distances(texts)
    return diversity.farthest(distances, args.k)


def ask_distiller(
    questions: Sequence[tuple[Question, list[Target]]],
    args: Namespace,
    choose_engine: Callable[..., cli.Choice],
) -> tuple[dict[str, list[int]], int]:
    """(id -> places that the distiller model picked, how many questions failed). Resumable like every run."""
    asked = [
        diversity.Choosable(**fields_of(one.sample), solutions=tuple(target.text for target in usable))
        for one, usable in questions
        if len(usable) > 1
    ]
    if not asked:
        return {}, 0
    label, make_engine = choose_engine(args, args.distiller, "--distiller")
    path = args.output.with_name(f"{args.output.name}.picks.jsonl")
    with RunLock(path) as lock:
        store = Store(path, {"distiller": label, "k": args.k, "seed": 0}, overwrite=args.overwrite)
        done = {row.id: row.input for row in _picks(path)} if store.done else {}
        todo = [one for one in asked if one.id not in store.done or done[one.id] != digest(one)]
        failed = 0
        if todo:
            info = MethodInfo("distiller", "llm", {"k": args.k})
            provenance = {"started": now(), "command": cli.command_line(), "versions": cli.provenance()}
            order = {one.id: place for place, one in enumerate(asked)}
            run = session(
                make_engine(lock),
                store,
                todo,
                order,
                diversity.Distiller(args.k),
                info,
                label,
                Defaults(0.0, diversity.PICK_TOKENS, 0),
                provenance,
                row=diversity.pick_row,
            )
            failed = cli.run_async(run).failed
    ids = {one.id for one in asked}
    return {row.id: row.picks for row in _picks(path) if row.error is None and row.id in ids}, failed


def _picks(path: Path) -> list[diversity.PickRow]:
    decoder = msgspec.json.Decoder(diversity.PickRow)
    return list({row.id: row for row in map(decoder.decode, path.read_bytes().splitlines())}.values())


# ---------------------------------------------------------------- the whole


def select(
    args: Namespace,
    settings: SelectConfig,
    questions: Sequence[Question],
    choose_engine: Callable[..., cli.Choice] = cli.choose_engine,
) -> tuple[list[Row], dict[str, Any], int]:
    """The rows of the training set, what was counted on the way, and how many distiller calls failed.

    Raises:
        UserError: nothing is left to train on.
    """
    by_correct = Counter(one.correct for one in questions)
    seen = Counter(each.kind for one in questions for each in one.trajectories if each.kind != AGGREGATE)
    enough = [one for one in questions if one.correct >= args.min_correct]
    if not enough:
        listing = ", ".join(f"{count} with {number}" for number, count in sorted(by_correct.items()))
        raise UserError(
            f"--min_correct {args.min_correct}: no question has so many correct agents (of {len(questions)}: "
            f"{listing}); lower it, or label more"
        )
    held_out = EvaluationQuestions(args.contamination, settings.ngram)
    hits = {one.sample.id: held_out.hit(one.sample.id, one.sample.query) for one in enough}
    clean = [one for one in enough if hits[one.sample.id] is None]
    dropped: Counter[str] = Counter()
    thinking: Counter[str] = Counter()
    usable = [(one, usable_targets(one, args, settings, dropped, thinking)) for one in clean]
    failed = 0
    if args.strategy == "da":
        chosen, failed = _augmented(usable, args, settings, dropped, choose_engine)
    else:
        chosen = [(one, found[:1]) for one, found in usable]
    rows = [_row(one.sample, target, args) for one, found in chosen for target in found]
    if not rows and not failed:
        reasons = ", ".join(
            f"{count} {name}" for name, count in (dropped + Counter(filter(None, hits.values()))).items()
        )
        raise UserError(f"--output {args.output}: nothing is left to train on ({reasons}); see --config")
    picked = Counter(len(found) for _, found in chosen)
    counts = {
        "questions": len(questions),
        "questions_by_correct_agents": {str(number): count for number, count in sorted(by_correct.items())},
        "agent_paths": {name: seen[name] for name in CLASSES},
        "questions_with_enough_correct": len(enough),
        "contaminated": dict(sorted(Counter(filter(None, hits.values())).items())),
        "dropped_trajectories": dict(sorted(dropped.items())),
        "thinking": dict(sorted(thinking.items())),
        "questions_left_out_by_filters": picked[0],
        "questions_chosen": len(chosen) - picked[0],
        "trajectories_per_question": {str(number): count for number, count in sorted(picked.items()) if number},
        "chosen_paths": dict(sorted(Counter(row.path for row in rows).items())),
        "rows": len(rows),
    }
    if args.strategy == "da":
        counts["questions_with_fewer_than_k"] = sum(count for number, count in picked.items() if 0 < number < args.k)
    return rows, counts, failed


def _augmented(
    usable: Sequence[tuple[Question, list[Target]]],
    args: Namespace,
    settings: SelectConfig,
    dropped: Counter[str],
    choose_engine: Callable[..., cli.Choice],
) -> tuple[list[tuple[Question, list[Target]]], int]:
    """DA: at most k different targets of every question."""
    unlike = []
    for one, found in usable:
        kept = distinct([target.text for target in found], settings.near_duplicate, settings.shingle)
        dropped["near-duplicate"] += len(found) - len(kept)
        unlike.append((one, [found[place] for place in kept]))
    if args.diversity == "llm":
        picks, failed = ask_distiller(unlike, args, choose_engine)
        chosen = [
            (one, [found[place] for place in picks[one.sample.id]] if one.sample.id in picks else found)
            for one, found in unlike
            if len(found) <= 1 or one.sample.id in picks
        ]
        return chosen, failed
    embedder = None
    if args.diversity == "embed" and settings.embedding_model is not None:
        if find_spec("sentence_transformers") is None:
            raise UserError(
                f"embedding_model = {settings.embedding_model!r}: needs sentence-transformers (pip install "
                "sentence-transformers); null takes TF-IDF"
            )
        embedder = diversity.Embedder(settings.embedding_model)
    return [(one, [found[place] for place in diverse(found, args, embedder)]) for one, found in unlike], 0


def _row(sample: Sample, target: Target, args: Namespace) -> Row:
    one = target.trajectory
    return Row(
        id=sample.id,
        prompt=targets.prompt_of(sample),
        completion=targets.completion_of(targets.answer_only(sample) if args.target == "answer" else target.text),
        source=sample.source,
        method=one.method,
        teacher=one.teacher,
        agent=one.agent,
        solution=one.solution,
        path=one.kind,
        strategy=args.strategy,
        trace="answer" if args.target == "answer" else args.trace,
    )


def main(argv: list[str] | None = None, choose_engine: Callable[..., cli.Choice] = cli.choose_engine) -> int:
    args = parse(argv)
    settings = config.load(SelectConfig, args.config, args.set, "--set")
    if args.output.exists() and not args.overwrite:
        raise UserError(f"--output {args.output}: exists; use --overwrite to replace it")
    try:
        args.output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {args.output}: cannot be written ({error.strerror})") from None
    sources = read(args)
    try:
        rows, counts, failed = select(args, settings, merge(sources), choose_engine)
    finally:
        answers.close_pool()
    if failed:
        print(f"the distiller failed on {failed} questions; retry them with: {cli.command_line()}")
        return 1
    manifest = card.manifest(args, settings, sources, counts)
    paths = card.write(args.output, rows, manifest)
    print(card.report(counts, args))
    print("\n".join(f"written to {path}" for path in paths))
    if args.push_to_hub:
        print(f"uploaded to {card.push(args.push_to_hub, *paths[:2])}")
    return 0


if __name__ == "__main__":
    cli.entry(main)
