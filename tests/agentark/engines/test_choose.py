"""Which engine the flags choose, and that nothing is imported for the others."""

import subprocess
import sys
from pathlib import Path

import pytest

from agentark.cli import Parser
from agentark.engines import ENGINES, engine_class
from agentark.engines.choose import add_engine_flags, choose_engine
from agentark.lock import RunLock

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
