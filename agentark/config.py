"""Strict configuration: YAML and key=value overrides into frozen pydantic models.

An unknown key names the known keys and the nearest; a wrong type or range names file, key and value.
"""

import difflib
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, NoReturn, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agentark.files import content
from agentark.types import UserError

ROOT = Path(__file__).parents[1]
"""Root of the repository: all commands run there, and relative paths in configurations start there."""


class Config(BaseModel):
    """Base of every config: frozen, nothing unknown, no silent conversion of types.

    A docstring stands under each field with its unit, range and source.
    """

    RENAMED: ClassVar[Mapping[str, str]] = {}
    """Key names of the published code and ours, for the error message."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


Count = Annotated[int, Field(le=1024)]
"""Of agents, rounds, replies and their like: a sample of more would never end, or not fit into memory."""
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


MOST_NODES = 100_000
"""Values in a YAML text, counted once for each place where an alias repeats them."""
MOST_BITS = 63
"""Of a whole number: no record holds more."""


class _Loader(yaml.SafeLoader):
    """SafeLoader whose every failure is a YAMLError.

    It refuses a key given twice, and aliases that multiply or hold themselves. It reads 1e-5 as the number it is in
    YAML 1.2 (PyYAML: a string). Dates are dates, though lm-format-enforcer, which vLLM imports, makes SafeLoader read
    them as strings.
    """

    yaml_constructors = yaml.SafeLoader.yaml_constructors | {
        "tag:yaml.org,2002:timestamp": yaml.SafeLoader.construct_yaml_timestamp
    }

    def get_single_node(self) -> Any:
        node = super().get_single_node()
        if node is not None and self._nodes(node, {}) > MOST_NODES:
            self._refuse("aliases that hold themselves, or too many values", node)
        return node

    def _nodes(self, node: yaml.Node, known: dict[int, float]) -> float:
        """How many nodes there are with all aliases written out; infinity: a node holds itself."""
        if id(node) not in known:
            known[id(node)] = math.inf
            pairs = node.value if isinstance(node, yaml.MappingNode) else ()
            inner = node.value if isinstance(node, yaml.SequenceNode) else (part for pair in pairs for part in pair)
            known[id(node)] = 1 + sum(self._nodes(part, known) for part in inner)
        return known[id(node)]

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError, TypeError):
            self._refuse(f"a value that is not a {node.tag.rpartition(':')[2]}", node)
        if isinstance(value, int) and value.bit_length() > MOST_BITS:
            self._refuse("a number with too many digits", node)
        if isinstance(value, str) and re.search(r"[\ud800-\udfff]", value):
            self._refuse("a text with half a surrogate pair", node)
        return value

    @staticmethod
    def _refuse(problem: str, node: yaml.Node) -> NoReturn:
        raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        pairs = node.value if isinstance(node, yaml.MappingNode) else ()
        keys = [self.construct_object(key, deep=True) for key, _ in pairs]
        for key in keys:
            if keys.count(key) > 1:
                raise UserError(f"{self.name}: key {key!r:.100} is given twice")
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file holding one mapping (an empty file is an empty mapping)."""
    try:
        text = content(path).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    data = _yaml(text, str(path))
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise UserError(f"{path}: expected `key: value` lines, found a {type(data).__name__}")
    return data


def _yaml(text: str, where: str) -> Any:
    """The one value of a YAML text. Raises UserError, opened by `where`; it repeats nothing of the text."""
    try:
        loader = _Loader(io.StringIO(text))
        loader.name = where
        return loader.get_single_data()
    except yaml.YAMLError as error:
        raise UserError(f"{where}: not valid YAML ({' '.join(str(error).split()):.200})") from None
    except RecursionError:
        raise UserError(f"{where}: not valid YAML (nested too deeply)") from None


def parse_overrides(pairs: Sequence[str], flag: str) -> dict[str, Any]:
    """`["num_agents=5", "roles=[a, b]"]` -> values typed as YAML would type them."""
    values: dict[str, Any] = {}
    for pair in pairs:
        key, separator, text = pair.partition("=")
        if not separator or not key:
            raise UserError(f"{flag} {pair!r:.100}: expected key=value")
        values[key] = _yaml(text, f"{flag} {pair!r:.100}")
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
        raise UserError(f"{where}: {key} = {first['input']!r:.200}: {first['msg']}") from None


def load(cls: type[ConfigT], path: Path, overrides: Sequence[str], flag: str) -> ConfigT:
    """A YAML file plus key=value overrides from a flag."""
    in_file = read_yaml(path)
    base = build(cls, in_file, str(path))
    if not overrides:
        return base
    return build(cls, {**base.model_dump(), **parse_overrides(overrides, flag)}, flag)
