"""A config as command-line flags: one per field, its docstring as help, its type as what the flag takes.

Only what was given comes out of the parser, so that a file of settings may stand beside the flags; `settings_of` fills
in the config's own defaults and checks its ranges.
"""

import argparse
import math
import sys
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn

from pydantic import ConfigDict, TypeAdapter, ValidationError

from agentark.config import Config, ConfigT, build, nearest, parse_overrides, read_yaml
from agentark.types import UserError

LARGEST = (1 << 63) - 1
"""Of all whole numbers: a larger one is a slip, and no record holds it."""
TRUE, FALSE = ("yes", "true", "t", "y", "1"), ("no", "false", "f", "n", "0")


def boolean(text: str) -> bool:
    """An argparse type: a truth value in the spellings that transformers takes."""
    if text.lower() in TRUE + FALSE:
        return text.lower() in TRUE
    raise argparse.ArgumentTypeError(f"{text!r} is neither True nor False")


def whole(text: str) -> int:
    """An argparse type: a whole number."""
    try:
        value = int(text)
    except ValueError:  # also of thousands of digits
        value = LARGEST + 1
    if abs(value) > LARGEST:
        raise argparse.ArgumentTypeError(f"{text!r:.60} is not a whole number (of at most 63 bits)")
    return value


def flags_of(cls: type[Config]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, what argparse's add_argument is told) of every field."""
    for name, field in cls.model_fields.items():
        default = "" if field.is_required() or field.default in (None, False, "", []) else f" [{field.default}]"
        text = f"{field.description}{default}".replace("%", "%%")
        yield name, {"help": text, "default": argparse.SUPPRESS, **_reading(field.annotation)}


def _reading(kind: Any) -> dict[str, Any]:
    """How argparse reads values of a type; ranges are for the config to check."""
    origin, inside = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return _reading(next(option for option in inside if option is not type(None)))
    if kind is bool:
        return {"nargs": "?", "const": True, "type": boolean, "metavar": "True|False"}
    if origin is dict:
        return {"nargs": "*", "metavar": "KEY=VALUE"}
    if origin is list:
        return {"nargs": "*", **_reading(inside[0])}
    if origin is Literal:
        return {"type": type(inside[0]), "choices": inside}
    assert kind in (str, int, float, Path), kind
    return {"type": whole if kind is int else kind}


def settings_of(cls: type[ConfigT], given: Mapping[str, Any]) -> ConfigT:
    """The config of what a command line gave.

    Raises:
        UserError: a field that has no default is missing, or a value is out of its range.
    """
    for name, field in cls.model_fields.items():
        if field.is_required() and name not in given:
            raise UserError(f"--{name}: is missing ({field.description})")
    pairs = {name for name, field in cls.model_fields.items() if typing.get_origin(field.annotation) is dict}
    values = {
        name: parse_overrides(value, f"--{name}") if name in pairs and isinstance(value, list) else value
        for name, value in given.items()
    }
    return build(cls, values, "command line")


# ---------------------------------------------------------------- beside the settings of a library


def parser_beside(ours: type[Config], parser: type, theirs: type, **options: Any) -> Any:
    """A parser of transformers or TRL for one of their settings classes, with our flags in a separate group.

    Its `numbers` are flags whose default is a number and that transformers would take `null` for.
    """

    class Parser(parser):  # type: ignore[misc]
        numbers: Sequence[str] = ()

        def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
            found, rest = super().parse_known_args(checked(sys.argv[1:] if args is None else args), namespace)
            for name in self.numbers:
                if getattr(found, name) is None:
                    raise UserError(f"--{name} null: expected a number")
            return found, rest

        def set_defaults_with_config(self, **values: Any) -> Any:
            """TRL's, which takes the values of a file as they are."""
            known = {action.dest for action in self._actions}
            if unknown := [name for name in values if name not in known]:
                raise UserError(f"--config: unknown key {unknown[0]!r:.100} ({meant(f'--{unknown[0]}', self)})")
            return super().set_defaults_with_config(**of_their_types(theirs, values))

        def error(self, message: str) -> NoReturn:
            raise UserError(message)

    made = Parser((theirs,), allow_abbrev=False, **options)
    group = made.add_argument_group("flags of this project")
    if hasattr(parser, "set_defaults_with_config"):
        group.add_argument(
            "--config",
            metavar="FILE",
            default=argparse.SUPPRESS,
            help="YAML file of flags; the command line overrides it",
        )
    for name, reading in flags_of(ours):
        group.add_argument(*dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}")), **reading)
    return made


def checked(words: Sequence[str]) -> list[str]:
    """A command line. Raises UserError for a word that is not UTF-8 and so could stand in no record."""
    for word in words:
        if not word.isprintable() and any("\ud800" <= sign <= "\udfff" for sign in word):
            raise UserError(f"{word!r:.200}: is not UTF-8")
    return list(words)


def with_config(argv: Sequence[str] | None) -> tuple[list[str], dict[str, Any]]:
    """(the command line with --config as two words, as TRL wants it; the values of that file).

    Raises:
        UserError: the file is no YAML mapping.
    """
    words = checked(sys.argv[1:] if argv is None else argv)
    for index, word in enumerate(words):
        if word == "--config" and index + 1 == len(words):
            raise UserError("--config: expected one argument, a YAML file")
        if word.startswith("--config="):
            words[index : index + 1] = word.split("=", 1)
        if words[index] == "--config":
            path = Path(words[index + 1])
            values = read_yaml(path)
            if odd := [key for key in values if not isinstance(key, str)]:
                raise UserError(f"{path}: key {odd[0]!r:.100}: expected the name of a flag")
            return words, values
    return words, {}


def of_their_types(theirs: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Values of a file for a library's settings, as numbers where those are numbers.

    Raises:
        UserError: one is of another type; null, too, where no default stands for it.
    """
    hints = typing.get_type_hints(theirs)
    found = dict(values)
    for name in hints.keys() & values.keys():
        value = values[name]
        try:
            kind: TypeAdapter[Any] = TypeAdapter(hints[name], config=ConfigDict(arbitrary_types_allowed=True))
            read = kind.validate_python(value, strict=isinstance(value, bool))
        except ValidationError as error:
            raise UserError(f"--config: {name} = {value!r:.200}: {error.errors()[0]['msg']}") from None
        found[name] = read if isinstance(read, int | float) else value
    return found


def refuse_infinite(theirs: Mapping[str, Any]) -> None:
    """Raises UserError for a number of a library's settings that none of them can use: infinite, none, or enormous."""
    for name, value in theirs.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"--{name} {value}: expected a finite number")
        if isinstance(value, int | float) and abs(value) > LARGEST:
            raise UserError(f"--{name} {value!s:.20}: expected a smaller number, of at most 63 bits")


def refuse_unknown(unknown: list[str], parser: argparse.ArgumentParser) -> None:
    """Raises UserError for arguments that a parser does not know."""
    if unknown:
        raise UserError(f"unknown argument {unknown[0]} ({meant(unknown[0], parser)})")


def meant(word: str, parser: argparse.ArgumentParser) -> str:
    """Where to look for the right flag, and which of them is like the word."""
    flags = [option for action in parser._actions for option in action.option_strings if option.startswith("--")]
    hint = nearest(word, flags).rpartition("; ")[2] if word.startswith("--") else ""
    return f"{hint}; see --help" if "mean" in hint else "see --help"
