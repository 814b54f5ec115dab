"""Lists the methods: paper, tasks, config keys with defaults, calls and critical path. From the code itself.

python -m methods              all of them
python -m methods show dylan   one of them, with the documentation of every config key
"""

import inspect
import json
import re
import sys
import textwrap
from typing import Any, get_args

from pydantic import BaseModel

from agentark import cli
from agentark.team import Agents, Teamed
from agentark.types import Kind, UserError
from methods import METHODS, VARIANTS, configs_of, default_config, load_method, method_class

WIDTH = 110


def sources() -> dict[str, list[str]]:
    """Class of a method -> its registered names, the class's own name first."""
    names: dict[str, list[str]] = {}
    for name, target in METHODS.items():
        names.setdefault(target.partition("@")[0], []).append(name)
    return names


def about(cls: Any) -> str:
    """The docstring of a method's module; its first line names the paper."""
    return inspect.cleandoc(inspect.getmodule(cls).__doc__ or "")


def facts(name: str) -> list[str]:
    """The lines of a listing about the method of this name."""
    cls = method_class(name)
    names = sources()[METHODS[name].partition("@")[0]]
    chosen = VARIANTS.get(names[0], {})
    config = values(name)
    others = list(dict.fromkeys([*names[1:], *chosen.values()]))
    return [
        _entry("paper", about(cls).partition("\n")[0]),
        _entry("tasks", ", ".join(kind for kind in get_args(Kind) if kind in cls.TASKS)),
        *([_entry("variants", _variants(others, chosen))] if others else []),
        _entry("configs", ", ".join(configs_of(name))),
        _entry("keys", " ".join(f"{key}={_short(value)}" for key, value in config.items()) or "none"),
        *(_entry(label, text) for label, text in _paragraphs(inspect.getdoc(cls) or "")),
    ]


def values(name: str) -> dict[str, Any]:
    """The configuration of a registered name, with the keys that a record leaves out."""
    fields = method_class(name).Config.model_fields
    return {key: field.default for key, field in fields.items()} | load_method(name)[1].config


def _variants(others: list[str], chosen: dict[str, str]) -> str:
    """`dylan_math (MATH, MATH-500)`: the further names, and the datasets that pick them."""
    picked = {name: [dataset for dataset, other in chosen.items() if other == name] for name in others}
    return ", ".join(f"{name} ({', '.join(datasets)})" if datasets else name for name, datasets in picked.items())


def _paragraphs(cost: str) -> list[tuple[str, str]]:
    """(label, text) of a docstring's paragraphs: `calls` and `critical path` are one each, others have no label."""
    apart = re.sub(r"(?:;\s+|\n)critical path: ", "\n\ncritical path: ", cost)
    text = "\n".join(" ".join(paragraph.split()) for paragraph in apart.split("\n\n"))
    return re.findall(r"^(?:(calls|critical path): )?(.*)$", text, re.M)


def _entry(label: str, text: str) -> str:
    return textwrap.fill(text, WIDTH, initial_indent=f"    {label:<14}", subsequent_indent=" " * 18)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False) if not isinstance(value, str) else value
    return textwrap.shorten(text, 60, placeholder=" ...")


def keys(config: type[BaseModel], values: dict[str, Any], indent: str = "    ") -> list[str]:
    """One paragraph per config key: name, type, value and documentation; nested configs below theirs."""
    lines = []
    for key, field in config.model_fields.items():
        kind = inspect.formatannotation(field.annotation).replace("typing.", "")
        lines.append(f"{indent}{key}: {kind.rpartition('.')[2] if '[' not in kind else kind} = {_short(values[key])}")
        text = " ".join((field.description or "").split())
        lines.append(textwrap.fill(text, WIDTH, initial_indent=indent + "    ", subsequent_indent=indent + "    "))
        for nested in _configs_in(field.annotation):
            lines += keys(nested, nested().model_dump(), indent + "    ")
    return lines


def _configs_in(annotation: Any) -> list[type[BaseModel]]:
    parts = (annotation, *getattr(annotation, "__args__", ()))
    return [part for part in parts if isinstance(part, type) and issubclass(part, BaseModel)]


def speakers(agents: Agents) -> str:
    """`agent_1 agent_2 (debater), aggregator (aggregator)`: the agents, with the roles they have."""
    together: dict[tuple[str, ...], list[str]] = {}
    for agent, roles in agents.items():
        together.setdefault(tuple(roles), []).append(agent)
    return ", ".join(f"{' '.join(names)} ({', '.join(roles)})" for roles, names in together.items())


def show(name: str) -> str:
    """All there is to say about one method."""
    cls = method_class(name)
    method, _ = load_method(name)
    assert isinstance(method, Teamed)
    known = [*facts(name)[1:], _entry("agents", speakers(method.agents()))]
    listed = keys(cls.Config, values(name)) or ["    none"]
    return "\n".join([name, *known, "", about(cls), "", f"config keys ({default_config(name)}):", *listed])


def listing() -> str:
    return "\n\n".join("\n".join([names[0], *facts(names[0])]) for names in sources().values())


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser(prog="python -m methods", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("words", nargs="*", metavar="show METHOD", help="one method in full (default: all of them)")
    arguments = parser.parse_args(argv).words
    if not arguments:
        text = listing()
    elif len(arguments) == 2 and arguments[0] == "show":
        text = show(arguments[1])
    else:
        raise UserError("usage: python -m methods, or python -m methods show METHOD")
    sys.stdout.write(text + "\n")
    return 0


if __name__ == "__main__":
    cli.entry(main)
