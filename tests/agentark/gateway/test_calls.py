"""Requests as calls, without a server."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from agentark.episode import Defaults
from agentark.gateway import tools
from agentark.gateway.calls import BadRequest, Call, call_of, json_object, referring, sample_id
from agentark.types import Message, Part, SamplingParams, message

DEFAULTS = Defaults(0.5, 256, 0)


def call(**fields: Any) -> Call:
    body = {"model": "m", "messages": [{"role": "user", "content": "?"}], "user": "s", **fields}
    return call_of(json_object(json.dumps(body).encode()), {}, "m", DEFAULTS)


def test_what_a_request_leaves_out_is_the_runs() -> None:
    assert call().params == SamplingParams(0.5, 256)
    assert (call().agent, call().round, call().sample, call().stream) == ("agent", None, "s", False)


def test_all_sampling_fields_arrive() -> None:
    params = call(
        temperature=0,
        max_completion_tokens=9,
        max_tokens=7,
        seed=3,
        top_p=0.9,
        top_k=-1,
        min_p=0,
        repetition_penalty=1.1,
        presence_penalty=-1,
        stop="END",
        chat_template_kwargs={"enable_thinking": False},
    ).params
    assert params == SamplingParams(
        0.0, 9, seed=3, top_p=0.9, top_k=0, min_p=0.0, repetition_penalty=1.1, presence_penalty=-1.0, stop=("END",),
        enable_thinking=False,
    )  # fmt: skip


def test_a_reply_of_a_given_form_keeps_it() -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
    assert call(stop="END", top_p=0.5, response_format=schema).params == SamplingParams(
        0.5, 256, schema={"type": "object"}, top_p=0.5
    )
    assert call(top_p=0.5, structured_outputs={"choice": ["A", "B"]}).params.choices == ("A", "B")


def test_what_the_run_is_started_with_holds_where_a_call_is_silent() -> None:
    started = Defaults(0.5, 256, 0, {"top_p": 0.9, "stop": ("END",)})
    body = {"model": "m", "messages": [{"role": "user", "content": "?"}], "user": "s", "top_p": 0.8}
    assert call_of(body, {}, "m", started).params == SamplingParams(0.5, 256, top_p=0.8, stop=("END",))


def test_what_changes_no_reply_is_taken() -> None:
    neutral = call(n=1, logprobs=False, frequency_penalty=0, logit_bias={}, store=True, parallel_tool_calls=False,
                   functions=None, response_format={"type": "text"}, tools=[], tool_choice="auto")  # fmt: skip
    assert neutral == call()


def test_a_call_is_the_same_whatever_its_way() -> None:
    assert call(stream=True, stream_options={"include_usage": True}).key == call().key
    assert call(metadata={"sample": "s", "note": "x"}).key == call().key
    other = [call(temperature=0.4), call(seed=1), call(metadata={"agent": "b"}), call(metadata={"round": 1})]
    other.append(call(messages=[{"role": "user", "content": "!"}]))
    assert len({one.key for one in (*other, call())}) == 6


@pytest.mark.parametrize(
    ("system", "agent"),
    [
        ("You are a tutor.\nBe kind.", "You are a tutor."),
        ("\n\n  Critic\t2 \n", "Critic 2"),
        ("x" * 500, "x" * 200),
        ("  \n ", "agent"),
        ("team", "agent"),
    ],
)
def test_the_first_line_of_the_system_message_is_a_name(system: str, agent: str) -> None:
    messages = [{"role": "developer", "content": [{"type": "text", "text": system}]}, {"role": "user", "content": "?"}]
    assert call(messages=messages).agent == agent


@pytest.mark.parametrize(
    "id", ["", " a", "a ", "/a", "a/", "a//b", "../a", "a/./b", "a/outcome", "x" * 201, 7, "a\u200bb"]
)
def test_what_is_no_id(id: Any) -> None:
    with pytest.raises(BadRequest, match="sample"):
        sample_id(id)


def test_ids_of_datasets_are_ids() -> None:
    for id in ("GSM8K/test/1", "ChainSum/test/story/20-56-31+95", "Frage äöü?"):
        assert sample_id(id) == id


# ---------------------------------------------------------------- dialogues


def sent(*texts: str) -> Any:
    roles = ("user", "assistant")
    return call(messages=[{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]).messages


def reply(id: str, text: str) -> Message:
    return Message("assistant", (Part(text, ref=id),))


def test_a_dialogue_goes_on_where_every_word_is_the_same() -> None:
    first = (message("user", "1 + 1?"), reply("a/1/reply", "2"))
    second = (*first, message("user", "Sure?"), reply("a/2/reply", "Yes"))
    dialogues = {"a/1/reply": first, "a/2/reply": second}
    replies: dict[str, Any] = {"a/1/reply": ("2", ()), "a/2/reply": ("Yes", ())}
    assert referring(sent("1 + 1?", "2", "Sure?"), dialogues, replies)[:2] == first
    whole = referring(sent("1 + 1?", "2", "Sure?", "Yes", "Why?"), dialogues, replies)
    assert whole == (*second, message("user", "Why?"))
    for texts in (("1 + 1?",), ("1 + 2?", "2", "Sure?"), ("1 + 1?", "3", "Sure?")):
        assert all(part.ref is None for one in referring(sent(*texts), dialogues, replies) for part in one.parts)
    changed = referring(sent("1 + 1?", "2", "Really?", "Yes", "Why?"), dialogues, replies)
    assert [part.ref for one in changed for part in one.parts] == [None, "a/1/reply", None, None, None]


def test_of_equal_dialogues_the_first_by_address_is_taken() -> None:
    dialogues = {id: (message("user", "?"), reply(id, "2")) for id in ("a/1/reply#10", "a/1/reply#2", "a/1/reply")}
    replies: dict[str, Any] = dict.fromkeys(dialogues, ("2", ()))
    assert referring(sent("?", "2", "!"), dialogues, replies)[1].parts[0].ref == "a/1/reply"


# ---------------------------------------------------------------- tools

ADD = {"type": "function", "function": {"name": "add", "description": "Adds <b>", "parameters": {"type": "object"}}}
DIALOGUE: list[dict[str, Any]] = [
    {"role": "system", "content": "You add."},
    {"role": "user", "content": "1 + 6? And 2 + 2?"},
    {
        "role": "assistant",
        "content": "I add.",
        "tool_calls": [
            {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1, "b": 6}'}},
            {"id": "2", "type": "function", "function": {"name": "add", "arguments": '{"a": 2, "b": 2}'}},
        ],
    },
    {"role": "tool", "tool_call_id": "1", "content": "7"},
    {"role": "tool", "tool_call_id": "2", "content": "4"},
]


@pytest.mark.parametrize("name", ["qwen2_5.jinja", "qwen3.jinja"])
def test_tools_stand_as_the_templates_of_qwen_have_them(name: str) -> None:
    trl = importlib.util.find_spec("trl")
    assert trl is not None
    assert trl.origin is not None
    template = (Path(trl.origin).parent / "chat_templates" / name).read_text()
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)  # as transformers has it
    render = environment.from_string(template).render
    plain = [json.loads(json.dumps(one)) for one in DIALOGUE]
    for one in plain:
        for asked in one.get("tool_calls", ()):
            asked["function"]["arguments"] = json.loads(asked["function"]["arguments"])
    wanted = render(messages=plain, tools=[ADD], add_generation_prompt=True)
    ours = call(messages=DIALOGUE, tools=[ADD])
    texts = [{"role": one.role, "content": one.text} for one in referring(ours.messages, {}, {})]
    assert render(messages=texts, tools=None, add_generation_prompt=True) == wanted
    assert ours.tools


def test_calls_are_read_out_of_replies() -> None:
    good = '<tool_call>\n{"name": "add", "arguments": {"a": {"b": "}"}}}\n</tool_call>'
    assert tools.read(f"So: {good}\n{good}") == ("So:", ({"name": "add", "arguments": '{"a": {"b": "}"}}'},) * 2)
    assert tools.read('<tool_call>{"name": "f"}') == ("", ({"name": "f", "arguments": "{}"},))
    for text in ("no call", "<tool_call>{not json}</tool_call>", '<tool_call>{"nome": 1}</tool_call>', "<tool_call>"):
        assert tools.read(text) == (text, ())


def test_a_choice_of_tools_is_said() -> None:
    assert call(tools=[ADD], tool_choice="none") == call()
    assert "at least one function call" in call(tools=[ADD], tool_choice="required").messages[0].parts[-1]
    named = {"type": "function", "function": {"name": "add"}}
    assert "the function add" in call(tools=[ADD], tool_choice=named).messages[0].parts[-1]
