"""Debate: the messages each agent sees, call counts, consensus, aggregation, and odd replies."""

import asyncio
from typing import Any

import pytest
from fakes import ScriptedEngine
from method_cases import QUESTION, play, question

from agentark import job
from agentark.records import encoded
from agentark.tasks import Loaded
from agentark.types import Message, Sample, SamplingParams, UserError
from methods import __main__ as listing
from methods import load_method


def debate(engine: ScriptedEngine | None = None, **overrides: Any) -> Any:
    method, _ = load_method("llm_debate", overrides=[f"{key}={value}" for key, value in overrides.items()])
    return asyncio.run(play(method, engine or ScriptedEngine(script=numbered)))


def numbered(messages: list[Message], params: SamplingParams) -> str:
    """Short replies that say how much the agent was shown."""
    return f"({len(messages)} messages) \\boxed{{{len(messages[-1].text) % 7}}}"


def test_messages_of_two_agents_and_two_rounds() -> None:
    result = debate(num_agents=2)
    first = [("user", QUESTION)]
    reply = f"(1 messages) \\boxed{{{len(QUESTION) % 7}}}"
    peers = (
        "Other agents have answered the same question. Their latest answers follow."
        f"\n\n[Answer of another agent, 1]\n{reply}"
        "\n\nCheck their reasoning against yours. Where they convince you, correct yourself; where they are wrong, "
        "keep your ground and say why. Then give your updated answer to the original question."
    )
    second = [*first, ("assistant", reply), ("user", peers)]
    updated = f"(3 messages) \\boxed{{{len(peers) % 7}}}"
    aggregate = (
        f"{QUESTION}\n\n[Answer of agent 1]\n{updated}\n\n[Answer of agent 2]\n{updated}"
        "\n\nThese agents have finished their debate. Compare their reasoning, settle on the answer that is best "
        "supported, and write it out as a complete final answer to the question."
    )
    assert result.seen == {
        "agent_1/1/debater": first,
        "agent_2/1/debater": first,
        "agent_1/2/debater": second,
        "agent_2/2/debater": second,
        "aggregator/3/aggregator": [("user", aggregate)],
    }
    assert [solution.agent for solution in result.outcome.solutions] == ["agent_1", "agent_2", "aggregator"]
    assert result.outcome.info == {"rounds": 2, "consensus": True}


@pytest.mark.parametrize(("agents", "rounds"), [(1, 1), (3, 2), (5, 3)])
def test_calls_and_critical_path(agents: int, rounds: int) -> None:
    result = debate(num_agents=agents, num_rounds=rounds)
    assert (result.calls, result.critical_path) == (agents * rounds + 1, rounds + 1)
    assert len(result.record.trajectory) == agents * rounds + 1
    voted = debate(num_agents=agents, num_rounds=rounds, aggregate="vote")
    assert (voted.calls, voted.critical_path) == (agents * rounds, rounds)


def test_each_agent_reads_all_the_others_and_not_itself() -> None:
    engine = ScriptedEngine(script=lambda messages, params: f"seed {params.seed} \\boxed{{1}}")
    result = debate(engine, num_agents=3)
    replies = {turn.agent: turn.text for turn in result.record.trajectory if turn.round == 1}
    for agent, own in replies.items():
        shown = result.seen[f"{agent}/2/debater"][-1][1]
        assert own not in shown
        assert all(other in shown for name, other in replies.items() if name != agent)


def test_early_stop_needs_all_answers_to_agree() -> None:
    agree = ScriptedEngine(script=lambda messages, params: "\\boxed{1/2}" if (params.seed or 0) % 2 else "\\boxed{0.5}")
    assert debate(agree, num_rounds=3, early_stop=True).calls == 4
    half = ScriptedEngine(script=lambda messages, params: "no idea" if len(messages[-1].text) % 2 else "\\boxed{2}")
    assert debate(half, num_rounds=1, early_stop=True).outcome.info["rounds"] == 1
    unanswered = ScriptedEngine(script=lambda messages, params: "no idea")
    result = debate(unanswered, num_rounds=2, early_stop=True)
    assert result.calls == 7
    assert result.outcome.info == {"rounds": 2, "consensus": False}
    assert result.outcome.parse_failures == 3


def test_a_single_agent_checks_itself() -> None:
    result = debate(num_agents=1)
    assert result.seen["agent_1/2/debater"][-1][1].startswith("Go over your answer once more")


def test_shared_order_gives_all_agents_one_prefix() -> None:
    result = debate(ScriptedEngine(), num_agents=3, shared_order=True)
    shown = [result.seen[f"agent_{k}/2/debater"] for k in (1, 2, 3)]
    assert all(len(messages) == 1 for messages in shown)
    prefixes = {messages[0][1].split("\n\nYou are agent")[0] for messages in shown}
    assert len(prefixes) == 1
    assert all(turn.text in next(iter(prefixes)) for turn in result.record.trajectory if turn.round == 1)


def test_vote_prefers_the_majority_over_the_first() -> None:
    counter = iter(range(100))
    engine = ScriptedEngine(script=lambda messages, params: f"\\boxed{{{[7, 3, 3][next(counter) % 3]}}}")
    result = debate(engine, num_rounds=1, aggregate="vote")
    assert result.record.final_answer == "3"
    assert result.outcome.solutions[-1].turn == "agent_2/1/debater"


@pytest.mark.parametrize("reply", ["", "I can't help with that.", "}{ {x} %s \\boxed{", "\0\u202e"])
def test_odd_replies_are_kept_and_never_invented(reply: str) -> None:
    result = debate(ScriptedEngine(script=lambda messages, params: reply))
    assert result.record.final_answer is None
    assert result.outcome.parse_failures == 3
    assert all(turn.text == reply for turn in result.record.trajectory)


