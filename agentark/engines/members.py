"""The engines of a run: of its generator, of the members of its team, and of further models that its method names.

A model is loaded once, whoever names it. Adapters on one model share its engine in vLLM; in transformers, whose batch
runs one set of weights, each adapter has an engine of its own.
"""

import os
from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentark.engines.choose import Choice, other_engine_args
from agentark.files import file_sha256
from agentark.hub import check_adapter
from agentark.lock import RunLock
from agentark.sampling import sampling_of, saying
from agentark.team import EVERYBODY, FLAG, Agents, Entry, Member, Team
from agentark.types import Engine, UserError

Choose = Callable[..., Choice]


@dataclass
class _Model:
    """A model of the run, and those who answer with it."""

    name: str
    """As --model_name or a team names it."""
    args: Namespace
    choice: Choice
    bare: bool = False
    """Somebody answers without an adapter."""
    adapters: dict[str, Path] = field(default_factory=dict)

    def key(self, adapter: str | None) -> str:
        """Name of who answers, in the run and in records."""
        return self.choice.label if adapter is None else f"{self.choice.label}@{adapter}"

    def groups(self) -> list[Sequence[str | None]]:
        """The adapters (None: without any) that one engine serves, of each of its engines."""
        answering: list[str | None] = [*([None] if self.bare else []), *self.adapters]
        return [answering] if self.choice.kind == "vllm" else [[name] for name in answering]


def names_of(folders: Iterable[Path]) -> dict[Path, str]:
    """Names for adapters: those of their folders, with as many of the folders above as it takes to tell them apart."""
    paths = sorted({folder.resolve() for folder in folders})
    depth = 1
    while len({path.parts[-depth:] for path in paths}) < len(paths):
        depth += 1
    return {path: "/".join(path.parts[-depth:]) for path in paths}


