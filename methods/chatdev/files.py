"""Software as a set of files: reading it from a reply, showing it, finding the parts not written yet."""

import ast
import re
from collections.abc import Mapping
from pathlib import PurePosixPath

from agentark.answers import visible
from agentark.code_grading import BLOCK, PYTHON
from methods.chatdev import prompts

_NAME = re.compile(r"(?<![\w./-])(?:\./)?[\w-][\w./-]*\.\w{1,8}")
_LANGUAGES = {"py": "python", "md": "markdown", "js": "javascript", "txt": ""}


def parse_files(reply: str) -> dict[str, str] | None:
    """The files of a reply by name: fenced blocks with a name on the line above, or one Python block, which is main.py.

    Returns:
        None when there is none. A name that leads out of the folder does not count.
    """
    text = visible(reply) or ""
    files: dict[str, str] = {}
    unnamed: list[str] = []
    end = 0
    for block in BLOCK.finditer(text):
        above = text[end : block.start()].rstrip().rpartition("\n")[2]
        end = block.end()
        names = [name for name in _NAME.findall(above) if ".." not in PurePosixPath(name).parts]
        if names:
            files[names[-1].removeprefix("./")] = block[3]
        elif block[2].lower() in PYTHON and block[3].strip():
            unnamed.append(block[3])
    if not files and len(unnamed) == 1:
        files["main.py"] = unnamed[0]
    return files or None


def listing(files: Mapping[str, str]) -> str:
    """All files, as agents are shown them and asked to write them."""
    shown = []
    for name, text in files.items():
        suffix = PurePosixPath(name).suffix[1:]
        shown.append(prompts.FILE.format(name=name, language=_LANGUAGES.get(suffix, suffix), text=text.rstrip("\n")))
    return "\n\n".join(shown)


def placeholders(files: Mapping[str, str]) -> list[str]:
    """`file: function` of every Python function whose body is only `pass`, `...` or a NotImplementedError."""
    unwritten = []
    for name, text in files.items():
        if not name.endswith(".py"):
            continue
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError, RecursionError):
            continue
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
        unwritten += [f"{name}: {node.name}" for node in functions if all(map(_is_empty, node.body))]
    return unwritten


def _is_empty(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Raise):
        return "NotImplementedError" in ast.unparse(statement)
    return isinstance(statement, ast.Pass) or (
        isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    )
