"""Tools for methods: name agents, make solutions, ask for replies of a given form, run code, read code blocks."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import Struct

from agentark.answers import extract
from agentark.code_grading import code_of, program
from agentark.config import Config
from agentark.sandbox import Execution
from agentark.sandbox_engine import Ran, RunProgram, RunTests, Tested
from agentark.types import REPAIR_ROLE, SANDBOX, Chat, Message, Part, Sample, SampleError, Solution, Turn, message

T = TypeVar("T")
C = TypeVar("C", bound=Config)

ALL_TASKS = frozenset({"number", "math", "choice", "text", "code", "software"})
"""`TASKS` of a method that can do any question. `software` is code that no test grades (SRDD)."""
REASONING = frozenset({"number", "math", "choice", "text"})
"""`TASKS` of a method whose agents discuss an answer."""

REPAIR = "Your reply could not be read. {form} Reply again, in that form and with nothing else."
FORM_CHOICES = "Wanted is exactly one of: {choices}."
FORM_SCHEMA = "Wanted is one JSON object of this schema: {schema}."


class Configured(Generic[C]):
    """A method whose only state is its frozen config."""

    def __init__(self, config: C) -> None:
        self.config = config


def agent_name(index: int) -> str:
    """`agent_1` for index 0."""
    return f"agent_{index + 1}"


def solution(sample: Sample, turn: Turn, number: int, agent: str | None = None, text: str | None = None) -> Solution:
    """The reply of a turn as solution `number` (1-based), its answer extracted.

    Args:
        agent: whose solution it is; None: the turn's agent.
        text: the part of the reply that may hold the answer; None: all of it.
    """
    answer = extract(turn.text if text is None else text, sample.answer_type, sample.choices)
    value = answer.value if answer else None
    return Solution(id=number, agent=agent or turn.agent, round=turn.round, turn=turn.id, answer=value)


def unparsed(solutions: Sequence[Solution]) -> int:
    """How many solutions have no answer."""
    return sum(solution.answer is None for solution in solutions)


def numbered(header: str, turns: Sequence[Turn]) -> list[str | Part | Turn]:
    """Message parts showing replies one after the other, each under `header` filled with its 1-based number."""
    return [part for number, turn in enumerate(turns, 1) for part in (header.format(number=number), turn)]


# ---------------------------------------------------------------- replies that must be read


class Asked(Struct, Generic[T], frozen=True):
    """The result of asking for a reply of a given form."""

    value: T | None
    """None: neither the reply nor its repair could be read."""
    turn: Turn
    """The last reply given."""
    failures: int
    """Replies that could not be read: 0, 1 or 2."""


async def ask(
    chat: Chat,
    messages: Sequence[Message],
    parse: Callable[[str], T | None],
    *,
    guided: bool,
    agent: str,
    round: int,
    role: str,
    schema: dict[str, Any] | None = None,
    choices: tuple[str, ...] | None = None,
    form: str | None = None,
    **sampling: Any,
) -> Asked[T]:
    """Ask for a reply that `parse` can read; where it cannot, ask once more in the same dialogue, then give up.

    Args:
        messages: they ask for the form in words as well, since not every engine can be guided.
        parse: the value of a reply, or None.
        guided: decode under `schema` or `choices` where the engine can; otherwise they only word the repair. With
            both, the first reply follows the schema (it may reason) and its repair is one of the choices.
        form: the wanted form in a sentence, for the repair; None: worded from `choices` or `schema`.
        sampling: temperature, max_tokens, model; see Chat.

    Returns:
        The value, never an invented one; the role of the repair call is `<role>_repair`.
    """
    guide: dict[str, Any] = {"schema": schema} if schema is not None else {"choices": choices}
    turn = await chat(messages, agent=agent, round=round, role=role, **(guide if guided else {}), **sampling)
    if (value := parse(turn.text)) is not None:
        return Asked(value, turn, 0)
    wanted: dict[str, Any] = {"schema": schema, "choices": choices, "form": form}
    return await repair(chat, messages, turn, parse, f"{role}{REPAIR_ROLE}", guided=guided, **wanted, **sampling)


async def repair(
    chat: Chat,
    messages: Sequence[Message],
    turn: Turn,
    parse: Callable[[str], T | None],
    role: str,
    *,
    guided: bool,
    schema: dict[str, Any] | None = None,
    choices: tuple[str, ...] | None = None,
    form: str | None = None,
    **sampling: Any,
) -> Asked[T]:
    """The second half of `ask`: one more call to the agent of `turn`, a reply to `messages` that could not be read."""
    guide: dict[str, Any] = {"choices": choices} if choices is not None else {"schema": schema}
    if form is None and choices is not None:
        form = FORM_CHOICES.replace("{choices}", " | ".join(choices))
    elif form is None:
        form = FORM_SCHEMA.replace("{schema}", json.dumps(schema))
    again = [*messages, message("assistant", turn), message("user", REPAIR.replace("{form}", form))]
    where: dict[str, Any] = {"agent": turn.agent, "round": turn.round, "role": role}
    turn = await chat(again, **where, **(guide if guided else {}), **sampling)
    value = parse(turn.text)
    return Asked(value, turn, 1 if value is not None else 2)


def object_schema(**properties: dict[str, Any]) -> dict[str, Any]:
    """The JSON schema of an object with exactly these properties."""
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def read_json(text: str, kind: type[T]) -> T | None:
    """The first JSON object in a reply that is a `kind` (a msgspec Struct, say); None when there is none."""
    decoder = json.JSONDecoder()
    for match in re.finditer(r"\{", text):
        try:
            value, _ = decoder.raw_decode(text, match.start())
            msgspec.json.encode(value)  # half a surrogate pair (\ud83d) could not be written to a record
            return msgspec.convert(value, kind)
        except (ValueError, RecursionError):
            continue
    return None


# ---------------------------------------------------------------- code


async def ask_program(chat: Chat, sample: Sample, request: Message, form: str, **address: Any) -> Asked[str]:
    """Ask for a program that answers the question.

    Args:
        address: agent, round and role of the call.
    """
    return await ask(chat, [request], lambda text: code_of(sample, text), form=form, guided=False, **address)


async def run_program(
    chat: Chat,
    code: str,
    *,
    agent: str,
    round: int,
    role: str = "execution",
    stdin: str = "",
    timeout: float = 10.0,
    files: Mapping[str, str] = {},
) -> tuple[Turn, Execution]:
    """Run a program in the sandbox; a turn like any other, so a replay takes its result from the record.

    Args:
        timeout: seconds of wall time.
        files: texts by relative path, laid out beside it.

    Returns:
        The turn, and the execution with `seconds` 0.

    Raises:
        SampleError: this run may not execute code; first check that `sandbox` is in `chat.models`.
    """
    turn = await _execute(chat, RunProgram(code, stdin, timeout, dict(files)), agent, round, role)
    ran = msgspec.json.decode(turn.text, type=Ran)
    return turn, Execution(ran.status, ran.returncode, ran.stdout, ran.stderr, 0.0, ran.isolation)


async def run_tests(
    chat: Chat,
    sample: Sample,
    code: str,
    *,
    agent: str,
    round: int,
    role: str = "tests",
    tests: Sequence[str] | None = None,
) -> tuple[Turn, list[bool]]:
    """Run tests against a solution, after the preamble the question gives.

    Args:
        tests: None: the sample's visible tests. A method must not use the others.

    Returns:
        The turn (a `Tested` as JSON), and one verdict per test, in order; none when the question shows no test.

    Raises:
        SampleError: as `run_program`.
    """
    chosen = tuple((sample.visible_tests or ()) if tests is None else tests)
    turn = await _execute(chat, RunTests(program(sample, code), chosen), agent, round, role)
    return turn, msgspec.json.decode(turn.text, type=Tested).passed


async def _execute(chat: Chat, request: Struct, agent: str, round: int, role: str) -> Turn:
    if SANDBOX not in chat.models:
        raise SampleError(f"{agent} wants to run code, which needs --allow_code_execution")
    asked = message("user", msgspec.json.encode(request).decode())
    return await chat([asked], agent=agent, round=round, role=role, model=SANDBOX, temperature=0.0, max_tokens=1)
