"""The documents: a short start for newcomers, links that work, commands that the scripts accept."""

import re
import shlex
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from string import Template

import pytest
from script_parsers import module_of, parsed, script_and_flags

from agentark.types import UserError

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PUBLISHED = ROOT / "tests" / "published_commands.txt"
"""The commands of the published README, with an empty line between two."""
DOORS = (
    *("agentark/engines", "agentark/tasks", "methods", "prm", "distill/select", "distill/sft", "distill/grpo"),
    *("distill/opd", "eval", "study", "modal", "bench"),
)
"""Rooms with a chapter: README.md."""
DOCUMENTS = [
    *(ROOT / f"{name}.md" for name in ("README", "ARCHITECTURE", "CONTRIBUTING", "results/README")),
    *(ROOT / door / "README.md" for door in DOORS),
    *sorted((ROOT / "docs").rglob("*.md")),
]
LISTINGS = ("methods", "agentark.engines")
"""Modules that take words, not flags; other tests run them."""


def commands(text: str, exported: dict[str, str] | None = None) -> Iterator[str]:
    """The python commands of a document: in blocks, and between single backticks.

    Args:
        exported: variables of the shell, to which those of the document are added.
    """
    exported = {} if exported is None else exported
    joined = text.replace("\\\n", " ")
    for written in joined.splitlines():
        line = Template(written).safe_substitute(exported)
        if line.startswith("export "):
            exported |= dict(word.split("=", 1) for word in shlex.split(line)[1:] if "=" in word)
        elif (
            re.match(r"\s*(\w+=\S+ )?python (-m )?[\w./]+", line)
            and "<" not in line
            and not line.startswith("python -m distill.grpo.")
        ):
            yield line.strip().removesuffix(" &")
    inline = re.findall(r"(?<!`)`(python [^`]+)`(?!`)", text)
    yield from (command for command in inline if "<" not in command and "..." not in command)


def documented() -> list[object]:
    """Documents of one folder share a shell: a tutorial may go on where another ended."""
    exported: dict[Path, dict[str, str]] = defaultdict(dict)
    return [
        pytest.param(line, id=f"{file.relative_to(ROOT)}: {line[:60]}")
        for file in [*DOCUMENTS, PUBLISHED]
        for line in commands(file.read_text("utf-8"), exported[file.parent])
    ]


@pytest.mark.parametrize("line", documented())
def test_a_documented_command_is_taken(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    script, flags = script_and_flags(line.replace("\n", " "))
    if script not in LISTINGS:
        parsed(script, flags) if flags and flags != ["--help"] else module_of(script)


GOOD = "--method_name cot --test_dataset_name MATH --model_name m"


@pytest.mark.parametrize(
    ("script", "flags"), [("inference.py", GOOD), ("eval.cost_fair", "--dataset_name ChainSum --model_name m")]
)
def test_a_command_that_is_wrong_is_reported(script: str, flags: str) -> None:
    parsed(script, shlex.split(flags))
    with pytest.raises(UserError, match="unknown argument --model_names"):
        parsed(script, shlex.split(f"{flags} --model_names m"))


def test_there_are_commands() -> None:
    assert len(documented()) > 90


# ---------------------------------------------------------------- what a newcomer reads


def test_the_readme_fits_on_two_screens() -> None:
    text = README.read_text("utf-8")
    assert len(text.splitlines()) <= 200
    assert len(text.encode()) <= 14 * 1024


def chapters() -> list[Path]:
    """The pages that the rows of README's stage table link to."""
    table = README.read_text("utf-8").partition("\n## Stages\n")[2].partition("\n\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert len(rows) > 10
    return [ROOT / target for row in rows for target in re.findall(r"\]\(([^)#]+)", row)]


@pytest.mark.parametrize("door", DOORS)
def test_a_room_has_a_chapter_in_the_stage_table(door: str) -> None:
    assert (ROOT / door / "README.md").is_file()
    assert ROOT / door / "README.md" in chapters()


def plain(text: str) -> str:
    """With single spaces, and lines that a backslash continues in one."""
    return " ".join(text.replace("\\\n", " ").split())


@pytest.mark.parametrize("command", PUBLISHED.read_text("utf-8").split("\n\n"))
def test_a_published_command_stands_in_the_readme_or_a_chapter(command: str) -> None:
    assert any(plain(command) in plain(page.read_text("utf-8")) for page in [README, *chapters()])


def test_the_log_of_the_quickstart_is_one_of_today() -> None:
    """Its command, a row of each method, and what it proposes to try next."""
    from agentark.embedded import THINKING
    from agentark.quickstart import METHODS, next_steps, run_flags

    text = README.read_text("utf-8")
    log = text[: text.index("\n## ")]
    assert plain("$ python inference.py " + " ".join(run_flags(THINKING, None))) in plain(log)
    for method in METHODS:
        assert re.search(rf"^{method} +\d of 8 +\d\.\d\d +\d\.\d\d to \d\.\d\d +\d+\.\d +\d+\.\d$", log, re.M)
    for command in next_steps(Path("results/ChainSum", THINKING, "llm_debate_infer.jsonl"), "ChainSum"):
        assert f"  {command}\n" in log


# ---------------------------------------------------------------- links


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.S)
    headings = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.S)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith(("http://", "https://")):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


NOT_HERE = (
    *("outputs/", "data/", "report/", "methods/critique/", "tests/methods/test_critique.py"),
    *("methods/referee/", "tests/methods/test_referee.py"),
)
"""What scripts write, and what readers of an example write."""


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_are_named_are_there(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.S)
    for name in re.findall(r"`(?:pytest [^`]*?)?([\w.-]+/[\w./-]+\.(?:py|yaml|json|md|sh|sbatch))`", text):
        if not name.startswith(NOT_HERE):
            assert (ROOT / name).exists() or (page.parent / name).exists(), name


def test_every_chapter_is_linked_from_the_readme_or_from_what_it_links_to() -> None:
    seen, ahead = set(), [README]
    while ahead:
        page = ahead.pop()
        if page in seen or page.suffix != ".md":
            continue
        seen.add(page)
        links = re.findall(r"\]\(([^)\s#]+)", page.read_text("utf-8"))
        ahead += [(page.parent / link).resolve() for link in links if "://" not in link]
    assert {page.resolve() for page in DOCUMENTS} <= seen
