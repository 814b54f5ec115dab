"""Command lines through the scripts' own parsers, without running what follows."""

import argparse
import importlib
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from agentark import cli
from agentark.engines.choose import adapter, endpoint_file
from agentark.tasks import data_folder

PARSERS = {
    "eval.cost_fair": "script_parsers:cost_fair",
    "eval.team": "script_parsers:team",
    "prm/finetune2.py": "prm.settings:parse",
    "distill.sft": "distill.sft.flags:parse",
    "distill.opd": "distill.opd.flags:parse",
    "openrlhf.cli.train_grpo": "distill.grpo.cli:read",
}
"""Scripts whose parser is not argparse alone."""

PLACES = (adapter, endpoint_file, data_folder)
"""Types of flags that name what is there when the command runs, not when it is parsed here."""


class Parsed(BaseException):
    """The command line was taken; what would follow is not run."""


def cost_fair(flags: list[str]) -> None:
    """Its own flags, and those it hands to inference.py."""
    from eval import cost_fair

    args, rest = cost_fair.parse(flags)
    for dataset in args.dataset_name:
        for run in cost_fair.runs(args, rest, dataset).values():
            parsed("inference.py", run)


def team(flags: list[str]) -> None:
    """The same, or results files."""
    from eval.team import __main__ as entry

    args, rest = entry.parse(flags)
    for dataset in args.dataset_name:
        for run in entry.runs(args, rest, dataset).values():
            parsed("inference.py", run)


def script_and_flags(line: str) -> tuple[str, list[str]]:
    """Of a shell command `[NAME=value] python script.py ...` or `python -m module ...`."""
    words = shlex.split(line, comments=True)
    rest = words[words.index("python") + 1 :]
    return (rest[1], rest[2:]) if rest[0] == "-m" else (rest[0], rest[1:])


def module_of(script: str) -> Any:
    """The module behind a path in the repository, or behind what `python -m` is given."""
    module = importlib.import_module(script.removesuffix(".py").replace("/", "."))
    return importlib.import_module(f"{module.__name__}.__main__") if hasattr(module, "__path__") else module


def parsed(script: str, flags: Sequence[str]) -> Any:
    """What the script's parser makes of its flags.

    Args:
        script: a path in the repository, or a module.

    Raises:
        UserError: as the script would.
    """
    plain_value = argparse.ArgumentParser._get_value

    def value(self: Any, action: Any, text: str) -> Any:
        return Path(text) if action.type in PLACES else plain_value(self, action, text)

    with mock.patch.object(argparse.ArgumentParser, "_get_value", value):
        return _parsed(script, flags)


def _parsed(script: str, flags: Sequence[str]) -> Any:
    if script in PARSERS:
        module, _, name = PARSERS[script].partition(":")
        return getattr(importlib.import_module(module), name)(list(flags))

    def stop(self: Any, args: Any = None, namespace: Any = None) -> Any:
        raise Parsed(plain[type(self)](self, args, namespace))

    plain = {kind: kind.parse_args for kind in (argparse.ArgumentParser, cli.Parser)}
    patches = [mock.patch.object(kind, "parse_args", stop) for kind in plain]
    patches.append(mock.patch.object(sys, "argv", [script, *flags]))
    try:
        with patches[0], patches[1], patches[2]:
            module_of(script).main()
    except Parsed as taken:
        return taken.args[0]
    raise AssertionError(f"{script} has parsed nothing")
