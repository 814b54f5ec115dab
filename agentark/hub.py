"""Datasets and models of the hub. Asked once whether it answers: its client retries for a minute without network."""

import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agentark.files import json_if_there, json_of
from agentark.quiet import hide_loading_bars
from agentark.types import UserError

LARGEST_RANK = 1 << 16
"""No adapter's rank is larger; beyond the width of any layer."""
TIMEOUT = 5.0
"""Seconds the hub may take to say that it is there; a machine without network must not wait for retries."""


def answers(url: str) -> bool:
    """Whether a server answers there at all, even with an error."""
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=TIMEOUT).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


@contextmanager
def asked_once(settings: Any, endpoint: str) -> Iterator[None]:
    """Within this context, the cache is read at once if the hub does not answer.

    Args:
        settings: of the client: datasets.config or huggingface_hub.constants.
        endpoint: name of the setting that holds the hub's address.
    """
    before = settings.HF_HUB_OFFLINE
    settings.HF_HUB_OFFLINE = before or not answers(getattr(settings, endpoint))
    try:
        yield
    finally:
        settings.HF_HUB_OFFLINE = before


@contextmanager
def offline_unless_reachable(model: str) -> Iterator[None]:
    """`asked_once` while a model is loaded; a folder needs no hub.

    Raises:
        OSError: it is not in the cache, and the hub does not answer.
    """
    from huggingface_hub import constants

    if Path(model).is_dir():
        yield
        return
    with asked_once(constants, "ENDPOINT"):
        try:
            yield
        except OSError:
            if constants.HF_HUB_OFFLINE:
                raise OSError("neither a folder nor in the local cache, and the hub does not answer") from None
            raise


def pretrained(kind: str, name: str, **options: Any) -> Any:
    """What transformers' class `kind` makes of a model: the one way in which a model or tokenizer is loaded.

    No code that comes with a model is run, nor is anybody asked whether it may; weights are safetensors, never pickles.

    Raises:
        OSError: it cannot be loaded, for whatever reason (a half or malformed file fails in many ways).
    """
    import transformers

    hide_loading_bars()
    if kind.startswith("AutoModel"):
        options["use_safetensors"] = True
    with offline_unless_reachable(name):
        try:
            return getattr(transformers, kind).from_pretrained(name, trust_remote_code=False, **options)
        except OSError:
            raise
        except Exception as error:
            raise OSError(f"{type(error).__name__}: {error}") from error


def loaded(kind: str, name: str, flag: str, **options: Any) -> Any:
    """`pretrained` of the model that `flag` names. Raises UserError when it cannot be loaded."""
    try:
        return pretrained(kind, name, **options)
    except OSError as error:
        raise UserError(f"{flag} {name}: cannot be loaded ({' '.join(str(error).split()):.300})") from None


