"""Teams as they are written, and the route of a call."""

from pathlib import Path
from typing import Any

import pytest

from agentark.episode import sampled
from agentark.team import Entry, Member, Route, Team, check_names, family, read_team
from agentark.types import UserError

ROOT = Path(__file__).parents[2]


def test_words_and_a_file_say_the_same(tmp_path: Path) -> None:
    words = ["agent_1=org/a", "agent_2=org/b@runs/x", "*=@runs/y"]
    text = """
agent_1: {model: org/a}
agent_2: {model: org/b, adapter: runs/x}
"*": {adapter: runs/y}
"""
    (tmp_path / "team.yaml").write_text(text)
    expected = {
        "agent_1": Entry(model="org/a"),
        "agent_2": Entry(model="org/b", adapter="runs/x"),
        "*": Entry(adapter="runs/y"),
    }
    assert read_team(words) == read_team([str(tmp_path / "team.yaml")]) == expected


@pytest.mark.parametrize("file", sorted((ROOT / "configs/teams").glob("*.yaml")), ids=lambda file: file.name)
def test_the_examples_load_and_fit_their_method(file: Path) -> None:
    from methods import load_method

    method: Any = load_method("llm_debate")[0]
    check_names(read_team([str(file)]), "llm_debate", method.agents())


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["agent_1"], "agent_1: cannot be read"),
        (["agent_1=a", "agent_2"], "--team agent_2: expected NAME=MODEL"),
        (["agent_1="], "--team agent_1=: expected NAME=MODEL"),
        (["=a"], "--team =a: expected NAME=MODEL"),
        (["agent_1=a@"], "--team agent_1=a@: expected NAME=MODEL"),
        (["agent_1=a", "agent_1=b"], "--team agent_1=a agent_1=b: a name is given twice"),
    ],
)
def test_wrong_words_are_one_line(words: list[str], says: str) -> None:
    with pytest.raises(UserError, match=says) as raised:
        read_team(words)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "names nobody"),
        ("agent_1: a", "agent_1: expected keys like model, adapter or temperature below it"),
        ("agent_1: {}", "agent_1: expected keys"),
        ("agent_1: {modell: a}", "agent_1: unknown key 'modell' .*did you mean model"),
        ("agent_1: {temperature: hot}", "agent_1: temperature = 'hot'"),
        ("agent_1: {temperature: 3}", "agent_1: temperature = 3"),
        ("agent_1: {top_p: 0}", "agent_1: top_p = 0"),
        ("agent_1: {max_tokens: 1.5}", "agent_1: max_tokens = 1.5"),
        ("agent_1: {model: ''}", "agent_1: model = ''"),
        ("agent_1: {stop: ['']}", "agent_1: stop: '' ends every reply"),
        ("agent_1: {stop: []}", "agent_1: stop = "),
        ("1: {model: a}", "1: the name of an agent or role must be text"),
        ("[agent_1]", "expected `key: value` lines"),
        ("agent_1: {model: a}\nagent_1: {model: b}", "key 'agent_1' is given twice"),
        ("*: {model: a}", "not valid YAML"),
    ],
)
def test_a_wrong_file_is_one_line_with_its_name(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "team.yaml").write_text(text)
    with pytest.raises(UserError, match=rf"team\.yaml.*{says}") as raised:
        read_team([str(tmp_path / "team.yaml")])
    assert "\n" not in str(raised.value)


def test_unknown_names_are_refused_with_those_of_the_method() -> None:
    agents = {"agent_1": ("debater",), "agent_2": ("debater",), "aggregator": ("aggregator",)}
    check_names(["agent_2", "debater", "aggregator", "*"], "llm_debate", agents)
    known = r"known: agent_1, agent_2, aggregator, debater, \*; did you mean agent_\d\?"
    with pytest.raises(UserError, match=rf"--team agent_7: llm_debate has no such agent or role \({known}\)"):
        check_names(["agent_7"], "llm_debate", agents)


@pytest.mark.parametrize(
    ("role", "wanted"),
    [
        ("solver", "solver"),
        ("verify_2", "verify"),
        ("comparison_1_12", "comparison"),
        ("approve_1_repair", "approve"),
        ("ranker_repair", "ranker"),
        ("critic_of_user", "critic_of_user"),
    ],
)
def test_the_family_of_a_role(role: str, wanted: str) -> None:
    assert family(role) == wanted


def team(**members: Member) -> Team:
    flags = {"temperature": 0.5, "max_tokens": 64, "top_k": 9}
    return Team(
        {"*" if name == "everybody" else name: member for name, member in members.items()},
        {},
        {**dict.fromkeys(("main", "a", "c", "verifier"), flags), "b": {**flags, "top_k": 20}},
    )


def test_agent_goes_before_role_before_everybody() -> None:
    made = team(
        agent_1=Member({"temperature": 0.1}, "a", "x"),
        solver=Member({"temperature": 0.2, "top_p": 0.9}, "b"),
        everybody=Member({"temperature": 0.3, "max_tokens": 8}, "c"),
    )
    base = {"temperature": 0.3, "max_tokens": 8, "top_k": 9}
    assert made.route("agent_1", "solver", "main") == Route("a", "x", base, {"temperature": 0.1, "top_p": 0.9})
    named = {"temperature": 0.2, "top_p": 0.9}
    assert made.route("agent_2", "solver_1", "main") == Route("b", None, {**base, "top_k": 20}, named)
    assert made.route("agent_2", "critic", "main") == Route("c", None, base, {})
    assert made.route("agent_2", "critic", "verifier") == Route("verifier", None, base, {})
    assert made.route("agent_1", "critic", "verifier") == Route("a", "x", base, {"temperature": 0.1})


def test_an_entry_without_a_model_leaves_it_to_the_next() -> None:
    made = team(agent_1=Member({"temperature": 0.1}), solver=Member({}, "b"))
    assert made.route("agent_1", "solver", "main").model == "b"
    assert made.route("agent_1", "critic", "main").model == "main"


@pytest.mark.parametrize(
    ("own", "choices", "schema", "wanted"),
    [
        ({}, None, None, {"temperature": 0.1, "max_tokens": 64, "top_p": 0.9, "stop": ("#",)}),
        ({"temperature": 0.0}, None, None, {"temperature": 0.1, "max_tokens": 64, "top_p": 0.9, "stop": ("#",)}),
        ({"max_tokens": 7}, None, None, {"temperature": 0.1, "max_tokens": 7, "top_p": 0.9, "stop": ("#",)}),
        ({"temperature": 0.0}, ("a", "b"), None, {"temperature": 0.0, "max_tokens": 64}),
        ({}, ("a", "b"), None, {"temperature": 0.1, "max_tokens": 64}),
        ({}, None, {"type": "object"}, {"temperature": 0.1, "max_tokens": 64, "top_p": 0.9}),
    ],
)
def test_named_entries_win_over_the_method_except_in_a_choice(own: Any, choices: Any, schema: Any, wanted: Any) -> None:
    base = {"temperature": 0.5, "max_tokens": 64, "stop": ("#",)}
    route = Route("main", None, base, {"temperature": 0.1, "top_p": 0.9})
    assert sampled(route, own, choices, schema) == wanted
