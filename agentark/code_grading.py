"""Grading programs: the code of a reply, whether it passes the hidden tests, and pass@k over several replies.

Code runs in the sandbox and nowhere else (agentark/sandbox.py), which refuses where nothing can isolate it.
"""

import ast
import asyncio
import builtins
import os
import re
import symtable
import textwrap
import warnings
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from agentark import answers, metrics
from agentark.evaluation import Attempt, Graded, grade
from agentark.figures import figure
from agentark.tasks import Task
from agentark.types import Sample, UserError

BLOCK = re.compile(
    r"^[ \t]*(?:(?:[-*+]|\d+[.)])[ \t]+)?(`{3,}|~{3,})[ \t]*\{?\.?([\w+-]*)[^\n`]*\n(.*?)"
    r"(?:(?:^[ \t]*|(?<=\S)[ \t]*)\1[`~]*[ \t]*$|\Z)",
    re.M | re.S,
)
"""A fenced code block: its language is group 2, its text group 3. The closing fence may end the last line of code."""
TAGGED = re.compile(r"\[(?:PYTHON|CODE|BEGIN)\][ \t]*\n?(.*?)(?:\[(?:/PYTHON|/CODE|DONE|END)\]|\Z)", re.S)
QUOTED_FENCE = re.compile(r"^[ \t]*(?:>[ \t]?)+(?:`{3}|~{3})", re.M)
INDENTED = re.compile(r"(?:^[ \t]+\S[^\n]*(?:\n|\Z)|^[ \t]*\n)+", re.M)
PYTHON = {"", "python", "py", "python3"}


class CodeRun(Struct, frozen=True):
    """How programs are run."""

    timeout: float = 10.0
    """Seconds for each test."""
    unsafe_no_isolation: bool = False


def plain(text: str) -> str:
    """Text with plain line ends, and without the marks of a quotation that holds a fence."""
    text = re.sub(r"\r\n?", "\n", text)
    return re.sub(r"^[ \t]*(?:>[ \t]?)+", "", text, flags=re.M) if QUOTED_FENCE.search(text) else text


def fenced(text: str) -> list[tuple[str, str]]:
    """(language in lower case, code) of every fenced block of a reply; a block cut short at the end counts.

    Indentation that belongs to the fence is taken off.
    """
    blocks = []
    for block in BLOCK.finditer(plain(text)):
        margin = block.start(1) - block.start()
        code = re.sub(rf"^[ \t]{{0,{margin}}}", "", block[3], flags=re.M) if margin else block[3]
        blocks.append((block[2].lower(), textwrap.dedent(code) if code[:1] in " \t" else code))
    return blocks


def code_of(sample: Sample, reply: str) -> str | None:
    """The program in a reply: the last Python block that defines the asked-for function, else the last Python block.

    Definitions and imports that it needs from other blocks go before it. A bare body is put below the head that the
    question shows. A reply without blocks counts as code when it holds a definition; the prose around it is left out.
    """
    text = answers.visible(reply)
    if text is None:
        return None
    text = plain(text)
    blocks = [code for language, code in fenced(text) if language in PYTHON and code.strip()]
    blocks = blocks or [textwrap.dedent(code).rstrip() + "\n" for code in TAGGED.findall(text) if code.strip()]
    name = re.escape(sample.entry_point or "")
    defines = re.compile(rf"^(?:(?:async )?def |class ){name}\b|^{name}\b[^=\n]*=(?!=)" if name else r"(?!)", re.M)
    defining = [block for block in blocks if defines.search(block)]
    outside = BLOCK.sub("", text)
    if not defining and (not blocks or defines.search(outside)):
        return _completed(sample, outside) or _unfenced(outside)
    chosen = (defining or blocks)[-1]
    return _completed(sample, chosen) or "\n".join([*_needed(sample, blocks, blocks.index(chosen)), chosen])


