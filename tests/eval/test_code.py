"""Code evaluation: the program in a reply, its verdict from the sandbox, pass@k over several replies."""

import json
import textwrap
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from fakes import ScriptedEngine
from msgspec import structs

from agentark.code_grading import CodeRun, code_of, fenced, grade_code, program
from agentark.engines.choose import Choice
from agentark.evaluation import Attempt
from agentark.sandbox import isolation_level, run_tests_sync
from agentark.tasks import get_task
from agentark.types import Message, Sample, SamplingParams
from eval import code_eval

SAMPLE = Sample(
    id="a", source="HumanEval", query="q", gt="", answer_type="code", preamble="import math", entry_point="area"
)

needs_isolation = pytest.mark.skipif(isolation_level() == "none", reason="nothing isolates programs here")


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        ("Sure:\n```python\ndef area(r):\n    return r\n```\nDone.", "def area(r):\n    return r\n"),
        ("```py\ndef area(): 1\n```\nUse it:\n```python\nprint(area())\n```", "def area(): 1\n"),
        ("```python\ndef other(): 1\n```\n```\ndef area(): 2\n```", "def area(): 2\n"),
        ("```bash\nls\n```\n```python\nx = 1\n```", "x = 1\n"),
        ("```python\ndef area(): cut", "def area(): cut"),
        ("def area(r):\n    return r", "def area(r):\n    return r"),
        ("<think>```python\nx\n```</think>\n```python\ny\n```", "y\n"),
        ("I would define a function.", None),
        ("<think>never ends", None),
        ("```bash\nls\n```", None),
    ],
)
def test_the_program_in_a_reply(reply: str, code: str | None) -> None:
    assert code_of(SAMPLE, reply) == code


HEAD = 'import math\n\n\ndef area(r):\n    """Area of a disc."""\n'
ASKED = structs.replace(SAMPLE, query=f"Complete this Python function.\n\n```python\n{HEAD.strip()}\n```")
BODY = "    if r < 0:\n        return 0\n    return math.pi * r**2\n"
WHOLE = f"def area(r):\n{BODY}"


@pytest.mark.parametrize(
    "reply",
    [
        # prose around an unfenced definition
        f"Here is the function.\n\n{WHOLE}\nIt returns the area.",
        f"Solution\n\nfrom math import pi\nTAU = 2 * pi\n\n@staticmethod\ndef none(r): 1\n\n{WHOLE}\n"
        "from here on it is easy!\nDone",
        f"Sure! The function:\n\n{textwrap.indent(WHOLE, '    ')}\nThat is all.",
        f"{WHOLE}```\nThe question had opened the fence, so this is prose.",
        f"{WHOLE}```\nIt is used like this:\n```python\nprint(area(1))\n```",
        # fences that are indented, quoted, in a list
        f"1. Write it:\n\n   ```python\n{textwrap.indent(WHOLE, '   ')}   ```\n2. Done.",
        f"- ```python\n{textwrap.indent(WHOLE, '  ')}  ```",
        f"  ```python\n{textwrap.indent(WHOLE, '    ')}  ```",
        f"\t```python\n{textwrap.indent(WHOLE, chr(9))}\t```",
        "> Here:\n" + textwrap.indent(f"```python\n{WHOLE}```", "> ", lambda line: True) + "\n\nOK?",
        textwrap.indent(f"```python\n{WHOLE}```", ">> ", lambda line: True),
        # line ends
        f"So:\n```python\n{WHOLE}```\nDone.\n".replace("\n", "\r\n"),
        f"Here is the function.\n\n{WHOLE}\nIt returns the area.".replace("\n", "\r\n"),
        # a body only
        BODY,
        f"{BODY}\n\nprint(area(3))\nThis prints the area.",
        f"```python\n{BODY}```",
        f"```python\n{textwrap.dedent(BODY)}```",
        f"```python\n{BODY.strip()}\n```",
        f"The body is:\n\n{BODY}",
        # helpers and imports in other blocks
        "```python\ndef square(x): return unit(x) * x\ndef unit(x): return x\n```\nThen\n"
        "```python\ndef area(r):\n    return math.pi * square(r) if r > 0 else 0\n```",
        "```python\nfrom math import pi as circle\nHALF = 0.5\n```\n```\ndef area(r):\n"
        "    return max(r, 0)**2 * circle * 2 * HALF\n```\n"
        "```python\nHALF, max, r = 0.5, area(1), None\nprint(area(1))\n```",
        "```python\nfrom math import *\n```\n```python\ndef area(r): return max(r, 0)**2 * pi\n```",
        # marks of code models
        f"[PYTHON]\n{WHOLE}[/PYTHON]\n[TESTS]\nassert area(1)\n[/TESTS]",
        f"[PYTHON]\n```python\n{WHOLE}```\n[/PYTHON]",
        f"[BEGIN]\n{WHOLE}[DONE]\nWrite another function.",
        # a closing fence on the last line of code
        f"```python\n{WHOLE.rstrip()}```\nIt returns the area.",
        f"```python\n{WHOLE.rstrip()} ```\nUsed like this: ```area(1)```\n",
        # others
        f"```{{.python}}\n{WHOLE}```\n",
        "```python\narea = lambda r: math.pi * max(r, 0)**2\n```\n```python\narea(2) == 12\n```",
        f"``` area ``` is this:\n```python\n{WHOLE}```\n",
    ],
)
def test_right_programs_in_every_form(reply: str) -> None:
    code = code_of(ASKED, reply)
    assert code is not None
    scope: dict[str, Any] = {"__name__": "solution"}
    exec(program(ASKED, code), scope)  # noqa: S102
    assert (scope["area"](-1), scope["area"](2)) == (0, pytest.approx(12.566370614))


