"""Strict configuration: YAML and key=value overrides into frozen pydantic models.

An unknown key names the known keys and the nearest; a wrong type or range names file, key and value.
"""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from agentark.types import UserError

ROOT = Path(__file__).parents[1]
"""Root of the repository: all commands run there, and relative paths in configurations start there."""


class Config(BaseModel):
    """Base of every config: frozen, nothing unknown, no silent conversion of types.

    A docstring stands under each field with its unit, range and source.
    """

    RENAMED: ClassVar[Mapping[str, str]] = {}
    """Key names of the published code and ours, for the error message."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


ConfigT = TypeVar("ConfigT", bound=Config)


def nearest(name: str, known: Iterable[str]) -> str:
    """`known: a, b, c; did you mean b?` for the end of an error message."""
    names = list(known)
    folded = {known_name.lower(): known_name for known_name in names}
    close = difflib.get_close_matches(name.lower(), folded, n=1, cutoff=0.5)
    hint = f"; did you mean {folded[close[0]]}?" if close else ""
    return f"known: {', '.join(names)}{hint}"


def lookup(kind: str, name: str, registry: Mapping[str, Any]) -> Any:
    """The registered value, or a UserError with the list and the nearest name."""
    if name not in registry:
        raise UserError(f"unknown {kind} {name!r} ({nearest(name, registry)})")
    return registry[name]


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice, and reads 1e-5 as the number it is in YAML 1.2 (PyYAML: a string)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise UserError(f"{node.start_mark.name}: key {key!r} is given twice")
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file holding one mapping (an empty file is an empty mapping)."""
    try:
        with path.open(encoding="utf-8") as stream:
            loader = _Loader(stream)
            try:
                data = loader.get_single_data()
            finally:
                loader.dispose()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise UserError(f"{path}: expected `key: value` lines, found a {type(data).__name__}")
    return data


def parse_overrides(pairs: Sequence[str], flag: str) -> dict[str, Any]:
    """`["num_agents=5", "roles=[a, b]"]` -> values typed as YAML would type them."""
    values: dict[str, Any] = {}
    for pair in pairs:
        key, separator, text = pair.partition("=")
        if not separator or not key:
            raise UserError(f"{flag} {pair!r}: expected key=value")
        try:
            values[key] = yaml.load(text, _Loader)  # a SafeLoader
        except yaml.YAMLError:
            raise UserError(f"{flag} {pair!r}: the value is not valid YAML") from None
    return values


def build(cls: type[ConfigT], values: Mapping[str, Any], where: str) -> ConfigT:
    """Validate values into a config; `where` (a file or flag) opens the error message."""
    for key in values:
        if key in cls.RENAMED:
            raise UserError(f"{where}: key {key!r} is now called {cls.RENAMED[key]!r}")
        if key not in cls.model_fields:
            raise UserError(f"{where}: unknown key {key!r} ({nearest(str(key), cls.model_fields)})")
    try:
        return cls(**values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "config"
        raise UserError(f"{where}: {key} = {first['input']!r}: {first['msg']}") from None


def load(cls: type[ConfigT], path: Path, overrides: Sequence[str], flag: str) -> ConfigT:
    """A YAML file plus key=value overrides from a flag."""
    in_file = read_yaml(path)
    base = build(cls, in_file, str(path))
    if not overrides:
        return base
    return build(cls, {**base.model_dump(), **parse_overrides(overrides, flag)}, flag)
