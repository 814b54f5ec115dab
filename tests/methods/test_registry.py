"""Names, variants, refusals, the examples of both READMEs, and the listing."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from method_cases import program_question, question

import methods
from agentark.tasks import TASKS, get_task
from agentark.team import Teamed, family
from agentark.types import Kind, Sample, UserError
from methods import METHODS, VARIANTS, check_tasks, load_method, method_class, resolve
from methods.__main__ import listing, show

ROOT = Path(__file__).parents[2]
ISSUE_EXAMPLES = {
    "dylan": 'random_seed: 0\nnum_agents: 4\nnum_rounds: 3\nactivation: "listwise"\n'
    'roles: ["Assistant", "Assistant", "Assistant", "Assistant"]\n',
    "agentverse": "cnt_agents: 2\nmax_turn: 3\nmax_criticizing_rounds: 3\n",
    "self_consistency": "parallel_num: 5\n",
    "llm_debate": "num_agents: 3\nnum_rounds: 2\n",
}
MASLAB = (
    *("dylan", "dylan_math", "dylan_mmlu", "dylan_humaneval", "agentverse", "agentverse_mgsm", "agentverse_humaneval"),
    *("mav", "mav_main", "mav_gpqa", "mav_humaneval", "mav_math", "mav_mmlu", "mad", "autogen", "camel", "macnet"),
    *("macnet_srdd", "evomac", "mapcoder", "mapcoder_humaneval", "mapcoder_mbpp", "chatdev_srdd"),
    *("vanilla", "cot", "self_consistency", "llm_debate"),
)


@pytest.mark.parametrize("name", MASLAB)
def test_every_name_of_the_published_code_loads(name: str) -> None:
    method, info = load_method(name)
    assert info.name == name
    assert type(method) is method_class(name)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_names_its_agents(name: str) -> None:
    method, _ = load_method(name)
    assert isinstance(method, Teamed)
    agents = method.agents()
    assert agents
    assert all(role == family(role) for roles in agents.values() for role in roles)
    assert all(agent in " ".join(show(name).split()) for agent in agents)


@pytest.mark.parametrize(("name", "text"), ISSUE_EXAMPLES.items())
def test_the_published_yaml_loads_as_it_stands(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / "config_main.yaml").write_text(text)
    cls = method_class(name)
    settings = methods.config.load(cls.Config, tmp_path / "config_main.yaml", [], "--method_config")
    given = yaml.safe_load(text)
    assert {key: getattr(settings, key) for key in given} == given
    main = load_method(name)[1].config
    assert {key: main[key] for key in given} == given, "config_main holds the published values"


@pytest.mark.parametrize(
    ("name", "key", "now"),
    [
        ("llm_debate", "agents_num", "num_agents"),
        ("llm_debate", "rounds_num", "num_rounds"),
        ("llm_debate", "agents", "num_agents"),
        ("dylan", "agents", "num_agents"),
        ("agentverse", "agents", "cnt_agents"),
        ("self_consistency", "agents", "parallel_num"),
    ],
)
def test_old_keys_name_the_new_one(name: str, key: str, now: str) -> None:
    with pytest.raises(UserError, match=f"key '{key}' is now called '{now}'"):
        load_method(name, overrides=[f"{key}=3"])


def test_variants_are_picked_by_dataset_and_only_by_an_explicit_table() -> None:
    assert resolve("dylan", None, "MATH") == ("dylan_math", "config_math")
    assert resolve("dylan", None, "GSM8K") == ("dylan", "config_main")
    assert resolve("dylan", None, None) == ("dylan", "config_main")
    assert resolve("dylan", "config_main", "MATH") == ("dylan", "config_main")
    assert resolve("dylan", "config_mmlu.yaml", "MATH") == ("dylan_mmlu", "config_mmlu")
    assert resolve("dylan_math", None, "MMLU") == ("dylan_math", "config_math")
    assert resolve("dylan", "config_humaneval", None)[0] == "dylan_humaneval"
    for name, table in VARIANTS.items():
        assert name in METHODS
        assert table.keys() <= TASKS.keys()
        assert set(table.values()) <= METHODS.keys()
        for dataset, variant in table.items():
            assert get_task(dataset).kind in method_class(variant).TASKS


def test_unknown_names_are_told_the_nearest() -> None:
    with pytest.raises(UserError, match=r"unknown method 'dylan_maths' .*did you mean dylan_math"):
        load_method("dylan_maths")
    with pytest.raises(UserError, match="unknown config of dylan 'config_law'"):
        load_method("dylan", "config_law")


# ---------------------------------------------------------------- tasks


def test_every_dataset_is_of_one_kind(data_dir: Path) -> None:
    for task in map(get_task, TASKS):
        try:
            loaded = task.load(None, data_dir, limit=3)
        except UserError:
            continue  # not in this folder
        assert {sample.kind for sample in loaded.samples} == {task.kind}, task.name


def test_kinds_of_samples() -> None:
    assert question(answer_type="math").kind == "math"
    assert program_question().kind == "code"
    assert program_question(tests=None).kind == "software"


@pytest.mark.parametrize(
    ("name", "sample", "able"),
    [
        ("mapcoder", question(), "HumanEval, MBPP"),
        ("chatdev_srdd", question(), "SRDD"),
        ("dylan_humaneval", question(), "HumanEval, MBPP"),
        ("dylan", program_question(tests=None), "GSM8K, .*MATH, .*QMSum, .*MMLU"),
    ],
)
def test_a_task_it_cannot_do_is_refused_with_those_it_can(name: str, sample: Sample, able: str) -> None:
    method, info = load_method(name)
    with pytest.raises(UserError, match=f"--method_name {name}: cannot do T .*; it can do: {able}") as raised:
        check_tasks(method, info.name, [sample])
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_can_do_something_and_says_what_it_costs(name: str) -> None:
    cls = method_class(name)
    assert cls.TASKS
    assert {*get_args(Kind)} >= cls.TASKS
    assert re.search(r"calls: .*\d", cls.__doc__)
    assert "critical path" in cls.__doc__


# ---------------------------------------------------------------- listing


def test_the_listing_names_everything() -> None:
    text = listing()
    for name in METHODS:
        assert re.search(rf"\b{name}\b", text), name
        for key in load_method(name)[1].config:
            assert f"{key}=" in text
    assert "arXiv 2310.02170" in text
    assert "dylan_math (MATH, MATH-500)" in text


def test_one_method_is_documented_key_by_key() -> None:
    text = show("dylan")
    config = method_class("dylan").Config
    for key, field in config.model_fields.items():
        assert f"    {key}: " in text
        assert " ".join((field.description or "").split())[:40] in text
    assert "trial_samples: int = 8" in text
    assert "Differs from the published code" in text


@pytest.mark.parametrize(("arguments", "code"), [(["show", "cot"], 0), (["show", "coot"], 2), (["list"], 2)])
def test_the_command(arguments: list[str], code: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "methods", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == code
    assert (done.stdout if code == 0 else done.stderr).count("cot") > 0 or "usage" in done.stderr


# ---------------------------------------------------------------- the README's own method


def blocks() -> list[tuple[str, str]]:
    """(what the line before says, code) of every block of methods/README.md."""
    text = (ROOT / "methods/README.md").read_text(encoding="utf-8")
    return re.findall(r"([^\n]+):\n\n```\w+\n(.*?)```", text, re.S)


def test_the_readmes_method_works_as_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (_, code), (_, config), (where, line), (_, test) = blocks()
    assert "METHODS" in where
    assert code.count("\n") <= 40
    folder = tmp_path / "critique"
    (folder / "configs").mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "critique.py").write_text(code)
    (folder / "configs/config_main.yaml").write_text(config)
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    ((name, target),) = yaml.safe_load("{" + line.strip().rstrip(",") + "}").items()
    monkeypatch.setitem(METHODS, name, target)
    scope: dict[str, Any] = {}
    exec(compile(test, "README.md", "exec"), scope)  # noqa: S102 - our own README
    scope["test_messages_calls_and_critical_path"]()
    assert "critique\n    paper         Answer, be criticised" in listing()
