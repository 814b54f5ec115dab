"""A request to the chat completions of the OpenAI API, as one call of an agent. Pure: no state, no engine."""

import math
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote

import msgspec
from msgspec import Struct

from agentark.config import nearest
from agentark.episode import Defaults, sampled
from agentark.gateway import tools
from agentark.records import natural
from agentark.types import TEAM, Message, Part, Role, SamplingParams, digest

HEADERS = {"sample": "X-AgentArk-Sample", "agent": "X-AgentArk-Agent", "round": "X-AgentArk-Round"}
MAX_NAME = 200
"""Characters of a sample's id; an agent's name is cut there."""
MAX_ROUND = 1_000_000
NAMELESS = "agent"
"""An agent without a header and without a system message."""
ROLES: Mapping[str, Role] = {
    **{"system": "system", "developer": "system", "user": "user", "assistant": "assistant"},
    "tool": "user",  # where the templates of Qwen and Hermes put the results of tools
}
WITHOUT_EFFECT = {
    *("store", "service_tier", "prompt_cache_key", "prompt_cache_retention", "safety_identifier"),
    *("parallel_tool_calls", "stream_options"),
}
"""Fields that change no reply; `stream_options` is read apart."""
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    **{"n": (1,), "logprobs": (False,), "top_logprobs": (0,), "frequency_penalty": (0,), "logit_bias": ({},)},
    **{"modalities": (["text"],), "functions": ([],), "audio": (), "prediction": (), "function_call": ()},
    **{"reasoning_effort": (), "verbosity": (), "web_search_options": ()},
}
"""Fields that the engines do not have; only null and these values of them are taken."""
OF_A_MESSAGE = {
    *("role", "content", "name", "tool_calls", "tool_call_id", "refusal", "annotations", "audio", "function_call"),
    *("reasoning", "reasoning_content"),
}


