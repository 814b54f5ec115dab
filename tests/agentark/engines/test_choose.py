"""Which engine the flags choose, and that nothing is imported for the others."""

import subprocess
import sys
from pathlib import Path

import pytest
from lora_cases import bare

from agentark.cli import Parser
from agentark.engines import ENGINES, engine_class
from agentark.engines.choose import add_engine_flags, choose_engine, other_engine_args
from agentark.lock import RunLock
from agentark.types import UserError

ROOT = Path(__file__).parents[3]
SHOW = "import sys, importlib; importlib.import_module(sys.argv[1]); print(*sys.modules)"
LIGHT = {"agentark.engines", "agentark.engines.choose", "agentark.engines.endpoints"}


@pytest.mark.parametrize(
    "script", ["agentark.cli", "agentark.summary", "methods.__main__", "eval.compare", "eval.math_eval", "label"]
)
def test_no_engine_and_no_launcher_is_imported_before_it_is_chosen(script: str) -> None:
    done = subprocess.run([sys.executable, "-c", SHOW, script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert {name for name in done.stdout.split() if name.startswith("agentark.engines")} <= LIGHT


@pytest.mark.parametrize(("flags", "name"), [(["--use_vllm"], "vllm"), ([], "hf")])
def test_the_registry_makes_what_the_flags_ask_for(flags: list[str], name: str, tmp_path: Path) -> None:
    parser = Parser()
    parser.set_defaults(debug=False)
    add_engine_flags(parser)
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    choice = choose_engine(parser.parse_args([*flags, "--max_concurrency", "3", "--model_timeout", "7"]), str(model))
    engine = choice.make(RunLock(tmp_path / "r.jsonl"))
    assert choice.label == "model"
    assert type(engine) is engine_class(name)
    assert (engine.name, engine.capacity, engine.config.model) == (name, 3, str(model))
    assert set(ENGINES) == {"vllm", "hf", "openai"}


WRONG_ADAPTERS: dict[str, tuple[dict[str, bytes | None], str]] = {
    "no configuration": ({"adapter_config.json": None}, r"^--lora_path .*: no adapter_config\.json in it$"),
    "no JSON": ({"adapter_config.json": b"{"}, r"adapter_config\.json: not valid JSON"),
    "no rank": ({"adapter_config.json": b"{}"}, r"adapter_config\.json: r = None: must be the adapter's rank"),
    "a rank of 0": ({"adapter_config.json": b'{"r": 0}'}, r"r = 0: must be"),
    "a huge rank": ({"adapter_config.json": b'{"r": 1%s}' % (b"0" * 400)}, r"r = 10+: must be"),
    "a pickle": (
        {"adapter_model.safetensors": None, "adapter_model.bin": b"x"},
        r"^--lora_path .*: no adapter_model\.safetensors in it$",
    ),
    "empty weights": ({"adapter_model.safetensors": b""}, r"adapter_model\.safetensors is damaged"),
    "cut weights": ({"adapter_model.safetensors": b"\xff" * 9}, r"adapter_model\.safetensors is damaged"),
}


@pytest.mark.parametrize("what", WRONG_ADAPTERS)
def test_an_adapter_is_looked_at_when_it_is_named(what: str, tmp_path: Path) -> None:
    parser, folder = Parser(), bare(tmp_path / "adapter")
    add_engine_flags(parser)
    assert parser.parse_args(["--lora_path", str(folder)]).lora_path == folder
    changes, words = WRONG_ADAPTERS[what]
    for name, content in changes.items():
        (folder / name).unlink(missing_ok=True)
        if content is not None:
            (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=words) as raised:
        parser.parse_args(["--lora_path", str(folder)])
    assert "\n" not in str(raised.value)


def test_an_endpoint_file_is_read_when_it_is_named(tmp_path: Path) -> None:
    parser, file = Parser(), tmp_path / "endpoints.yaml"
    add_engine_flags(parser)
    file.write_text("org/m: {model_name: m}\n")
    with pytest.raises(UserError, match="org/m, endpoint 1: model_url is missing"):
        parser.parse_args(["--use_vllm", "--model_api_config", str(file)])


def test_flags_of_one_engine_do_not_reach_a_member_of_another(tmp_path: Path) -> None:
    endpoints = tmp_path / "endpoints.yaml"
    endpoints.write_text("org/served: {model_name: a, model_url: http://localhost:1/v1}\n")
    parser = Parser()
    parser.set_defaults(debug=False)
    add_engine_flags(parser)
    local = ["--use_vllm", "--engine_args", "max_num_seqs=4", "--model_api_config", str(endpoints)]
    served = choose_engine(other_engine_args(parser.parse_args(local), "org/served"), "org/served")
    assert (served.kind, served.model) == (None, None)
    beside = ["--extra_body", "ignore_eos=true", "--model_api_config", str(endpoints)]
    member = choose_engine(other_engine_args(parser.parse_args(beside), "org/local"), "org/local")
    assert (member.kind, member.model) == ("hf", "org/local")
    with pytest.raises(UserError, match="--extra_body ignore_eos=true: goes with a served model"):
        choose_engine(parser.parse_args(beside[:2]), "org/local")
