"""Weights that are not there or damaged: one line from everything that loads a model."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from grpo_cases import made_inputs, settings
from prm_cases import jsonl

from agentark.hub import check_weights
from agentark.types import UserError
from distill.grpo.on_trl import run as grpo
from distill.grpo.run import Run
from distill.sft import __main__ as sft
from prm import model as reward

FAULTS: dict[str, tuple[Callable[[bytes], bytes | None], str]] = {
    "missing": (lambda content: None, r"its weights are not there \(model\.safetensors is missing\)"),
    "empty": (lambda content: b"", r"model\.safetensors is damaged"),
    "cut": (lambda content: content[: len(content) // 2], r"model\.safetensors is damaged"),
    "cut in its head": (lambda content: content[:20], r"model\.safetensors is damaged"),
    "garbage": (lambda content: b"x" * 1000, r"model\.safetensors is damaged"),
    "a head without end": (lambda content: b"\xff" * 8 + content[8:], r"model\.safetensors is damaged"),
}


@pytest.fixture
def model(small_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_model, tmp_path / "model"))


def load_sft(model: Path) -> None:
    row = {"id": "T/0", "source": "T", "prompt": [{"role": "user", "content": "Why?"}]}
    data = jsonl(model.parent / "t.jsonl", [{**row, "completion": [{"role": "assistant", "content": "So."}]}])
    sft.main(
        ["--model_name_or_path", str(model), "--train_data_path", str(data), "--output_dir", str(model.parent / "o")]
    )


def load_grpo(model: Path) -> None:
    config = settings(model, model.parent / "o", reward_mode="VR")
    grpo.build(config, made_inputs(config, model), Run(config), None)


LOADERS = {"sft": load_sft, "prm": lambda model: reward.load(str(model), "--prm"), "grpo": load_grpo}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("loader", LOADERS)
def test_damaged_weights(loader: str, fault: str, model: Path) -> None:
    change, said = FAULTS[fault]
    file = model / "model.safetensors"
    content = change(file.read_bytes())
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match=said) as raised:
        LOADERS[loader](model)
    assert "\n" not in str(raised.value)
    assert not (model.parent / "o").exists(), "nothing is claimed"


@pytest.mark.parametrize("loader", ["sft", "prm"])
def test_weights_of_another_shape(loader: str, model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"hidden_size": 128}))
    with pytest.raises(UserError, match=r"model: cannot be loaded \(") as raised:
        LOADERS[loader](model)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("index", "said"),
    [
        ({}, "expected a weight_map"),
        ({"weight_map": []}, "expected a weight_map"),
        ({"weight_map": {"a": 1}}, "expected a weight_map"),
        ({"weight_map": {"a": "model-00001-of-00002.safetensors"}}, r"model-00001-of-00002\.safetensors is missing"),
    ],
)
def test_an_index_of_shards(index: object, said: str, model: Path) -> None:
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=said):
        check_weights(str(model), "--pretrain")


def test_good_weights_and_hub_ids_pass(model: Path) -> None:
    check_weights(str(model), "--pretrain")
    check_weights("org/model", "--pretrain")