class Recruited:
    """Which engines a run starts, and who of its team answers with which.

    Args:
        args: flags of the script.
        main: the engine that they choose for --model_name.
        entries: of the team; none: all agents are the generator.
        agents: of the method; a generator whom none of them asks is not loaded.
        further: models that the method names.
        choose: see `agentark.engines.choose.choose_engine`.

    Raises:
        UserError: no such model or adapter, or two models of one name.
    """

    def __init__(
        self,
        args: Namespace,
        main: Choice,
        entries: Mapping[str, Entry],
        agents: Agents,
        further: Sequence[str],
        choose: Choose,
    ) -> None:
        if entries and args.lora_path is not None:
            raise UserError(
                f"--lora_path {args.lora_path}: does not go together with {FLAG}; add '*=@{args.lora_path}' there"
            )
        self._args, self._choose = args, choose
        self._generator = _Model(args.model_name, args, main)
        self._models = {args.model_name: self._generator}
        self._further = tuple(dict.fromkeys(further))
        for name in self._further:
            self._model(name).bare = True
        folders = {name: Path(entry.adapter) for name, entry in entries.items() if entry.adapter is not None}
        for name, folder in folders.items():
            check_adapter(folder, f"{FLAG} {name}:")
        self._names = names_of(folders.values())
        self._members = {name: self._member(name, entry) for name, entry in entries.items()}
        answering = {name: member.model for name, member in self._members.items() if member.model is not None}
        everybody = answering.get(EVERYBODY)
        listed = (agent in answering or answering.keys() >= {*roles} for agent, roles in agents.items())
        if everybody is None and not (answering and all(listed)):
            self._generator.bare = True
            everybody = self._generator.key(None)
        self._unlisted = everybody or next(iter(answering.values()))
        self.shown = {name: self._shown(name, entry) for name, entry in entries.items()}

    def _model(self, name: str, *flag: str) -> _Model:
        """The model of this name, as the command line or a team gives it."""
        if name not in self._models:
            args = other_engine_args(self._args, name)
            found = _Model(name, args, self._choose(args, name, *flag))
            for other in self._models.values():
                if other.choice.label == found.choice.label:
                    if (other.choice.model, other.choice.kind) != (found.choice.model, found.choice.kind):
                        raise UserError(f"{FLAG}: {other.name} and {name} would both be called {found.choice.label}")
                    found = other
                    break
            self._models[name] = found
        return self._models[name]

    def _member(self, name: str, entry: Entry) -> Member:
        if entry.model is None and entry.adapter is None:
            return Member(entry.sampling)
        flag = f"{FLAG} {name}:"
        model = self._model(entry.model, flag) if entry.model is not None else self._generator
        if entry.adapter is None:
            model.bare = True
            return Member(entry.sampling, model.key(None))
        if model.choice.kind is None:
            raise UserError(
                f"{flag} {entry.adapter}: {model.name} is served, and an adapter there is a model of its own in the "
                "endpoint file"
            )
        folder = Path(entry.adapter).resolve()
        adapter = self._names[folder]
        model.adapters[adapter] = folder
        return Member(entry.sampling, model.key(adapter), adapter)

    def _shown(self, name: str, entry: Entry) -> dict[str, Any]:
        """An entry without paths."""
        member = self._members[name]
        who = {"model": member.model} if member.model is not None else {}
        return {**who, **entry.model_dump(exclude={"model", "adapter"}, exclude_none=True)}

    # ---------------------------------------------------------------- what a run is given

    @property
    def team(self) -> Team | None:
        """None: there is no team."""
        if not self._members:
            return None
        sampling = self._sampling()
        named = {name: sampling[self._models[name].key(None)] for name in self._further}
        others = {"main": sampling[self._unlisted]} if self._generator.key(None) == self._unlisted else {}
        return Team(self._members, self.shown, {**sampling, **named, **others})

    @property
    def identity(self) -> dict[str, Any]:
        """What the team adds to the run's identity: an adapter is known by its weights, wherever its folder is."""
        if not self.shown:
            return {}
        weights = {
            model.key(adapter): file_sha256(folder / "adapter_model.safetensors")
            for model in self._loaded()
            for adapter, folder in model.adapters.items()
        }
        return {"team": self.shown, **({"adapters": weights} if weights else {})}

    @property
    def folders(self) -> list[Path | None]:
        """Of the models and adapters of all who answer; a hub id names none."""
        team = [model for model in self._loaded() if model is self._generator or self._members]
        models = [Path(os.path.expanduser(model.name)) for model in team]
        return [*models, self._args.lora_path, *(folder for model in team for folder in model.adapters.values())]

    def make(self, lock: RunLock) -> Engine:
        """The engine of those whom the team does not list."""
        model, group = next(
            (model, group)
            for model in self._loaded()
            for group in model.groups()
            if self._unlisted in map(model.key, group)
        )
        return self._make(model, group, lock)

    def others(self, main: Engine, lock: RunLock) -> dict[str, Engine]:
        """All engines by the names of who answers.

        Args:
            main: made by `make`.
        """
        engines: dict[str, Engine] = {}
        for model in self._loaded():
            for group in model.groups():
                keys = list(map(model.key, group))
                engine = main if self._unlisted in keys else self._make(model, group, lock)
                engines |= dict.fromkeys(keys, engine)
        named = {name: engines[self._models[name].key(None)] for name in self._further}
        return {**(engines if self._members else {}), **named}

    def _make(self, model: _Model, group: Sequence[str | None], lock: RunLock) -> Engine:
        adapters = {name: model.adapters[name] for name in group if name is not None}
        choice = model.choice
        sharing = sum(len(one.groups()) for one in self._loaded() if one.choice.kind == choice.kind)
        if adapters or (sharing > 1 and choice.kind is not None):
            given = Namespace(**{**vars(model.args), "adapters": adapters, "sharing": sharing})
            choice = self._choose(given, model.name)
        runs = self._sampling()[model.key(group[0])]
        keys = list(map(model.key, group))
        for member in self._members.values():
            runs |= member.sampling if member.model in keys else {}
        engine: Engine = saying(choice.make, choice.label, choice.model, runs)(lock)
        return engine

    def _loaded(self) -> list[_Model]:
        """Every model somebody answers with, once."""
        used = {id(model): model for model in self._models.values() if model.bare or model.adapters}
        return list(used.values())

    def _sampling(self) -> dict[str, dict[str, Any]]:
        """How each of those who answer is sampled where no entry says otherwise."""
        return {
            model.key(adapter): {
                **sampling_of(model.args, model.name, model.choice.model),
                "max_tokens": self._args.model_max_tokens,
            }
            for model in self._loaded()
            for adapter in [None, *model.adapters]
        }
