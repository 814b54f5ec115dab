"""Grading programs: the code of a reply, whether it passes the hidden tests, and pass@k over several replies.

Code runs in the sandbox and nowhere else (agentark/sandbox.py), which refuses where isolation cannot be had.
"""

import asyncio
import os
import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from agentark import answers, metrics
from agentark.evaluation import Attempt, Graded, figure, grade
from agentark.tasks import Task
from agentark.types import Sample, UserError

BLOCK = re.compile(r"^[ \t]*(`{3,}|~{3,})[ \t]*([\w+-]*)[^\n]*\n(.*?)(?:^[ \t]*\1[`~]*[ \t]*$|\Z)", re.M | re.S)
"""A fenced code block: its language is group 2, its text group 3."""
PYTHON = {"", "python", "py", "python3"}


class CodeRun(Struct, frozen=True):
    """How programs are run."""

    timeout: float = 10.0
    """Seconds for each test."""
    unsafe_no_isolation: bool = False


def code_of(sample: Sample, reply: str) -> str | None:
    """The program in a reply: the last Python block that defines the asked-for function, else the last Python block.

    A reply without blocks counts as code when it holds a definition at the start of a line.
    """
    text = answers.visible(reply)
    if text is None:
        return None
    blocks = [block[3] for block in BLOCK.finditer(text) if block[2].lower() in PYTHON and block[3].strip()]
    if not blocks:
        return text.strip("\n") if re.search(r"^(?:async )?(?:def|class) ", text, re.M) else None
    name = re.escape(sample.entry_point or "")
    defining = [block for block in blocks if name and re.search(rf"^(?:async )?(?:def|class) {name}\b", block, re.M)]
    return (defining or blocks)[-1]


def program(sample: Sample, code: str) -> str:
    """What runs before the tests: what the question gives (imports, helpers), then the reply's code."""
    return f"{sample.preamble}\n\n{code}\n" if sample.preamble else f"{code}\n"


def grade_code(task: Task, given: Sequence[Attempt], run: CodeRun) -> tuple[list[Graded], str | None]:
    """Correct: every test passes. Blocks.

    Returns:
        The grades, and the isolation level that the programs ran under (None: none ran).

    Raises:
        UserError: a question without tests.
        SandboxUnavailable: isolation cannot be had here.
    """
    bare = [attempt.sample.id for attempt in given if not attempt.sample.tests]
    if bare:
        raise UserError(f"{len(bare)} rows have no tests to run (the first: {bare[0]})")
    return asyncio.run(_grade_all(task, given, run))


async def _grade_all(task: Task, given: Sequence[Attempt], run: CodeRun) -> tuple[list[Graded], str | None]:
    from agentark.sandbox import Verdicts, run_tests

    places = asyncio.Semaphore(len(os.sched_getaffinity(0)))

    async def verdicts(attempt: Attempt, code: str) -> Verdicts:
        async with places:
            return await run_tests(
                program(attempt.sample, code),
                attempt.sample.tests or (),
                timeout=run.timeout,
                unsafe_no_isolation=run.unsafe_no_isolation,
            )

    async def one(attempt: Attempt) -> tuple[Graded, str | None]:
        if attempt.text is None:
            return grade(task, attempt), None
        code = code_of(attempt.sample, attempt.text)
        if code is None:
            return grade(task, attempt, answer=None, correct=None, figures={"pass@1": 0.0}), None
        found = await verdicts(attempt, code)
        passed = all(found.passed)
        info: dict[str, Any] = {"tests": len(found.passed), "passed": sum(found.passed)}
        if not passed:
            info["why"] = next(error for error in found.errors if error is not None)
        row = grade(task, attempt, answer=code, correct=passed, figures={"pass@1": float(passed)}, info=info)
        return row, found.isolation

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(attempt)) for attempt in given]
    except* UserError as errors:
        raise errors.exceptions[0] from None
    done = [task.result() for task in tasks]
    return [row for row, _ in done], next((level for _, level in done if level is not None), None)


def pass_at_k_figures(graded: Sequence[Graded], ks: Sequence[int], seed: int = 0) -> dict[str, Any]:
    """`pass@k` for each k: the mean over questions with at least k replies (their number is its n)."""
    right: dict[str, list[bool]] = defaultdict(list)
    for row in graded:
        if row.verdict != "error":
            right[row.id].append(row.verdict == "correct")
    figures = {}
    for k in ks:
        enough = [(key, passed) for key, passed in right.items() if len(passed) >= k]
        values = [metrics.pass_at_k(len(passed), sum(passed), k) for _, passed in enough]
        figures[f"pass@{k}"] = figure(values, [key for key, _ in enough], seed)
    return figures
