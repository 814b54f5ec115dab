"""A GGUF file as a transformers folder: on a tiny file of the second family, and on the real one (slow)."""

import itertools
import json
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentark import embedded
from agentark.gguf_model import QWEN2, convert

CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
MERGES = ("t h", "th e", "Ċ Ċ", "Ġ Ġ", "1 2", "' s", "Ġ the", "e Ì")  # `1 2` must never apply, nor `e` + half an accent

HARD = (
    *("So:\n\n12 and 345", "the  thethe 'S'll it's IT'S", "\r\n\r\n \t x\n", "3.14159 ½ ² ٣ 2025-11-29", "   "),
    *("e\u0301 é Å ﬁ", "héllo 日本 🙂 👩‍👩‍👧", "\\frac{12}{7}\n\n\n1", " ?!\n\n a", "<tool_call>{}</tool_call>", ""),
    *("[PAD151700]", "x<|im_end|>\n<|im_start|>user", "\u00a0\u2003z", "def f(x):\n    return x\n\n\n\tpass"),
)


def byte_letters() -> dict[int, str]:
    """The printable letter that byte-level vocabularies have for each byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = (byte for byte in range(256) if byte not in plain)
    return {byte: chr(byte) for byte in plain} | {byte: chr(256 + i) for i, byte in enumerate(others)}


def write_tiny(path: Path) -> dict[str, np.ndarray]:
    """A Qwen2 of 2 layers with 8-bit embedding and output that differ; its tensors, as a reader finds them."""
    import gguf

    kinds = gguf.TokenType
    merged = [pair.replace(" ", "") for pair in MERGES]
    tokens = [*byte_letters().values(), *merged, *CONTROL, "<tool_call>", "[PAD268]"]
    writer = gguf.GGUFWriter(path, "qwen2")
    for add, value in (
        *((writer.add_context_length, 512), (writer.add_embedding_length, 64), (writer.add_block_count, 2)),
        *((writer.add_feed_forward_length, 96), (writer.add_head_count, 4), (writer.add_head_count_kv, 2)),
        *((writer.add_rope_freq_base, 1e6), (writer.add_layer_norm_rms_eps, 1e-6)),
        *((writer.add_tokenizer_model, "gpt2"), (writer.add_tokenizer_pre, "qwen2"), (writer.add_token_list, tokens)),
        *((writer.add_token_merges, list(MERGES)), (writer.add_chat_template, TEMPLATE)),
    ):
        add(value)
    plain = [kinds.NORMAL] * (len(tokens) - 5)
    writer.add_token_types([*plain, *[kinds.CONTROL] * 3, kinds.USER_DEFINED, kinds.UNUSED])
    for add in (writer.add_bos_token_id, writer.add_pad_token_id):
        add(tokens.index("<|endoftext|>"))
    writer.add_eos_token_id(tokens.index("<|im_end|>"))
    draw = np.random.default_rng(0)
    values = {}
    shapes = {"token_embd.weight": (len(tokens), 64), "output.weight": (len(tokens), 64), "output_norm.weight": (64,)}
    for layer in range(2):
        layers = {"attn_q": (64, 64), "attn_k": (32, 64), "attn_v": (32, 64), "attn_output": (64, 64)}
        layers |= {"ffn_gate": (96, 64), "ffn_up": (96, 64), "ffn_down": (64, 96)}
        shapes |= {f"blk.{layer}.{name}.weight": shape for name, shape in layers.items()}
        shapes |= {f"blk.{layer}.{name}.bias": (layers[name][0],) for name in ("attn_q", "attn_k", "attn_v")}
        shapes |= {f"blk.{layer}.{name}.weight": (64,) for name in ("attn_norm", "ffn_norm")}
    for name, shape in shapes.items():
        values[name] = draw.normal(size=shape).astype(np.float32)
        kind = gguf.GGMLQuantizationType.Q8_0 if len(shape) == 2 else gguf.GGMLQuantizationType.F32
        packed = gguf.quantize(values[name], kind)
        writer.add_tensor(name, packed, raw_dtype=kind)
        values[name] = gguf.dequantize(packed, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return values


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray]]:
    """The folder made of the tiny file, and the values of its tensors."""
    root = tmp_path_factory.mktemp("gguf")
    values = write_tiny(root / "tiny.gguf")
    convert(root / "tiny.gguf", QWEN2, root / "tiny")
    return root / "tiny", values


@pytest.fixture(scope="module")
def real() -> Path:
    """The real model, fetched and converted at most once per cache."""
    return embedded.prepare(embedded.THINKING)


def loaded(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def test_weights_are_the_files_rounded_once(tiny: tuple[Path, dict[str, np.ndarray]]) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    folder, values = tiny
    model = AutoModelForCausalLM.from_pretrained(folder)
    weights = model.state_dict()
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    for ours, theirs in {
        "model.embed_tokens.weight": "output.weight",  # finer than token_embd.weight, of which it is a copy
        "lm_head.weight": "output.weight",
        "model.norm.weight": "output_norm.weight",
        "model.layers.1.self_attn.q_proj.weight": "blk.1.attn_q.weight",
        "model.layers.1.self_attn.k_proj.bias": "blk.1.attn_k.bias",
        "model.layers.0.self_attn.o_proj.weight": "blk.0.attn_output.weight",
        "model.layers.0.mlp.gate_proj.weight": "blk.0.ffn_gate.weight",
        "model.layers.1.mlp.up_proj.weight": "blk.1.ffn_up.weight",
        "model.layers.1.mlp.down_proj.weight": "blk.1.ffn_down.weight",
        "model.layers.0.input_layernorm.weight": "blk.0.attn_norm.weight",
        "model.layers.0.post_attention_layernorm.weight": "blk.0.ffn_norm.weight",
    }.items():
        assert torch.equal(weights[ours], torch.from_numpy(values[theirs]).to(torch.bfloat16)), ours


def test_settings_of_the_folder(tiny: tuple[Path, dict[str, np.ndarray]]) -> None:
    folder, _ = tiny
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == "qwen2"
    assert (config["rope_parameters"]["rope_theta"], config["rms_norm_eps"]) == (1e6, 1e-6)
    assert (config["max_position_embeddings"], config["tie_word_embeddings"]) == (512, True)
    assert config["dtype"] == "bfloat16"
    tokenizer = loaded(folder)
    generation = json.loads((folder / "generation_config.json").read_text())
    assert generation["eos_token_id"] == tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    assert (tokenizer.eos_token, tokenizer.pad_token, tokenizer.bos_token) == ("<|im_end|>", "<|endoftext|>", None)
    said = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
    assert said == "<|im_start|>user\nHi<|im_end|>\n"


# ---- the tokenizer, against a computation of its own ----


def pieces(text: str) -> Iterator[str]:
    """Qwen2's pre-tokenizer by hand: contractions, words with one sign before, single digits, signs, space."""
    import regex

    yield from regex.findall(
        r"'(?:[sStTmMdD]|[rR][eE]|[vV][eE]|[lL][lL])|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}"
        r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        text,
    )


