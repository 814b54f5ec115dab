"""Who answers in a run: for each agent, role or everybody (`*`) a model, an adapter and how replies are sampled.

    python inference.py ... --team agent_1=MODEL agent_2=MODEL@ADAPTER
    python inference.py ... --team configs/teams/FILE.yaml

What decides on a call, the first that says something: the entry of its agent, of its role, the method's own argument,
the entry `*`, the flags. A reply that is one of several choices is decoded as the method says. An entry that names an
adapter alone means the one of --model_name; methods know nothing of all this.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from msgspec import Struct
from pydantic import Field

from agentark.config import Config, build, nearest, read_yaml
from agentark.sampling import CONTROLS
from agentark.types import REPAIR_ROLE, SampleError, UserError

EVERYBODY = "*"
FLAG = "--team"

Agents = Mapping[str, Sequence[str]]
"""Agent -> its roles, without numbers and without those of repairs."""


@runtime_checkable
class Teamed(Protocol):
    """A method that says who speaks in it."""

    def agents(self) -> Agents:
        """All agents that its configuration may lead to."""
        ...


def family(role: str) -> str:
    """The role of a call without its number (`verify_2`), that of a repair without its mark."""
    return re.sub(r"(_\d+)+$", "", role.removesuffix(REPAIR_ROLE))


class Entry(Config):
    """What a team says of an agent, a role or everybody. A key that is left out is decided elsewhere."""

    model: str | None = Field(None, min_length=1)
    """Hub id, local folder, embedded model, or a model of the endpoint file; default: --model_name."""
    adapter: str | None = Field(None, min_length=1)
    """Folder of a PEFT adapter on that model."""
    temperature: float | None = Field(None, ge=0, le=2)
    """This and the following as the flags of inference.py."""
    max_tokens: int | None = Field(None, ge=1)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0)
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, gt=0, le=10)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    stop: list[str] | None = Field(None, min_length=1)
    enable_thinking: bool | None = None

    @property
    def answers(self) -> bool:
        """Whether it says who answers."""
        return self.model is not None or self.adapter is not None

    @property
    def sampling(self) -> dict[str, Any]:
        """The given fields of `SamplingParams`."""
        given = {name: value for name in SAMPLING if (value := getattr(self, name)) is not None}
        return given | ({"stop": tuple(self.stop)} if self.stop else {})


SAMPLING = ("temperature", "max_tokens", *CONTROLS, "enable_thinking")


def read_team(words: Sequence[str]) -> dict[str, Entry]:
    """The entries of `--team`: one file, or NAME=MODEL[@ADAPTER] each.

    Raises:
        UserError: naming the file or word, and the key that is wrong.
    """
    if len(words) == 1 and "=" not in words[0]:
        where, written = f"{FLAG} {words[0]}", read_yaml(Path(words[0]))
    else:
        where, written = FLAG, dict(map(_pair, words))
        if len(written) < len(words):
            raise UserError(f"{FLAG} {' '.join(words)}: a name is given twice")
    if not written:
        raise UserError(f"{where}: names nobody")
    return {name: _entry(name, values, where) for name, values in written.items()}


def _pair(word: str) -> tuple[str, dict[str, str]]:
    name, separator, who = word.partition("=")
    model, at, adapter = who.partition("@")
    if not (name and separator and (model or adapter)) or (at and not adapter):
        raise UserError(f"{FLAG} {word}: expected NAME=MODEL, NAME=MODEL@ADAPTER, NAME=@ADAPTER, or one YAML file")
    return name, {key: value for key, value in (("model", model), ("adapter", adapter)) if value}


def _entry(name: Any, values: Any, where: str) -> Entry:
    where = f"{where}: {name}"
    if not isinstance(name, str):
        raise UserError(f"{where}: the name of an agent or role must be text")
    if not isinstance(values, dict) or not values:
        raise UserError(f"{where}: expected keys like model, adapter or temperature below it")
    if (entry := build(Entry, values, where)).stop and "" in entry.stop:
        raise UserError(f"{where}: stop: '' ends every reply")
    return entry


def check_names(names: Iterable[str], method: str, agents: Agents) -> None:
    """Raises UserError for a name that is neither an agent nor a role of the method."""
    known = dict.fromkeys([*agents, *(role for roles in agents.values() for role in roles), EVERYBODY])
    for name in names:
        if name not in known:
            raise UserError(f"{FLAG} {name}: {method} has no such agent or role ({nearest(name, known)})")


class Route(NamedTuple):
    """Who answers a call, and how."""

    model: str
    """Its engine's name in the run."""
    adapter: str | None
    base: dict[str, Any]
    """Fields of `SamplingParams` that hold where the method says nothing."""
    named: dict[str, Any]
    """Those that hold whatever the method says."""


class Member(Struct, frozen=True):
    """An entry once its model is known."""

    sampling: Mapping[str, Any]
    model: str | None = None
    """Its engine's name in the run; None: the entry does not say who answers."""
    adapter: str | None = None
    """Its name among the adapters of that engine."""


class Team:
    """The members of a run by agent, role or `*`.

    Args:
        members: of each name.
        shown: the same as it stands in records and in the run's identity: names of models and adapters, no paths.
        sampling: engine's name -> fields of `SamplingParams` where no entry says otherwise. Without `main`, everybody
            in the method is somebody else, and the generator is not loaded.
    """

    def __init__(
        self,
        members: Mapping[str, Member],
        shown: dict[str, dict[str, Any]],
        sampling: Mapping[str, Mapping[str, Any]],
    ) -> None:
        self.shown = shown
        self._members = members
        self._sampling = sampling
        self._routes: dict[tuple[str, str, str], Route] = {}

    def route(self, agent: str, role: str, model: str) -> Route:
        """Of the calls of an agent in a role.

        Args:
            model: that the method asks for.
        """
        key = (agent, role, model)
        if (known := self._routes.get(key)) is None:
            known = self._routes[key] = self._route(*key)
        return known

    def _route(self, agent: str, role: str, model: str) -> Route:
        own = [self._members[name] for name in (agent, family(role)) if name in self._members]
        everybody = [self._members[EVERYBODY]] if EVERYBODY in self._members else []
        answering = own + everybody if model == "main" else own
        who = next((member for member in answering if member.model is not None), Member({}, model))
        assert who.model is not None
        named: dict[str, Any] = {}
        for member in reversed(own):
            named |= member.sampling
        if who.model not in self._sampling:
            raise SampleError(f"{agent} ({role}) asks for {who.model}, which is nobody in this run's team")
        base = dict(self._sampling[who.model])
        for member in everybody:
            base |= member.sampling
        return Route(who.model, who.adapter, base, named)
