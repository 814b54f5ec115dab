"""What all entry scripts share."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("started", "told"),
    [
        (["-m", "pack.tool", "--flag", "two words"], "python -m pack.tool --flag 'two words'"),
        (["-m", "pack", "--flag=1"], "python -m pack --flag=1"),
        (["pack/tool.py", "--flag=1"], "python pack/tool.py --flag=1"),
        (["pack/tool.py", "--hub_token", "hf_abc", "--x"], "python pack/tool.py --hub_token HIDDEN --x"),
        (
            ["pack/tool.py", "--hub-token=hf_abc", "--token", "t"],
            "python pack/tool.py --hub-token=HIDDEN --token HIDDEN",
        ),
        (
            ["pack/tool.py", "--wandb.key", "k", "--set", "hub_token=t"],
            "python pack/tool.py --wandb.key HIDDEN --set hub_token=HIDDEN",
        ),
        (
            ["pack/tool.py", "--upstream", "--logger.wandb.key k --x 1"],
            "python pack/tool.py --upstream '--logger.wandb.key HIDDEN --x 1'",
        ),
        (["pack/tool.py", "--max_tokens", "5", "--keys=a"], "python pack/tool.py --max_tokens 5 --keys=a"),
    ],
)
def test_a_command_is_told_as_it_can_be_typed_again(started: list[str], told: str, tmp_path: Path) -> None:
    folder = tmp_path / "pack"
    folder.mkdir()
    for name in ("__init__", "__main__", "tool"):
        text = "from agentark.cli import command_line\nprint(command_line())\n"
        (folder / f"{name}.py").write_text("" if name == "__init__" else text)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *started]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == told


def test_a_script_ends_without_the_last_collection_but_with_all_that_is_registered(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import atexit, sys, threading, time\n"
        "from agentark.cli import entry\n"
        "class Loud:\n"
        "    def __del__(self): print('collected', flush=True)\n"
        "sys.kept = Loud()\n"
        "def main():\n"
        "    atexit.register(print, 'registered')\n"
        "    threading.Thread(target=lambda: (time.sleep(0.3), print('thread'))).start()\n"
        "    print('main')\n"
        "    return 3\n"
        "entry(main)\n"
    )
    command = [sys.executable, str(script)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (3, "main\nthread\nregistered\n", "")


def test_what_a_script_keeps_is_hardly_looked_through_for_garbage_and_garbage_still_goes(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import gc\n"
        "from agentark.cli import entry\n"
        "class Cycle:\n"
        "    alive = 0\n"
        "    def __init__(self): self.me, Cycle.alive = self, Cycle.alive + 1\n"
        "    def __del__(self): Cycle.alive -= 1\n"
        "def main():\n"
        "    before = sum(generation['collections'] for generation in gc.get_stats())\n"
        "    kept = [[number] for number in range(500_000)]\n"
        "    looked = sum(generation['collections'] for generation in gc.get_stats()) - before\n"
        "    for _ in range(300_000): Cycle()\n"
        "    print(looked < 20, Cycle.alive < 100_000, len(kept))\n"
        "    return 0\n"
        "entry(main)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("True True 500000\n", "")


@pytest.mark.parametrize(
    "module", ["distill.sft.__main__", "openrlhf.cli.train_grpo", "prm.finetune2", "study.lab.__main__"]
)
def test_idle_threads_of_torch_sleep(module: str) -> None:
    code = (
        f"import os, sys, {module}; from agentark import cli; loaded = 'torch' in sys.modules\n"
        "cli.entry(lambda: print(loaded, os.environ['GOMP_SPINCOUNT']) or 0)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "False 1000\n"