def test_a_document_is_not_repeated_after_the_first_message() -> None:
    method, _ = load_method("llm_debate")
    result = asyncio.run(play(method, ScriptedEngine(), document="DOC " * 20))
    for address, messages in result.seen.items():
        assert sum("DOC" in text for _, text in messages) == (0 if "aggregator" in address else 1)


# ---------------------------------------------------------------- controls

OTHER = "What is 5 + 5?\n\nEnd with \\boxed{}."


def said(messages: list[Message], params: SamplingParams) -> str:
    """A reply that names its question and is like no other."""
    topic = "other" if messages[0].text == OTHER else "own"
    return f"{topic} {params.seed}: \\boxed{{{len(messages)}}}"


def control(peers: str, decoy: bool = True, **overrides: Any) -> Any:
    method, _ = load_method(
        "llm_debate", overrides=[f"{key}={value}" for key, value in overrides.items()] + [f"peers={peers}"]
    )
    sample = question(decoy=OTHER) if decoy else question()
    return asyncio.run(play(method, ScriptedEngine(script=said), sample=sample))


def test_agents_that_see_nobody_make_as_many_calls() -> None:
    result = control("none", num_rounds=3)
    assert (result.calls, result.critical_path) == (3 * 3 + 1, 4)
    for agent in (1, 2, 3):
        first, second, third = (result.seen[f"agent_{agent}/{round}/debater"] for round in (1, 2, 3))
        assert second[:2] == [*first, ("assistant", said_by(result, f"agent_{agent}/1/debater"))]
        assert second[2][1].startswith("Go over your answer once more")
        assert third[:3] == second
        assert len(third) == 5


def said_by(result: Any, turn: str) -> str:
    return next(one.text for one in result.record.trajectory if one.id == turn)


def test_unrelated_peers_are_the_same_agents_on_another_question() -> None:
    result = control("unrelated", num_rounds=3)
    assert (result.calls, result.critical_path) == (3 * 3 + 1 + 3, 4)
    decoys = {agent: said_by(result, f"agent_{agent}/0/decoy") for agent in (1, 2, 3)}
    assert len(set(decoys.values())) == 3
    for agent in (1, 2, 3):
        assert result.seen[f"agent_{agent}/0/decoy"] == [("user", OTHER)]
        assert result.seen[f"agent_{agent}/1/debater"] == [("user", QUESTION)]
        for round in (2, 3):
            shown = result.seen[f"agent_{agent}/{round}/debater"][-1][1]
            assert shown.startswith("Other agents have answered the same question.")  # the words of the debate
            assert [decoys[other] in shown for other in (1, 2, 3)] == [other != agent for other in (1, 2, 3)]
            assert "own " not in shown
    assert "other " not in result.seen["aggregator/4/aggregator"][0][1]
    assert b'"decoy":"What is 5' in encoded(result.record)


@pytest.mark.parametrize("change", [{"num_agents": 1}, {"num_rounds": 1}])
def test_nobody_answers_a_decoy_that_nobody_would_read(change: dict[str, int]) -> None:
    result = control("unrelated", decoy=False, **change)
    assert not any(turn.role == "decoy" for turn in result.record.trajectory)


def test_a_sample_without_a_decoy_is_no_answer() -> None:
    with pytest.raises(AssertionError, match="peers: unrelated needs another question"):
        control("unrelated", decoy=False)


def test_a_debate_is_recorded_as_before_there_were_controls() -> None:
    assert "peers" not in load_method("llm_debate")[1].config
    assert load_method("llm_debate", overrides=["peers=none"])[1].config["peers"] == "none"
    assert b"decoy" not in encoded(debate().record)
    assert "peers: Literal['all', 'none', 'unrelated'] = all" in listing.show("llm_debate")


def test_every_question_brings_another_one_whatever_is_asked_for() -> None:
    asked = [question(id=f"T/{index}", query=f"{index // 2}?") for index in range(20)]  # each question twice
    loaded, (method, _) = Loaded(asked, "test", "here"), load_method("llm_debate", overrides=["peers=unrelated"])

    def decoys(samples: list[Sample], seed: int = 0) -> dict[str, Any]:
        return {sample.id: sample.decoy for sample in job.with_decoys(samples, loaded, method, seed)}

    every = decoys(asked)
    assert all(every[sample.id] != sample.prompt for sample in asked)
    assert set(every.values()) <= {sample.prompt for sample in asked}
    assert len(set(every.values())) > 5
    assert decoys(asked[3:7]) == {sample.id: every[sample.id] for sample in asked[3:7]}
    assert decoys(asked, seed=1) != every
    assert job.with_decoys(asked, loaded, load_method("llm_debate")[0], 0) is asked
    with pytest.raises(UserError, match="here: has a single question"):
        job.with_decoys(asked[:2], Loaded(asked[:2], "test", "here"), method, 0)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("peers=nobody", "peers = 'nobody': .*'all', 'none' or 'unrelated'"),
        ("num_rounds=0", "--method_config: num_rounds = 0: .*greater than or equal to 1"),
        ("num_agents=three", "num_agents = 'three': .*valid integer"),
        ("num_agent=3", "unknown key 'num_agent' .*did you mean num_agents"),
        ("early_stop=1", "early_stop = 1: .*valid boolean"),
        ("num_agents", "expected key=value"),
    ],
)
def test_bad_config_is_one_line(override: str, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        load_method("llm_debate", overrides=[override])


def test_a_list_for_all_is_no_control() -> None:
    with pytest.raises(UserError, match="shared_order shows all answers to everybody"):
        load_method("llm_debate", overrides=["shared_order=true", "peers=none"])
