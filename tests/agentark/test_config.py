"""Strict YAML: every mistake is one line that names file, key and value; every checked-in YAML loads."""

from datetime import date
from pathlib import Path
from typing import ClassVar

import pytest
import yaml
from pydantic import Field

from agentark.config import Config, build, load, nearest, parse_overrides, read_yaml
from agentark.types import UserError
from methods import METHODS, load_method

ROOT = Path(__file__).parents[2]
METHOD_CONFIGS = sorted(ROOT.glob("methods/*/configs/*.yaml"))


BOMB = "roles:\n- &a [x, x]\n" + "".join(f"- &{chr(98 + k)} [{f'*{chr(97 + k)}, ' * 9}]\n" for k in range(20))


class Example(Config):
    RENAMED: ClassVar = {"agents_num": "num_agents"}

    num_agents: int = Field(3, ge=1)
    """Agents."""
    temperature: float = 0.5
    """Temperature."""
    roles: list[str] = Field([])
    """Roles."""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "num_agent: 3",
            r"c\.yaml: unknown key 'num_agent' \(known: num_agents, temperature, roles; did you mean num_agents\?\)",
        ),
        ("agents_num: 3", r"c\.yaml: key 'agents_num' is now called 'num_agents'"),
        ("num_agents: '3'", r"c\.yaml: num_agents = '3': .*valid integer"),
        ("num_agents: true", r"c\.yaml: num_agents = True: .*valid integer"),
        ("num_agents: 0", r"c\.yaml: num_agents = 0: .*greater than or equal to 1"),
        ("roles: [a, 2]", r"c\.yaml: roles\.1 = 2: .*valid string"),
        ("temperature: warm", r"c\.yaml: temperature = 'warm': .*valid number"),
        ("num_agents: 1\nnum_agents: 2", r"c\.yaml: key 'num_agents' is given twice"),
        ("- a\n- b", r"c\.yaml: expected `key: value` lines, found a list"),
        ("a: [", r"c\.yaml: not valid YAML"),
        ("temperature: !!timestamp 2026-99-99", r"c\.yaml: not valid YAML \(a value that is not a timestamp"),
        ("temperature: 2026-99-99", r"c\.yaml: not valid YAML \(a value that is not a timestamp"),
        ("temperature: !!bool perhaps", r"c\.yaml: not valid YAML \(a value that is not a bool"),
        ("!!map [a, b]", r"c\.yaml: not valid YAML"),
        ('temperature: "\\ud800"', r"c\.yaml: not valid YAML \(a text with half a surrogate pair"),
        ("num_agents: 1" + "0" * 30, r"c\.yaml: not valid YAML \(a number with too many digits"),
        ("num_agents: " + "9" * 10_000, r"c\.yaml: not valid YAML \(a value that is not a int"),
        ("roles: " + "[" * 200_000, r"c\.yaml: not valid YAML \(nested too deeply\)"),
        ("roles: &a [*a]", r"c\.yaml: not valid YAML \(aliases that hold themselves"),
        (BOMB, r"c\.yaml: not valid YAML \(aliases that hold themselves, or too many values"),
        ("temperature: .nan", r"c\.yaml: temperature = nan"),
        ("num_agents: \x07", r"c\.yaml: not valid YAML"),
        ("!!python/object/apply:os.system [id]", r"c\.yaml: not valid YAML|could not determine"),
    ],
)
def test_mistakes_in_a_file(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=expected) as raised:
        load(Example, path, [], "--flag")
    assert "\n" not in str(raised.value)


def test_a_library_that_changes_pyyaml_changes_no_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    constructors = yaml.SafeLoader.yaml_constructors
    monkeypatch.setitem(constructors, "tag:yaml.org,2002:timestamp", constructors["tag:yaml.org,2002:str"])
    (tmp_path / "c.yaml").write_text("day: 2026-11-30")
    assert read_yaml(tmp_path / "c.yaml") == {"day": date(2026, 11, 30)}


def test_a_missing_or_binary_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.yaml: cannot be read"):
        read_yaml(tmp_path / "none.yaml")
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"b\.yaml: "):
        read_yaml(tmp_path / "b.yaml")


def test_overrides_are_typed_as_in_yaml_and_win(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("num_agents: 5\ntemperature: 1\n")
    config = load(Example, path, ["num_agents=7", "roles=[a, b]"], "--flag")
    assert config == Example(num_agents=7, temperature=1.0, roles=["a", "b"])
    assert parse_overrides(["a=b=c", "n=null"], "--flag") == {"a": "b=c", "n": None}
    with pytest.raises(UserError, match=r"--flag 'num_agents': expected key=value"):
        load(Example, path, ["num_agents"], "--flag")


def test_a_config_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        build(Example, {}, "here").num_agents = 2  # type: ignore[misc]


def test_nearest_folds_case_and_keeps_quiet_when_nothing_is_near() -> None:
    assert nearest("gsm8k", ["GSM8K", "MATH"]) == "known: GSM8K, MATH; did you mean GSM8K?"
    assert nearest("zzz", ["GSM8K", "MATH"]) == "known: GSM8K, MATH"


@pytest.mark.parametrize("path", METHOD_CONFIGS, ids=lambda path: f"{path.parts[-3]}-{path.stem}")
def test_every_checked_in_method_config_loads(path: Path) -> None:
    (name, *_) = (name for name, target in METHODS.items() if target.startswith(f"methods.{path.parts[-3]}."))
    _, info = load_method(name, path.stem)
    assert info.variant == path.stem


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_a_main_config_and_documents_its_keys(name: str) -> None:
    method, _ = load_method(name)
    assert all(field.description for field in type(method).Config.model_fields.values())  # type: ignore[attr-defined]


@pytest.mark.parametrize("text", ["1e-1", "1E-1", "0.1", "1.0e-1"])
def test_numbers_with_an_exponent_are_numbers(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.yaml").write_text(f"temperature: {text}")
    assert read_yaml(tmp_path / "c.yaml") == {"temperature": 0.1}
    assert parse_overrides([f"temperature={text}", "name=1e-1x"], "--set") == {"temperature": 0.1, "name": "1e-1x"}
