r"""MBPP: basic Python problems, each with three assertions (Austin et al. 2021, arXiv 2108.07732).

A raw row, `mbpp_<split>.jsonl`, `mbpp.jsonl` (all splits in one file, as the authors publish it) and
google-research-datasets/mbpp (config full):

    {"task_id": 2, "text": "Write a function to find the similar elements from the given two tuple lists.",
     "code": "def similar_elements(test_tup1, test_tup2):\r\n  ...", "test_setup_code": "",
     "test_list": ["assert similar_elements((3, 4, 5, 6),(5, 7, 4, 10)) == (4, 5)", ...], "challenge_test_list": []}

Splits are the authors', by `task_id`, whatever the file's name is: 1-10 prompt, 11-510 test, 511-600 validation,
601-974 train. The setup code uses names of the solution, so it opens each test. The challenge tests (11 problems have
any) are left out, as in the paper's figures.

The paper shows all three assertions in the prompt, which also tells the function's name, and grades on the same three:
`show_tests=all`. A method that *runs* what it is shown has then seen its whole grade; `show_tests=first` keeps two of
them back. Scores need the sandbox; until then they are None.
"""

import re
from collections.abc import Iterator
from typing import Literal

from agentark.config import Config
from agentark.tasks.base import CODE_INSTRUCTION, BadRow, Hub, Row, Task, integer, string
from agentark.types import Sample

TASK_IDS = {
    "prompt": range(1, 11),
    "test": range(11, 511),
    "validation": range(511, 601),
    "train": range(601, 975),
}


class MBPPOptions(Config):
    show_tests: Literal["all", "first"] = "all"
    """How many of the assertions the question shows, and a method may run."""


def to_samples(row: Row, index: int, split: str, options: MBPPOptions) -> Iterator[Sample]:
    number = integer(row, "task_id")
    if number not in range(1, 975):
        raise BadRow(f"'task_id' must be 1 to 974, not {number}")
    if number not in TASK_IDS[split]:
        return
    code = _lines(string(row, "code"))
    setup = _lines(str(row.get("test_setup_code") or ""))
    asserts = row.get("test_list")
    if not isinstance(asserts, list) or not asserts or not all(isinstance(test, str) for test in asserts):
        raise BadRow("no 'test_list'")
    tests = tuple(f"{setup}\n{test}" if setup else test for test in asserts)
    shown = tests if options.show_tests == "all" else tests[:1]
    called = [name for name in re.findall(r"(?m)^def (\w+)", code) if re.search(rf"\b{name}\s*\(", asserts[0])]
    yield Sample(
        id=f"MBPP/{split}/{number}",
        source="MBPP",
        query="\n".join([string(row, "text"), "", "It must pass:", "", "```python", *shown, "```"]),
        gt=code,
        answer_type="code",
        instruction=CODE_INSTRUCTION,
        entry_point=called[-1] if called else None,
        tests=tests,
        visible_tests=shown,
    )


def _lines(code: str) -> str:
    return code.replace("\r\n", "\n").replace("\r", "\n")


TASK = Task(
    name="MBPP",
    splits=("train", "validation", "test", "prompt"),
    eval_split="test",
    metric="pass@1",
    kind="code",
    licence="CC BY 4.0",
    to_samples=to_samples,
    file_patterns=("mbpp_{split}.jsonl", "mbpp.jsonl"),
    hub=Hub("google-research-datasets/mbpp", ("full",)),
    options=MBPPOptions,
)