class BadRequest(Exception):
    """A request that fails alone.

    Args:
        message: names the field, its value and what would be right.
        param: the field.
        code: a word for programs.
    """

    def __init__(
        self, message: str, status: int = 400, param: str | None = None, code: str = "invalid_request"
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code

    @property
    def body(self) -> dict[str, Any]:
        """As the OpenAI API words an error."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


class Sent(Struct, frozen=True, omit_defaults=True):
    """A message as a client sends it."""

    role: str
    parts: tuple[str, ...]
    calls: tuple[dict[str, str], ...] = ()
    """Tools that an assistant's message calls."""


class Call(Struct, frozen=True, kw_only=True):
    """One call of an agent."""

    sample: str
    agent: str
    round: int | None
    """None: the agent's next."""
    messages: tuple[Sent, ...]
    params: SamplingParams
    """`seed` only where the client gives one."""
    stream: bool
    include_usage: bool
    tools: bool
    """Whether the reply may call tools."""

    @property
    def key(self) -> str:
        """A call with the same key is the same call."""
        return digest((self.agent, self.round, self.messages, self.params, self.tools))


def json_object(body: bytes) -> dict[str, Any]:
    """The body of a request. Raises BadRequest for all but an object of strict JSON."""
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"the body is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise BadRequest(f"the body is not a JSON object but {value!r:.60}")
    return value


def call_of(body: Mapping[str, Any], headers: Mapping[str, str], model: str, defaults: Defaults) -> Call:
    """The call that a request makes.

    Args:
        model: the one that is served.
        defaults: of what the request leaves out.

    Raises:
        BadRequest: it is none.
    """
    _refuse_unknown(body, _KNOWN, "")
    asked = _text(body, "model", required=True)
    if asked != model:
        raise BadRequest(f"model: {asked!r:.100} is not served here; {model!r} is", 404, "model", "model_not_found")
    for name, values in NEUTRAL.items():
        if body.get(name) is not None and not any(_same(body[name], value) for value in values):
            wanted = f"only {', '.join(map(repr, values))}" if values else "nothing"
            raise BadRequest(f"{name}: {body[name]!r:.60}; {wanted} is taken here", param=name)
    messages = tuple(_messages(_list(body, "messages")))
    offered = tools.offer(_list(body, "tools", optional=True), body.get("tool_choice"), _problem)
    if offered is not None:
        messages = _with_tools(messages, offered)
    sample, agent, round = _who(body, headers)
    options = body.get("stream_options") or {}
    if not isinstance(options, dict):
        raise BadRequest(f"stream_options: {options!r:.60} is not an object", param="stream_options")
    return Call(
        sample=sample,
        agent=agent or _named_by(messages),
        round=round,
        messages=messages,
        params=_params(body, defaults),
        stream=_flag(body, "stream"),
        include_usage=_flag(options, "include_usage"),
        tools=offered is not None,
    )


# ---------------------------------------------------------------- who


def _who(body: Mapping[str, Any], headers: Mapping[str, str]) -> tuple[str, str | None, int | None]:
    """(sample, agent, round): of the headers, else of `metadata`, else `user` names the sample."""
    metadata = body.get("metadata") or {}
    if not isinstance(metadata, dict):
        raise BadRequest(f"metadata: {metadata!r:.60} is not an object", param="metadata")
    given: dict[str, Any] = {"sample": body.get("user"), **metadata}
    for name, header in HEADERS.items():
        if header in headers:
            given[name] = unquote(headers[header], errors="surrogateescape")
    if given.get("sample") is None:
        raise BadRequest(
            f"which sample? Name it in the header {HEADERS['sample']}, as metadata.sample or as user", param="user"
        )
    agent, round = given.get("agent"), given.get("round")
    if agent is not None:
        agent = _name(agent, "agent")
    if isinstance(round, str) and round.isascii() and round.isdecimal():
        round = int(round[:9])
    if round is not None and (type(round) is not int or not 0 <= round <= MAX_ROUND):
        raise BadRequest(f"round: {round!r:.60} is not a whole number from 0 to {MAX_ROUND}", param="round")
    return sample_id(given["sample"]), agent, round


def sample_id(given: Any) -> str:
    """A sample's id. Raises BadRequest for what is none."""
    id = _name(given, "sample")
    if any(piece in ("", ".", "..") for piece in id.split("/")) or id.endswith("/outcome"):
        raise BadRequest(f"sample: {id!r:.60} is not an id (words with / between them, the last not `outcome`)")
    return id


def _name(given: Any, what: str) -> str:
    if (
        not isinstance(given, str)
        or not given.isprintable()
        or not 0 < len(given) <= MAX_NAME
        or given != given.strip()
    ):
        raise BadRequest(f"{what}: {given!r:.60} is not a name (1 to {MAX_NAME} printable characters)", param=what)
    if what == "agent" and given == TEAM:
        raise BadRequest(f"agent: {TEAM!r} is who states the outcome; take another name", param=what)
    return given


def _named_by(messages: Sequence[Sent]) -> str:
    """The first line of the first system message, as a name."""
    text = next(("".join(sent.parts) for sent in messages if sent.role == "system"), "")
    line = next((line for line in text.splitlines() if line.strip()), "")
    name = " ".join("".join(sign if sign.isprintable() else " " for sign in line).split())[:MAX_NAME].strip()
    return NAMELESS if name in ("", TEAM) else name


# ---------------------------------------------------------------- messages


def _messages(given: Sequence[Any]) -> list[Sent]:
    messages: list[Sent] = []
    for index, message in enumerate(given):
        where = f"messages[{index}]"
        if not isinstance(message, dict):
            raise BadRequest(f"{where}: {message!r:.60} is not an object", param="messages")
        _refuse_unknown(message, OF_A_MESSAGE, f"{where}.")
        role = message.get("role")
        if not isinstance(role, str) or role not in ROLES:
            raise BadRequest(f"{where}.role: {role!r:.60} ({nearest(str(role), ROLES)})", param="messages")
        for name in ("audio", "function_call"):
            if message.get(name) is not None:
                raise BadRequest(f"{where}.{name}: only text and tool_calls are taken here", param="messages")
        parts = _parts(message.get("content"), f"{where}.content")
        calls = tools.calls_in(message.get("tool_calls"), f"{where}.tool_calls", _problem)
        if calls and role != "assistant":
            raise BadRequest(f"{where}.tool_calls: only an assistant's message has some", param="messages")
        if not calls and message.get("content") is None and role != "assistant":
            raise BadRequest(f"{where}.content: is missing", param="messages")
        if role == "tool":
            parts = (tools.result("".join(parts)),)
            if messages and index and given[index - 1].get("role") == "tool":  # one message for all results
                messages[-1] = Sent("user", (*messages[-1].parts, "\n", *parts))
                continue
        messages.append(Sent(ROLES[role], parts, calls))
    if not messages:
        raise BadRequest("messages: is empty", param="messages")
    return messages


def _parts(content: Any, where: str) -> tuple[str, ...]:
    if content is None:
        return ("",)
    if isinstance(content, str):
        return (content,)
    if not isinstance(content, list):
        raise BadRequest(f"{where}: {content!r:.60} is neither a text nor a list of parts", param="messages")
    for part in content:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise BadRequest(f"{where}: {part!r:.60} is not a part of type text with its text", param="messages")
    return tuple(part["text"] for part in content)


def _with_tools(messages: tuple[Sent, ...], offered: str) -> tuple[Sent, ...]:
    """The dialogue with the tools in its system message, as the templates of Qwen and Hermes have them."""
    if messages[0].role == "system":
        return (Sent("system", (*messages[0].parts, "\n\n", offered)), *messages[1:])
    return (Sent("system", (offered,)), *messages)


def referring(
    sent: Sequence[Sent], dialogues: Mapping[str, tuple[Message, ...]], replies: Mapping[str, tuple[str, Any]]
) -> tuple[Message, ...]:
    """The messages of a call. Where they go on with an earlier turn, they begin with its dialogue and its reply.

    Args:
        dialogues: of each earlier turn of the agent: all messages and its reply.
        replies: content and tool calls of each, as the client was given them.
    """
    plain = tuple(map(_plain, sent))

    def same(index: int, message: Message) -> bool:
        ref = message.parts[0].ref
        if ref is not None:
            return sent[index].role == "assistant" and replies[ref] == _said(sent[index])
        return plain[index].role == message.role and plain[index].text == message.text

    fits = [
        id
        for id in sorted(dialogues, key=natural)  # of several with the same words the first, whichever came first
        if len(dialogues[id]) <= len(sent) and all(same(index, one) for index, one in enumerate(dialogues[id]))
    ]
    if not fits:
        return plain
    longest = dialogues[max(fits, key=lambda id: len(dialogues[id]))]
    return (*longest, *plain[len(longest) :])


def _said(sent: Sent) -> tuple[str, Any]:
    return "".join(sent.parts), sent.calls


def _plain(sent: Sent) -> Message:
    parts = tuple(Part(part) for part in (*sent.parts, tools.written(sent.calls, "".join(sent.parts))) if part)
    return Message(ROLES[sent.role], parts or (Part(""),))


# ---------------------------------------------------------------- sampling


def _params(body: Mapping[str, Any], defaults: Defaults) -> SamplingParams:
    limit = _number(body, "max_completion_tokens", 1, 1 << 31, whole=True)
    top_k = _number(body, "top_k", -1, 1 << 31, whole=True)
    given = {
        "temperature": _number(body, "temperature", 0, 2),
        "max_tokens": _number(body, "max_tokens", 1, 1 << 31, whole=True) if limit is None else limit,
        "top_p": _number(body, "top_p", 0, 1, above=True),
        "top_k": None if top_k is None else max(0, int(top_k)),
        "min_p": _number(body, "min_p", 0, 1),
        "repetition_penalty": _number(body, "repetition_penalty", 0, 10, above=True),
        "presence_penalty": _number(body, "presence_penalty", -2, 2),
        "stop": _stop(body),
    }
    seed = _number(body, "seed", -(1 << 63), (1 << 63) - 1, whole=True)
    choices, schema = _choices(body), _schema(body)
    own = {name: value for name, value in given.items() if value is not None}
    values = sampled(defaults.route("", "", "main"), own, choices, schema)
    template = body.get("chat_template_kwargs") or {}
    if not isinstance(template, dict) or template.keys() - {"enable_thinking"}:
        raise BadRequest(
            f"chat_template_kwargs: {template!r:.60}; only enable_thinking is taken", param="chat_template_kwargs"
        )
    return SamplingParams(
        **values,
        seed=None if seed is None else int(seed),
        choices=choices,
        schema=schema,
        enable_thinking=_flag(template, "enable_thinking") if "enable_thinking" in template else None,
    )


def _number(
    body: Mapping[str, Any], name: str, least: float, most: float, *, whole: bool = False, above: bool = False
) -> float | None:
    value = body.get(name)
    if value is None:
        return None
    kind = "whole number" if whole else "number"
    fits = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
    if not fits or not least <= value <= most or (above and value == least) or math.isnan(value):
        bound = "above" if above else "from"
        raise BadRequest(f"{name}: {value!r:.60} is not a {kind} {bound} {least} to {most}", param=name)
    return value if whole else float(value)


def _stop(body: Mapping[str, Any]) -> tuple[str, ...] | None:
    value = body.get("stop")
    texts = [value] if isinstance(value, str) else value
    if texts is None or texts == []:
        return None
    if not isinstance(texts, list) or len(texts) > 16 or not all(isinstance(text, str) and text for text in texts):
        raise BadRequest(f"stop: {value!r:.60} is not a text or a list of at most 16", param="stop")
    return tuple(texts)


def _choices(body: Mapping[str, Any]) -> tuple[str, ...] | None:
    asked = body.get("structured_outputs")
    if asked is None:
        return None
    choices = asked.get("choice") if isinstance(asked, dict) and asked.keys() == {"choice"} else None
    if not isinstance(choices, list) or not choices or not all(isinstance(text, str) and text for text in choices):
        raise BadRequest(f'structured_outputs: {asked!r:.60} is not {{"choice": [texts]}}', param="structured_outputs")
    return tuple(choices)


def _schema(body: Mapping[str, Any]) -> dict[str, Any] | None:
    asked = body.get("response_format")
    if asked is None or asked == {"type": "text"}:
        return None
    if asked == {"type": "json_object"}:
        return {"type": "object"}
    named = asked.get("json_schema") if isinstance(asked, dict) and asked.get("type") == "json_schema" else None
    schema = named.get("schema") if isinstance(named, dict) else None
    if not isinstance(schema, dict):
        raise BadRequest(f"response_format: {asked!r:.60} is not of a type that is known", param="response_format")
    return schema


# ---------------------------------------------------------------- fields


_KNOWN = {
    *("model", "messages", "stream", "tools", "tool_choice", "user", "metadata", "response_format", "stop", "seed"),
    *("temperature", "top_p", "top_k", "min_p", "max_tokens", "max_completion_tokens", "presence_penalty"),
    *("repetition_penalty", "structured_outputs", "chat_template_kwargs", *WITHOUT_EFFECT, *NEUTRAL),
}


def _problem(where: str, text: str) -> BadRequest:
    return BadRequest(f"{where}: {text}", param=where.partition("[")[0])


def _refuse_unknown(given: Mapping[str, Any], known: set[str], where: str) -> None:
    for name in given:
        if name not in known:
            raise BadRequest(f"{where}{name:.60}: unknown ({nearest(name[:60], sorted(known))})", param=name[:60])


def _same(one: Any, other: Any) -> bool:
    """Equal, and of one kind: true is not 1."""
    numbers = isinstance(one, int | float) and isinstance(other, int | float)
    return bool(one == other) and (isinstance(one, bool) == isinstance(other, bool) if numbers else True)


def _list(body: Mapping[str, Any], name: str, optional: bool = False) -> list[Any]:
    value = body.get(name)
    if value is None and optional:
        return []
    if not isinstance(value, list):
        raise BadRequest(f"{name}: is missing" if value is None else f"{name}: {value!r:.60} is not a list", param=name)
    return value


def _text(body: Mapping[str, Any], name: str, required: bool = False) -> str | None:
    value = body.get(name)
    if value is None and not required:
        return None
    if not isinstance(value, str):
        raise BadRequest(f"{name}: is missing" if value is None else f"{name}: {value!r:.60} is not text", param=name)
    return value


def _flag(body: Mapping[str, Any], name: str) -> bool:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise BadRequest(f"{name}: {value!r:.60} is not true or false", param=name)
    return bool(value)