def _parsed(code: str) -> ast.Module | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(code, "reply", "exec", dont_inherit=True)  # unlike ast, refuses a `return` outside of functions
            return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _completed(sample: Sample, body: str) -> str | None:
    """The program, if the reply is the body of the function whose head the question shows; else None."""
    head = re.compile(rf"^[ \t]*(?:async )?def {sample.entry_point}\b", re.M)
    heads = [code for _, code in fenced(sample.query) if head.search(code)]
    returns = re.search(r"^[ \t]*(?:return|yield|raise)\b", body, re.M)
    if not heads or not returns or head.search(body) or _parsed(body):
        return None
    forms = [textwrap.indent(textwrap.dedent(body), "    "), f"    {body.strip()}"]
    forms += [textwrap.indent(textwrap.dedent(run), "    ") for run in sorted(INDENTED.findall(body), key=len)[-1:]]
    programs = [f"{heads[-1].rstrip()}\n{form.rstrip()}\n" for form in forms if form.strip()]
    return next((program for program in programs if _parsed(program)), None)


def _unfenced(text: str) -> str | None:
    """The definitions, imports and constants of a reply without blocks."""
    if not re.search(r"^(?:async )?(?:def|class) ", text, re.M):
        text = textwrap.dedent("".join(run for run in INDENTED.findall(text) if re.search(r"^\s+def ", run, re.M)))
    if not text.strip():
        return None
    tree = _parsed(text)
    if tree and not any(isinstance(node, ast.Expr) and isinstance(node.value, ast.Name) for node in tree.body):
        return text.strip("\n")  # a word of prose is a name
    lines, parts, first = text.split("\n"), [], 0
    margin = [place for place, line in enumerate(lines) if line[:1].strip()] + [len(lines)]
    begins = re.compile(r"@|(?:async def|def|class|import|from|try)\b|\w+ *(?::[^=]+)?= ")
    for index, place in enumerate(margin[:-1]):
        if place < first or not begins.match(lines[place]):
            continue
        for end in margin[index + 1 : index + 20]:  # a bracket, a docstring or an `except` may stand at the margin too
            if _parsed("\n".join(lines[place:end])):
                parts.append("\n".join(lines[place:end]).rstrip())
                first = end
                break
    return "\n\n".join(parts) or text.strip("\n")


def _names(code: str) -> tuple[set[str], set[str]]:
    """(global names that code makes, those it uses and does not make)."""
    tables = [symtable.symtable(code, "reply", "exec")]
    made = {name.get_name() for name in tables[0].get_symbols() if name.is_assigned() or name.is_imported()}
    used = set()
    for table in tables:
        tables += table.get_children()
        names = [name for name in table.get_symbols() if name.is_referenced()]
        used |= {name.get_name() for name in names if name.is_global() or table is tables[0]}
    return made, used - made


def _needed(sample: Sample, blocks: Sequence[str], chosen: int) -> list[str]:
    """Code a block needs from the others: their definitions and imports; constants only from blocks before it."""
    if not _parsed(blocks[chosen]):
        return []
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)
    parts = []
    for place, block in enumerate(blocks):
        kinds = (*definitions, ast.Assign, ast.AnnAssign) if place < chosen else definitions
        tree = _parsed(block) if place != chosen else None
        parts += [ast.unparse(node) for node in tree.body if isinstance(node, kinds)] if tree else []
    wanted = _names(blocks[chosen])[1] - {*dir(builtins), *_names(sample.preamble or "")[0]}
    for _ in parts:  # the code that is needed may need more
        for part in parts:
            made, used = _names(part)
            wanted |= used if made & wanted else set()
    return [part for part in parts if wanted and (_names(part)[0] & wanted or part.endswith("import *"))]


def program(sample: Sample, code: str) -> str:
    """The code that runs before the tests: the question's own (imports, helpers), then the reply's."""
    return f"{sample.preamble}\n\n{code}\n" if sample.preamble else f"{code}\n"


def grade_code(task: Task, given: Sequence[Attempt], run: CodeRun) -> tuple[list[Graded], str | None]:
    """Correct: every test passes. Blocks.

    Returns:
        The grades, and the isolation level that the programs ran under (None: none ran).

    Raises:
        UserError: a question without tests.
        SandboxUnavailable: nothing here can isolate the programs.
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
                setup=attempt.sample.preamble or "",
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