def ids_by_hand(
    text: str, vocabulary: dict[str, int], ranks: dict[tuple[str, str], int], marks: list[str]
) -> list[int]:
    """Byte pair encoding as its paper states it: the best pair first, everywhere it stands."""
    import regex

    letters = byte_letters()
    ids = []
    for part in regex.split("(" + "|".join(map(regex.escape, marks)) + ")", text):
        if part in marks:
            ids.append(vocabulary[part])
            continue
        for piece in pieces(unicodedata.normalize("NFC", part)):
            word = [letters[byte] for byte in piece.encode()]
            while pairs := [pair for pair in itertools.pairwise(word) if pair in ranks]:
                best = min(pairs, key=ranks.__getitem__)
                joined: list[str] = []
                for letter in word:
                    if joined and (joined[-1], letter) == best:
                        joined[-1] += letter
                    else:
                        joined.append(letter)
                word = joined
            ids += [vocabulary[letter] for letter in word]
    return ids


def by_hand(folder: Path) -> Callable[[str], list[int]]:
    model = json.loads((folder / "tokenizer.json").read_text())
    ranks = {tuple(pair): rank for rank, pair in enumerate(model["model"]["merges"])}
    added = {token["content"]: token["id"] for token in model["added_tokens"]}
    return lambda text: ids_by_hand(text, model["model"]["vocab"] | added, ranks, list(added))


@pytest.mark.parametrize("text", HARD)
def test_tokens_of_hard_strings(text: str, tiny: tuple[Path, dict[str, np.ndarray]]) -> None:
    folder, _ = tiny
    tokenizer = loaded(folder)
    assert tokenizer(text).input_ids == by_hand(folder)(text)
    assert tokenizer.decode(tokenizer(text).input_ids) == unicodedata.normalize("NFC", text)


def test_digits_stand_alone_and_spaces_before_a_word_join_it(tiny: tuple[Path, dict[str, np.ndarray]]) -> None:
    tokenizer = loaded(tiny[0])
    assert tokenizer.tokenize("the the\n\n12's") == ["the", "Ġthe", "ĊĊ", "1", "2", "'s"]
    assert "[PAD268]" not in tokenizer.get_vocab()
    assert tokenizer.decode(tokenizer("a<tool_call><|im_end|>").input_ids, skip_special_tokens=True) == "a<tool_call>"


@pytest.mark.slow
def test_the_real_tokenizer(real: Path, data_dir: Path) -> None:
    """Hard strings and real questions; no merge of the file joins a digit to anything."""
    tokenizer, ids = loaded(real), by_hand(real)
    lines = (data_dir / "gsm8k_test.jsonl").read_text("utf-8").splitlines()[:40]
    for text in [*HARD, *(json.loads(line)[key] for line in lines for key in ("question", "answer"))]:
        assert tokenizer(text).input_ids == ids(text), text
    assert len(tokenizer) == 151665
    spelled = [tokenizer.decode([number]) for number in range(151643)]
    assert [token for token in spelled if set("0123456789") & set(token) and len(token) > 1] == []
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert prompt == (
        "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.slow
def test_the_real_model_reckons_and_ends_its_turn(real: Path) -> None:
    from transformers import AutoModelForCausalLM

    tokenizer = loaded(real)
    model = AutoModelForCausalLM.from_pretrained(real)
    assert 490e6 < model.num_parameters() < 500e6
    assert (real / "model.safetensors").stat().st_size < 1e9
    question = [{"role": "user", "content": "What is 17 + 25? Answer with the number alone."}]
    prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    reply = model.generate(**prompt, max_new_tokens=8, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert tokenizer.decode(reply) == "42<|im_end|>"
