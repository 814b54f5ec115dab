"""How the laboratory's models are taught: the base in three phases, each member from the base."""

# ruff: noqa: T201 -- part of an entry script: it prints how far the teaching is

import multiprocessing
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Thread
from typing import Any

from agentark import answers, exam, quiet
from agentark.config import build
from agentark.hub import pretrained
from agentark.tasks import get_task
from agentark.tasks.hidden_digits import LETTERS, NOUNS
from agentark.types import RunError
from agentark.workers import end_with_parent
from study.lab import lessons, model
from study.lab.lessons import Shape
from study.lab.model import Lesson, said
from study.lab.worlds import Digit

HIDDEN, LAYERS, HEADS = 64, 5, 2
BATCH = 32
"""Lessons of a step in which peers are read; half as many more of those alone."""
BASE_STEPS, MEMBER_STEPS = 800, 160
SOLO, EASY = 0.17, 0.45
"""Shares of the base's steps until which it only solves alone, and until which what it reads is short and agrees."""
ALONE, LONG = (2, 3, 4, 5, 6, 7), (4, 6)
"""Nouns of the questions that are solved alone, and of those that are debated."""
UNKNOWN = 0.2
"""Share of the nouns that the base knows nothing about; all others have a drawn digit."""
ASKED = 300
"""Questions on which members are compared."""


def lessons_of_base(draw: random.Random, table: Mapping[str, Digit], steps: int, peers: int) -> Iterator[list[Lesson]]:
    """A kind and a shape for each step: dialogues of one length need no padding."""
    for step in range(steps):
        easy = step < EASY * steps
        [kind] = ["alone"] if step < SOLO * steps else draw.choices(("alone", "revising", "reading"), (0.2, 0.6, 0.2))
        items, told = ((2, 3, 4), range(1, peers + 1)) if easy else (LONG, (peers,))
        shape = Shape([draw.choice(items)], draw.choice(told), gaps=draw.random() < 0.2, easy=easy)
        yield [lesson._replace(whole=kind != "alone") for lesson in _batch(draw, kind, shape, table)]


def lessons_of_member(
    draw: random.Random, table: Mapping[str, Digit], steps: int, peers: int
) -> Iterator[list[Lesson]]:
    """Half of them alone; the base's other skills are rehearsed."""
    gaps = None in table.values()
    for _ in range(steps):
        [kind] = draw.choices(("alone", "revising", "reading"), (0.5, 0.4, 0.1))
        shape = Shape([draw.choice(LONG)], peers, gaps=gaps)
        yield _batch(draw, kind, shape, table)


def _batch(draw: random.Random, kind: str, shape: Shape, table: Mapping[str, Digit]) -> list[Lesson]:
    if kind == "alone":
        return [lessons.alone(draw, ALONE, table) for _ in range(BATCH + BATCH // 2)]
    lesson = lessons.revising if kind == "revising" else lessons.reading
    return [lesson(draw, shape, table) for _ in range(BATCH)]


def vocabulary(draw: random.Random) -> list[str]:
    """Texts with every word that a lesson can have."""
    table: dict[str, Digit] = dict.fromkeys(NOUNS, 0)
    shape = Shape([len(LETTERS)], 4, False)
    made = [
        lesson
        for _ in range(9)
        for lesson in (lessons.revising(draw, shape, table), lessons.reading(draw, shape, table))
    ]
    texts = [text for lesson in made for text in (*(said["content"] for said in lesson.messages), lesson.reply)]
    digits = [f"a) x {digit} sum {digit}{digit}" for digit in (*range(10), "?")]
    return [*texts, *digits, *NOUNS, *(f"a) {noun}" for noun in NOUNS)]


def said_of(name: str, steps: int) -> Callable[[int, float], None]:
    """A report of a teaching as a line."""
    began = time.monotonic()

    def report(step: int, loss: float) -> None:
        print(f"{name}, step {step} of {steps}: loss {loss:.3f}, {time.monotonic() - began:.0f} s", flush=True)

    return report


def make_base(folder: Path, steps: int, seed: int, peers: int) -> None:
    """A model that can debate with this many peers."""
    draw = random.Random(seed)
    table: dict[str, Digit] = {noun: None if draw.random() < UNKNOWN else draw.randrange(10) for noun in NOUNS}
    tokenizer = model.make_tokenizer(vocabulary(draw))
    made = model.new_model(tokenizer, hidden=HIDDEN, layers=LAYERS, heads=HEADS, seed=seed)
    print(f"base: {made.num_parameters() / 1e6:.2f}M parameters, {len(tokenizer)} tokens", flush=True)
    model.teach(
        made, tokenizer, lessons_of_base(draw, table, steps, peers), steps, muon=0.02, adam=3e-3, warmup=60,
        report=said_of("base", steps),
    )  # fmt: skip
    model.save(made, tokenizer, folder)


def make_member(folder: Path, base: Path, table: Mapping[str, Digit], steps: int, seed: int, peers: int) -> None:
    import torch

    torch.manual_seed(seed)
    tokenizer = pretrained("AutoTokenizer", str(base))
    made = pretrained("AutoModelForCausalLM", str(base), dtype=torch.float32)
    model.teach(
        made, tokenizer, lessons_of_member(random.Random(seed), table, steps, peers), steps, muon=0.01, adam=2e-3,
        warmup=10, report=said_of(folder.name, steps),
    )  # fmt: skip
    model.save(made, tokenizer, folder)


def in_parallel(jobs: Sequence[tuple[Any, ...]]) -> None:
    """Call `make_member` with each of these arguments at once, in a process of one thread each.

    None waits for another, so that no core idles while the last is taught.

    Raises:
        RunError: one of them failed; its traceback is on stderr.
    """
    context = multiprocessing.get_context("spawn")

    def run(job: tuple[Any, ...]) -> int | None:
        process = context.Process(target=_in_process, args=job, daemon=True)
        process.start()
        process.join()
        return process.exitcode

    with ThreadPoolExecutor(len(jobs)) as pool:
        codes = list(pool.map(run, jobs))
    if failed := [str(job[0]) for job, code in zip(jobs, codes, strict=True) if code != 0]:
        raise RunError(f"{', '.join(failed)}: could not be taught")


def _in_process(*job: Any) -> None:
    Thread(target=end_with_parent, daemon=True).start()
    quiet.hush()
    import torch

    torch.set_num_threads(1)
    make_member(*job)


def right_alone(folder: Path) -> float:
    """Share of questions that a model answers right by itself."""
    task = get_task("HiddenDigits")
    options = build(task.options, {"items": list(LONG), "size": 4 * ASKED, "seed": 1}, "HiddenDigits")
    samples = task.load("train", None, options, limit=ASKED).samples
    tokenizer, made = pretrained("AutoTokenizer", str(folder)), pretrained("AutoModelForCausalLM", str(folder))
    asked = [[said("user", sample.prompt)] for sample in samples]
    replies = exam.greedy(made, tokenizer, asked, 80, 100)
    try:
        scores = task.score_many([(sample, text) for sample, (text, _) in zip(samples, replies, strict=True)])
    finally:
        answers.close_pool()
    return sum(score or 0.0 for score in scores) / len(samples)
