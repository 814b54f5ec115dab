"""Code evaluation: the program in a reply, its verdict from the sandbox, pass@k over several replies."""

import json
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import pytest
from fakes import ScriptedEngine

from agentark.code_grading import code_of, program
from agentark.engines.choose import Choice
from agentark.sandbox import isolation_level
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


def test_what_the_question_gives_stands_before_it() -> None:
    assert program(SAMPLE, "x = 1\n") == "import math\n\nx = 1\n\n"


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