def cached_file(repository: str, name: str) -> Path | None:
    """A file of a model repository in the hub's local cache, None where it is not there."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository, name)
    return Path(found) if isinstance(found, str) else None


def model_file(model: str, name: str) -> Path | None:
    """A small file of a model folder, or of a model on the hub; None where there is none, or the hub cannot tell.

    Args:
        model: folder or hub id.
        name: the file in it.
    """
    if Path(model).is_dir():
        return file if (file := Path(model) / name).is_file() else None
    from huggingface_hub import constants, errors, hf_hub_download

    try:
        if (cached := cached_file(model, name)) is not None:
            return cached
        with asked_once(constants, "ENDPOINT"):
            return Path(hf_hub_download(model, name))
    except (OSError, ValueError, *errors.HfHubHTTPError.__bases__):
        return None


def download(repository: str, name: str, folder: Path, announce: Callable[[], None]) -> Path:
    """Download one file of a model repository into a folder; continues what an earlier try left there.

    Args:
        repository: organisation/name.
        name: the file in it.
        folder: where the file goes.
        announce: called once the hub has answered.

    Raises:
        OSError, ValueError: the hub is not to be asked (HF_HUB_OFFLINE), does not answer, or has no such file.
    """
    from huggingface_hub import constants, errors, hf_hub_download

    if constants.HF_HUB_OFFLINE:
        raise OSError("HF_HUB_OFFLINE is set")
    if not answers(constants.ENDPOINT):
        raise OSError("it does not answer")
    announce()
    try:
        return Path(hf_hub_download(repository, name, local_dir=folder))
    except errors.HfHubHTTPError.__bases__ as error:  # of OSError, and of all that the client under it raises
        raise OSError(str(error)) from None


def check_weights(name: str, flag: str) -> None:
    """Look at the weights of a model folder before they are loaded; a hub id is left to its client.

    Raises:
        UserError: there are none, a shard is missing, or a file is damaged.
    """
    folder = Path(name)
    if not folder.is_dir():
        return
    shards = {folder / "model.safetensors"}
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        named = json_of(index).get("weight_map")
        if not isinstance(named, dict) or not all(isinstance(file, str) for file in named.values()):
            raise UserError(f"{index}: expected a weight_map of file names")
        shards = {folder / file for file in named.values()}
    if missing := sorted(shard.name for shard in shards if not shard.is_file()):
        raise UserError(f"{flag} {name}: its weights are not there ({missing[0]} is missing)")
    for file in sorted({*shards, *filter(Path.is_file, folder.glob("*.safetensors"))}):
        _check_safetensors(file, f"{flag} {name}")


def _check_safetensors(file: Path, where: str) -> None:
    """Raises UserError where the header doesn't fit the file."""
    from safetensors import SafetensorError, safe_open

    try:
        safe_open(file, framework="np")
    except (OSError, SafetensorError) as error:
        raise UserError(f"{where}: {file.name} is damaged ({error})") from None


def check_adapter(folder: Path, flag: str = "--lora_path") -> int:
    """The rank of the PEFT adapter in the folder that `flag` names.

    Raises:
        UserError: no such folder, no rank, no safetensors (a pickle is never loaded), or a damaged file.
    """
    where = f"{flag} {folder!s:.200}"
    if not folder.is_dir():
        raise UserError(f"{where}: no such folder")
    if not (config := folder / "adapter_config.json").is_file():
        raise UserError(f"{where}: no adapter_config.json in it")
    rank = json_of(config).get("r")
    if not isinstance(rank, int) or not 1 <= rank <= LARGEST_RANK:
        raise UserError(f"{config}: r = {rank!r:.60}: must be the adapter's rank, from 1 to {LARGEST_RANK}")
    if not (weights := folder / "adapter_model.safetensors").is_file():
        raise UserError(f"{where}: no {weights.name} in it")
    _check_safetensors(weights, where)
    return rank


def model_config(name: str, flag: str) -> Any:
    """transformers' configuration of a model.

    Raises:
        UserError: it cannot be loaded, or has what transformers takes and nobody can use: a `text_config` that is none,
            an end token that is no id.
    """
    from transformers import PretrainedConfig

    config = loaded("AutoConfig", name, flag)
    if not isinstance(config.get_text_config(), PretrainedConfig):
        raise UserError(f"{flag} {name}: config.json: text_config must be an object, a model's configuration")
    ends = json_if_there(Path(name) / "generation_config.json").get("eos_token_id")
    if not all(end is None or isinstance(end, int) for end in (ends if isinstance(ends, list) else [ends])):
        raise UserError(
            f"{flag} {name}: generation_config.json: eos_token_id = {ends!r:.60}: must be a token's id or a list"
        )
    return config


def context_length(config: Any) -> int | None:
    """Tokens of context that a model's configuration names."""
    return getattr(config.get_text_config(), "max_position_embeddings", None)


def rows(name: str, flag: str, split: str) -> Iterator[dict[str, Any]]:
    """The rows of a dataset. Raises UserError: no such dataset or split, or it cannot be reached."""
    import datasets

    if name.count("/") != 1:
        raise UserError(f"{flag} {name}: neither a file nor a dataset on the hub (organisation/name)")
    try:
        with asked_once(datasets.config, "HF_ENDPOINT"):
            found = datasets.load_dataset(name, split=split)
    except (OSError, ValueError, datasets.exceptions.DatasetNotFoundError) as error:
        raise UserError(
            f"{flag} {name}: no such file, and not on the hub ({' '.join(str(error).split()):.200})"
        ) from None
    yield from found
