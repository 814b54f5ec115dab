"""Where models are served: the endpoint file.

It maps a model name to one endpoint or a list of them. The layout of the published code (and of MASLab) is read
too:

    {"<model>": {"model_list": [{"model_name": ..., "model_url": ..., "api_key": ...}], "max_workers_per_model": 8}}

A key written into such a file is used, and shown nowhere.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import Field, SecretStr

from agentark.config import ROOT, Config, build, nearest, read_yaml
from agentark.files import json_of
from agentark.types import UserError

DEFAULT_FILE = ROOT / "configs" / "model_api_config.yaml"
"""The endpoint file when `--model_api_config` is not given."""

MODEL_NAME = r"[\w-][\w.:@+-]*(/[\w-][\w.:@+-]*)*"
PUBLISHED_KEYS = {"model_list", "max_workers_per_model", "max_workers"}


class Endpoint(Config):
    """One server that answers for a model."""

    model_name: str = Field(min_length=1)
    """Name of the model on this server (or of an adapter there)."""
    model_url: str
    """Base URL of the API, as the openai client takes it; mostly ends in `/v1`."""
    api_key_env: str | None = None
    """Environment variable that holds the key; None: the server wants none."""
    max_workers: int = Field(16, ge=1)
    """Calls in flight there at once."""
    context_length: int | None = Field(None, ge=1)
    """Tokens of prompt and reply together, where the server does not say (vLLM does)."""
    api_key: SecretStr | None = None
    """From a file of the published layout only."""

    @property
    def label(self) -> str:
        """How messages call this endpoint."""
        return self.model_url.rstrip("/")

    def key(self) -> str | None:
        """The key to send. Raises UserError naming the variable that is not set."""
        if self.api_key_env is None:
            return self.api_key.get_secret_value() if self.api_key else None
        if not (key := os.environ.get(self.api_key_env, "").strip()):
            raise UserError(f"{self.label}: its key is expected in ${self.api_key_env}, which is not set")
        _check_key(key, f"{self.label}: ${self.api_key_env}")
        return key


def read_endpoints(path: Path) -> dict[str, tuple[Endpoint, ...]]:
    """Model name -> its endpoints, from a file in either layout, YAML or JSON.

    Raises:
        UserError: naming the file, the model and the key that is wrong; never a key's value.
    """
    models: dict[str, tuple[Endpoint, ...]] = {}
    for model, value in (json_of(path) if path.suffix == ".json" else read_yaml(path)).items():
        where = f"{path}: {model}"
        if not isinstance(model, str):
            raise UserError(f"{where}: a model name must be text (put it in quotes)")
        if not re.fullmatch(MODEL_NAME, model):
            raise UserError(
                f"{where}: not usable as a model name (folders are named after it; letters, digits, ._:@+-/)"
            )
        entries, shared = value, {}
        published = isinstance(value, dict) and "model_list" in value
        if published:
            if unknown := value.keys() - PUBLISHED_KEYS:
                raise UserError(f"{where}: unknown key {min(unknown)!r} ({nearest(min(unknown), PUBLISHED_KEYS)})")
            entries = value["model_list"]
            shared = {"max_workers": value["max_workers_per_model"]} if "max_workers_per_model" in value else {}
        entries = [entries] if isinstance(entries, dict) else entries
        if not isinstance(entries, list) or not entries:
            raise UserError(f"{where}: expected an endpoint or a list of them (model_name, model_url, ...)")
        models[model] = tuple(
            _endpoint(entry, shared, f"{where}, endpoint {place}", published)
            for place, entry in enumerate(entries, start=1)
        )
    return models


def endpoints_of(model: str, path: Path | None = None) -> tuple[Endpoint, ...] | None:
    """The endpoints of a model; None where no file was named and the default one does not know it.

    Raises:
        UserError: a malformed file, or a named one without the model.
    """
    if path is None and not DEFAULT_FILE.is_file():
        return None
    models = read_endpoints(path or DEFAULT_FILE)
    if path is not None and model not in models:
        raise UserError(f"{path}: no model {model!r} ({nearest(model, models)})")
    return models.get(model)


def _endpoint(entry: Any, shared: Mapping[str, Any], where: str, published: bool) -> Endpoint:
    """One entry; anything that may be a secret is checked here, where no message repeats it."""
    if not isinstance(entry, dict):
        raise UserError(f"{where}: expected `key: value` lines, found a {type(entry).__name__}")
    values = {**shared, **entry}
    key, variable, url = (values.get(name) for name in ("api_key", "api_key_env", "model_url"))
    if key is not None and (variable is not None or not published):
        raise UserError(f"{where}: api_key: name an environment variable with api_key_env instead")
    if key is not None and not isinstance(key, str):
        raise UserError(f"{where}: api_key must be text")
    if key:
        _check_key(key, f"{where}: api_key")
    values["api_key"] = SecretStr(key) if key else None
    if variable is not None and not (isinstance(variable, str) and re.fullmatch(r"[A-Z][A-Z0-9_]*", variable)):
        raise UserError(f"{where}: api_key_env must be the name of an environment variable (capitals), not the key")
    if variable is not None:
        _check_key(os.environ.get(variable, "").strip(), f"{where}: ${variable}")
    if isinstance(url, str):
        _check_url(url, where)
    for name in ("model_name", "model_url"):
        if name not in values:
            raise UserError(f"{where}: {name} is missing")
    return build(Endpoint, values, where)


def _check_key(key: str, where: str) -> None:
    """Raises UserError for a key that no HTTP header can carry, without showing it."""
    if not (key.isascii() and key.isprintable()):
        raise UserError(f"{where} holds a line break or a sign that is not ASCII; a key is one line of plain letters")


def _check_url(url: str, where: str) -> None:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname is not None and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise UserError(f"{where}: model_url is not an address like http://host:8000/v1")
    if parts.query or "@" in parts.netloc:
        raise UserError(f"{where}: model_url must hold no user, password or query; name a variable with api_key_env")
    if parts.path.rstrip("/").endswith("/completions"):
        raise UserError(f"{where}: model_url = {url!r}: give the base of the API, without /chat/completions")
