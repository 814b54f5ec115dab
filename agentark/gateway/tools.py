"""Tools in words: how they are offered to a model, how a reply calls them, how their results come back.

No engine is asked for tools. They stand in the prompt in the words of the templates of Qwen2.5, Qwen3 and Hermes, so
that such a model reads exactly what its own template would write; a record shows all that the model saw, and a student
is trained on the very text that its template will ask for.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

OFFER = """# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{tools}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call>"""
REQUIRED = "\n\nReply with at least one function call."
NAMED = "\n\nReply with a call of the function {name}."
OPENS = "<tool_call>"
_CALL = re.compile(r"<tool_call>\s*(\{.*?\})\s*(?:</tool_call>|\Z)", re.S)
_NAME = re.compile(r"[\w.-]{1,128}")

Problem = Callable[[str, str], Exception]
"""(field, what is wrong) -> the error to raise."""


def offer(offered: Sequence[Any], choice: Any, problem: Problem) -> str | None:
    """The words that offer tools; None where there are none to offer.

    Args:
        offered: the field `tools` of a request.
        choice: its field `tool_choice`.
    """
    names = []
    for index, tool in enumerate(offered):
        function = tool.get("function") if isinstance(tool, dict) and tool.get("type") == "function" else None
        name = function.get("name") if isinstance(function, dict) else None
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise problem(f"tools[{index}]", f"{tool!r:.60} is not a function with a name")
        names.append(name)
    named = _named(choice, names, problem)
    if not names or choice == "none":
        return None
    text = OFFER.replace("{tools}", "\n".join(json.dumps(tool, ensure_ascii=False) for tool in offered))
    if named is not None:
        return text + NAMED.replace("{name}", named)
    return text + (REQUIRED if choice == "required" else "")


def _named(choice: Any, names: Sequence[str], problem: Problem) -> str | None:
    """The tool that must be called, where the choice names one."""
    if choice in (None, "none", "auto", "required"):
        if choice == "required" and not names:
            raise problem("tool_choice", "'required' goes with tools")
        return None
    function = choice.get("function") if isinstance(choice, dict) and choice.get("type") == "function" else None
    name = function.get("name") if isinstance(function, dict) else None
    if name not in names:
        raise problem("tool_choice", f"{choice!r:.60} is not none, auto, required or one of the tools")
    return str(name)


def calls_in(given: Any, where: str, problem: Problem) -> tuple[dict[str, str], ...]:
    """The calls of an assistant's message, as (name, arguments)."""
    if given is None:
        return ()
    if not isinstance(given, list):
        raise problem(where, f"{given!r:.60} is not a list")
    calls = []
    for call in given:
        function = call.get("function") if isinstance(call, dict) else None
        name, arguments = (function.get("name"), function.get("arguments")) if isinstance(function, dict) else (0, 0)
        if not isinstance(name, str) or not isinstance(arguments, str):
            raise problem(where, f"{call!r:.60} is not a function call with a name and arguments")
        calls.append({"name": name, "arguments": arguments})
    return tuple(calls)


def written(calls: Sequence[Mapping[str, str]], content: str) -> str:
    """Calls in a model's words, to stand after the message's content."""
    blocks = []
    for call in calls:
        try:
            arguments = json.dumps(json.loads(call["arguments"]), ensure_ascii=False)
        except ValueError:  # a model may have written it
            arguments = json.dumps(call["arguments"], ensure_ascii=False)
        name = json.dumps(call["name"], ensure_ascii=False)
        blocks.append(f'<tool_call>\n{{"name": {name}, "arguments": {arguments}}}\n</tool_call>')
    return ("\n" if content and blocks else "") + "\n".join(blocks)


def result(content: str) -> str:
    """The result of a tool in the words of a message."""
    return f"<tool_response>\n{content}\n</tool_response>"


def read(text: str) -> tuple[str, tuple[dict[str, str], ...]]:
    """(content before the first call, calls) of a reply; a reply without a call that can be read is all content."""
    calls = []
    for match in _CALL.finditer(text):
        try:
            value = json.loads(match[1])
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict) and isinstance(value.get("name"), str):
            arguments = value.get("arguments", value.get("parameters", {}))
            given = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
            calls.append({"name": value["name"], "arguments": given})
    if not calls:
        return text, ()
    return text.partition(OPENS)[0].strip(), tuple(calls)