@pytest.mark.parametrize("reply", ["I return nothing.", "    return to sender", "It is\n\n    a thing", "x = 1", ">"])
def test_prose_is_no_program(reply: str) -> None:
    assert code_of(ASKED, reply) is None


def test_code_blocks() -> None:
    assert fenced("a\n```Python\nx = 1\n```\n~~~\ny\n~~~\n```sh\nls") == [
        ("python", "x = 1\n"),
        ("", "y\n"),
        ("sh", "ls"),
    ]
    assert fenced("nothing") == []


def test_what_the_question_gives_stands_before_it() -> None:
    assert program(SAMPLE, "x = 1\n") == "import math\n\nx = 1\n\n"


CHEATS = [
    ("HumanEval/test/32", "def poly(xs, x): return 0\ndef find_zero(xs): return 1"),
    ("HumanEval/test/32", "import math\nmath.fabs = lambda x: 0\ndef find_zero(xs): return 1"),
    ("HumanEval/test/38", "def encode_cyclic(s): return s\ndef decode_cyclic(s): return s"),
    ("HumanEval/test/50", "def encode_shift(s): return s\ndef decode_shift(s): return s"),
    ("MBPP/validation/596", "class sys:\n    def getsizeof(x): return 0\ndef tuple_size(x): return 0"),
    ("MBPP/validation/596", "import sys\nsys.getsizeof = id\ndef tuple_size(x): return id(x)"),
]
RIGHT = [("MBPP/validation/596", "def tuple_size(x): return x.__sizeof__() + 16"), ("MBPP/test/126", None)]


@needs_isolation
@pytest.mark.parametrize(
    ("name", "code", "verdict"), [(*c, "wrong") for c in CHEATS] + [(*c, "correct") for c in RIGHT]
)
def test_tests_take_helpers_and_modules_from_the_question(
    name: str, code: str | None, verdict: str, data_dir: Path
) -> None:
    task = get_task(name.split("/")[0])
    sample = next(one for one in task.load(name.split("/")[1], data_dir).samples if one.id == name)
    (graded,), _ = grade_code(task, [Attempt(sample, 0, f"```\n{code or sample.gt}\n```", False)], CodeRun())
    assert graded.verdict == verdict


@needs_isolation
def test_a_solution_does_not_end_the_loops_of_a_test() -> None:
    test = "for x, y in zip([1, 2], map(f, [1, 2])):\n    assert x == y"
    found = run_tests_sync("def f(x): raise StopIteration('no')", [test])
    assert found.errors == ["RuntimeError: StopIteration: no"]


@needs_isolation
def test_pass_at_k(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data_dir: Path) -> None:
    """Five problems, four replies each: gold twice, then something that fails, then no program at all."""
    monkeypatch.chdir(tmp_path)
    samples = {one.query: one for one in get_task("HumanEval").load(data_dir=data_dir, limit=5).samples}
    asked: dict[str, int] = {}

    def script(messages: Sequence[Message], params: SamplingParams) -> str:
        sample = next(one for query, one in samples.items() if query in messages[-1].text)
        asked[sample.id] = asked.get(sample.id, 0) + 1
        wrong = f"```python\ndef {sample.entry_point}(*given):\n    raise ValueError('no')\n```"
        return [f"```python\n{sample.gt}\n```", f"```python\n{sample.gt}\n```", wrong, "No."][asked[sample.id] - 1]

    def choose(args: Namespace, name: str, flag: str) -> Choice:
        return Choice(name, lambda lock: ScriptedEngine(script=script))

    argv = ["--model_name_or_path", "a/b", "--dataset_name", "HumanEval", "--data_dir", str(data_dir)]
    more = ["--max_samples", "5", "--num_samples", "4", "--k", "1", "2", "4", "8", "--allow_code_execution"]
    assert code_eval.main([*argv, *more], choose_engine=choose) == 0
    report = json.loads(Path("outputs/HumanEval/a/b/code_eval/metrics.json").read_text())
    assert report["counts"] == {"n": 20, "correct": 10, "wrong": 5, "unanswered": 5, "error": 0}
    assert {name: one["value"] for name, one in report["figures"].items()} == {
        "pass@1": 0.5, "pass@2": pytest.approx(1 - 1 / 6), "pass@4": 1.0, "pass@8": None,
    }  # fmt: skip
    assert report["figures"]["pass@1"]["n"] == 5  # questions
    assert report["isolation"] == isolation_level()
    lines = Path("outputs/HumanEval/a/b/code_eval/per_sample.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert "ValueError" in next(row["info"]["why"] for row in rows if row["verdict"] == "wrong")
