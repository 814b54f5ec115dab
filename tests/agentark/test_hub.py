"""Models of others are loaded in one way: their code is not run, their pickles are not read, nobody is asked."""

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from agentark import cli, hub
from agentark.hub import model_config, pretrained
from agentark.types import UserError
from prm.steps import load_tokenizer

ROOT = Path(__file__).parents[2]
ROOMS = ("agentark", "methods", "prm", "distill", "study", "eval")
CODE = """
from pathlib import Path
Path(__file__).with_name("ran").touch()
Path({marker!r}).touch()
from transformers import LlamaConfig, LlamaForCausalLM
class StrangeConfig(LlamaConfig):
    model_type = "strange"
class StrangeModel(LlamaForCausalLM):
    config_class = StrangeConfig
"""


@pytest.fixture
def strange(small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """(a model that wants its own code run, what that code would leave); stdin would say yes."""
    folder, marker = tmp_path / "strange", tmp_path / "ran"
    shutil.copytree(small_model, folder)
    config = json.loads((folder / "config.json").read_text())
    names = {"AutoConfig": "code.StrangeConfig", "AutoModelForCausalLM": "code.StrangeModel"}
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "strange", "auto_map": names}))
    (folder / "code.py").write_text(CODE.format(marker=str(marker)))
    (tmp_path / "yes").write_text("y\n" * 20)
    monkeypatch.setattr(sys, "stdin", (tmp_path / "yes").open())
    return folder, marker


def test_code_that_comes_with_a_model_is_not_run(strange: tuple[Path, Path]) -> None:
    folder, marker = strange
    with pytest.raises(UserError, match=r"--x .*cannot be loaded"):
        model_config(str(folder), "--x")
    load_tokenizer(str(folder), "--x")  # its file is enough
    for kind in ("AutoModelForCausalLM", "AutoModelForTokenClassification"):
        with pytest.raises(OSError, match="custom code"):
            pretrained(kind, str(folder))
    assert not marker.exists()
    assert sys.stdin.readline() == "y\n", "nobody was asked"


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("config.json", {"text_config": 3}, "text_config must be an object"),
        ("config.json", {"architectures": 3}, "cannot be loaded"),
        *(
            ("generation_config.json", {"eos_token_id": value}, r"eos_token_id = .*: must be a token's id or a list")
            for value in ("x", [[1]], {"a": 1}, [1, "x"])
        ),
        ("generation_config.json", [], "expected an object"),
    ],
)
def test_configurations_that_only_transformers_takes(
    small_model: Path, tmp_path: Path, file: str, content: Any, words: str
) -> None:
    before = json.loads((small_model / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(before))
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 0]}))
    assert model_config(str(tmp_path), "--x").vocab_size == before["vocab_size"]
    (tmp_path / file).write_text(json.dumps({**before, **content} if file == "config.json" else content))
    with pytest.raises(UserError, match=words) as raised:
        model_config(str(tmp_path), "--x")
    assert "\n" not in str(raised.value)


def test_pickled_weights_are_not_read(small_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pickled"
    shutil.copytree(small_model, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04c__builtin__\nprint\n.")
    with pytest.raises(UserError, match=r"--x .*its weights are pickles, which are never loaded"):
        cli.resolve_model(str(folder), "--x")
    with pytest.raises(OSError, match="safetensors"):
        pretrained("AutoModelForCausalLM", str(folder))


def test_there_is_no_other_way() -> None:
    found = {
        f"{file.relative_to(ROOT)}: {line.strip()}"
        for room in ROOMS
        for file in (ROOT / room).rglob("*.py")
        for line in file.read_text("utf-8").splitlines()
        if re.search(r"(?<!Peft)\w*\.from_pretrained\(", line) and "PeftModel.from_pretrained(" not in line
    }
    assert found == {
        "agentark/hub.py: return getattr(transformers, kind).from_pretrained(name, trust_remote_code=False, **options)"
    }


def test_a_download_that_breaks_off_is_an_oserror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import httpx
    import huggingface_hub

    def broken(*args: object, **options: object) -> str:
        raise httpx.ReadTimeout("in the middle")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", broken)
    monkeypatch.setattr(hub, "answers", lambda url: True)
    with pytest.raises(OSError, match="in the middle"):
        hub.download("org/model", "file", tmp_path, announce=lambda: None)
