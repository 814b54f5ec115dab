"""An addition touches the files that CONTRIBUTING.md names, and no others; checked on everything that exists."""

import re
from pathlib import Path

import pytest

from agentark.engines import ENGINES
from agentark.engines.__main__ import NEEDS
from agentark.tasks import TASKS
from distill.grpo.cli import parser
from methods import METHODS, VARIANTS, configs_of, default_config

ROOT = Path(__file__).parents[1]
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
ONE_CALL = ("vanilla", "cot", "self_consistency")
"""Methods without a dialogue, which share tests/methods/test_single.py."""


def text(path: str) -> str:
    return (ROOT / path).read_text("utf-8")


def section(heading: str) -> str:
    """Of CONTRIBUTING.md."""
    return CONTRIBUTING.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def first_cells(page: str) -> str:
    """The first column of all tables of a page."""
    return "\n".join(re.findall(r"^\| ([^|]+) \|", text(page), re.M))


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_a_folder_a_line_a_yaml_and_a_test(name: str) -> None:
    package, folder, module = METHODS[name].partition(":")[0].split(".")
    assert package == "methods"
    assert (ROOT / package / folder / "__init__.py").is_file()
    assert (ROOT / package / folder / f"{module}.py").is_file()
    assert default_config(name) in configs_of(name)
    assert len(re.findall(rf'^    "{name}": "methods\.', text("methods/__init__.py"), re.M)) == 1
    test = "single" if folder in ONE_CALL else folder
    assert folder in text(f"tests/methods/test_{test}.py")
    assert f"`{name}`" in first_cells("methods/README.md")


def test_a_methods_folder_is_registered() -> None:
    folders = {path.parents[1].name for path in (ROOT / "methods").glob("*/configs/*.yaml")}
    assert folders == {target.split(".")[1] for target in METHODS.values()}
    assert {name for names in VARIANTS.values() for name in names.values()} <= METHODS.keys()


@pytest.mark.parametrize("name", TASKS)
def test_a_task_is_a_file_a_line_and_a_row(name: str) -> None:
    module = TASKS[name].partition(":")[0]
    assert (ROOT / f"{module.replace('.', '/')}.py").is_file()
    assert [other for other in TASKS if TASKS[other] == TASKS[name]] == [name], "a file of its own"
    assert len(re.findall(rf'^    "{name}": "agentark\.', text("agentark/tasks/__init__.py"), re.M)) == 1
    assert re.search(rf"^\| {name} \|", text("agentark/tasks/README.md"), re.M)


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_is_a_file_two_lines_and_a_row(name: str) -> None:
    module = ENGINES[name].partition(":")[0]
    assert (ROOT / f"{module.replace('.', '/')}.py").is_file()
    assert (ROOT / f"tests/agentark/engines/test_{name}.py").is_file()
    assert name in NEEDS
    assert f"`{name}`" in first_cells("agentark/engines/README.md")


def test_a_reward_mode_has_a_row() -> None:
    (flag,) = [action for action in parser()._actions if action.dest == "reward_mode"]
    assert flag.choices
    for mode in flag.choices:
        assert f"`{mode}`" in first_cells("distill/grpo/README.md")


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "studies").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_recipe_has_a_row(path: Path) -> None:
    assert f"`{path.stem}`" in first_cells("study/README.md")


def test_every_file_of_the_hall_has_a_row_in_architecture() -> None:
    hall = text("ARCHITECTURE.md").partition("\n## The hall\n")[2].partition("\n## ")[0]
    files = {path.name for path in (ROOT / "agentark").glob("*.py")} - {"__init__.py"}
    assert files <= set(re.findall(r"`(\w+\.py)`", hall))


STEPS = {
    "A method": (
        "methods/<name>/<name>.py",
        "methods/<name>/configs/config_main.yaml",
        "methods/__init__.py",
        "tests/methods/test_<name>.py",
    ),
    "A task": ("agentark/tasks/<name>.py", "agentark/tasks/__init__.py", "tests/agentark/tasks/test_all_tasks.py"),
    "An engine": (
        "agentark/engines/<name>.py",
        "agentark/engines/__init__.py",
        "tests/agentark/engines/test_<name>.py",
    ),
    "A reward mode": ("distill/grpo/modes.py", "distill/grpo/credit.py", "tests/distill/grpo/test_credit.py"),
    "A recipe": ("configs/studies/<name>.yaml", "tests/study/test_recipes.py"),
}


@pytest.mark.parametrize("heading", STEPS)
def test_the_steps_name_the_files(heading: str) -> None:
    places = [section(heading).find(f"`{path}`") for path in STEPS[heading]]
    assert -1 not in places
    assert places == sorted(places), "in this order"
