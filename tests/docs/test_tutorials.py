"""The tutorials: each runs in a new copy of the repository, and prints what its text shows."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest
from gateway_cases import free_port

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "tutorials"
TUTORIALS = sorted(FOLDER.glob("[1-9]_*.md"))
RUNS = [["1_debate"], ["2_labels"], ["3_student", "4_reward_model"], ["5_own_method"], ["6_own_team"]]
"""Pages that go on where another ended follow it."""
MAX_LINES = 80
PORT = "8100"
"""Of the gateway, in the text; the test takes a free one."""
LIMIT_SECONDS = 1800
"""For a machine that is slow or busy; each page says what it took on a quiet one."""
LEFT_OUT = ("[...", "    ")
"""Lines of a shown output that begin so are not compared: what is left out, and a model's words."""
EXACT = "<!-- the same everywhere -->"
"""Above an output whose figures do not depend on the machine."""


class Block(NamedTuple):
    above: str
    """The last line of text before it."""
    language: str
    """bash: commands; empty: what they print; others: a file."""
    text: str


def blocks(page: str) -> Iterator[Block]:
    for match in re.finditer(r"^```(\w*)\n(.*?)^```$", page, re.M | re.S):
        yield Block(page[: match.start()].rstrip().rpartition("\n")[2], match[1], match[2])


def pattern(line: str, exact: bool) -> str:
    """What a shown line stands for: any numbers in place of its own, anything in place of three dots."""
    text = re.escape(" ".join(line.split())).replace(r"\.\.\.", ".*")
    return text if exact else re.sub(r"(?:\\-)?\d+(?:(?:\\\.|,)\d+)*", r"-?\\d[\\d,.]*", text)


def missing(shown: str, printed: str, exact: bool = False) -> str | None:
    """The first line of a shown output that was not printed after the one before it."""
    lines = iter([" ".join(line.split()) for line in re.split(r"[\r\n]", printed)])
    for line in shown.splitlines():
        if line.strip() and not line.startswith(LEFT_OUT):
            wanted = re.compile(pattern(line, exact))
            if not any(wanted.fullmatch(other) for other in lines):
                return line
    return None


def write(block: Block, folder: Path) -> None:
    """The file that the line above a block names."""
    (path,) = re.findall(r"`([^`]+)`", block.above)
    file = folder / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(block.text, "utf-8")


def run(commands: str, folder: Path, output: Path) -> str:
    """Paste commands into a shell that stops at the first failure. Returns what they print, to a file."""
    paths = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": ""}
    with output.open("w") as file:
        shell = subprocess.Popen(
            ["bash", "-e", "-o", "pipefail", "-c", commands], cwd=folder, env={**os.environ, **paths}, stdout=file,
            stderr=file, start_new_session=True,
        )  # fmt: skip
        try:
            code = shell.wait(LIMIT_SECONDS)
        finally:
            with suppress(ProcessLookupError):  # nothing is left of it, as it should be
                os.killpg(shell.pid, signal.SIGKILL)
    printed = output.read_text("utf-8", errors="replace")
    assert code == 0, printed[-5000:]
    return printed


@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_a_tutorial_is_short(page: Path) -> None:
    text = page.read_text("utf-8")
    assert len(text.splitlines()) <= MAX_LINES
    assert any(block.language == "bash" for block in blocks(text))


@pytest.mark.parametrize(
    ("shown", "printed", "line"),
    [
        ("a 1\nb 2.5 ± 0.1\n", "x\na  7\nc\nb 12.75 ± 3\n", None),
        ("b 2\na 1\n", "a 1\nb 2\n", "a 1"),
        ("a 1\n", "a b\n", "a 1"),
        ("[... all agents]\n    Some words.\na -1 of ... in 2 s\n", "a 3 of them in 4.0 s\n", None),
    ],
)
def test_what_is_shown_is_looked_for(shown: str, printed: str, line: str | None) -> None:
    assert missing(shown, printed) == line


def test_exact_figures_are_compared() -> None:
    assert missing("n 48\n", "n 48\n", exact=True) is None
    assert missing("n 48\n", "n 47\n", exact=True) == "n 48"


def test_each_tutorial_is_run() -> None:
    assert [name for names in RUNS for name in names] == [page.stem for page in TUTORIALS]


@pytest.mark.slow
@pytest.mark.timeout(LIMIT_SECONDS)
@pytest.mark.parametrize("names", RUNS, ids=lambda names: names[0])
def test_tutorials_run_and_print_what_they_show(names: list[str], tmp_path: Path, embedded_model: Path) -> None:
    assert embedded_model
    folder = tmp_path / "AgentArk"
    pages = "".join((FOLDER / f"{name}.md").read_text("utf-8") for name in names)
    exported = ""
    for name in new_clone():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    printed = ""
    for number, block in enumerate(blocks(pages.replace(PORT, str(free_port())))):
        if block.language == "bash":
            printed = run(exported + block.text, folder, tmp_path / f"output_{number}")
            exported += "".join(re.findall(r"^export (?:.*\\\n)*.*\n", block.text, re.M))
        elif block.language:
            write(block, folder)
        else:
            line = missing(block.text, printed, block.above == EXACT)
            assert line is None, f"{line!r} is not in:\n{printed}"


def new_clone() -> list[str]:
    """The files that a clone has, and those that will be committed."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]
