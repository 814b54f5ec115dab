"""The OpenRLHF backend: turns our settings into upstream's command line, and runs that command with our classes.

`python -m distill.grpo.on_openrlhf.run <upstream flags>` runs upstream's own `openrlhf.cli.train_ppo_ray` after
patch.py has put our experience maker into its trainer. Step scores come from our agent file (agent.py), which
upstream's rollout workers load by its path; they read the settings from the file that SETTINGS names.
"""

import argparse
import ast
import os
import runpy
import shlex
import sys
from collections.abc import Sequence
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec

from agentark.checkpoints import REASON, is_own, mark
from agentark.config import ROOT
from agentark.files import write_atomically
from agentark.health import STOPPED
from agentark.lock import RunLock
from agentark.types import UserError
from distill.grpo.cli import check
from distill.grpo.config import GRPOConfig
from distill.grpo.on_openrlhf.flags import DEFAULT_GPUS, Layout, arguments
from distill.grpo.run import Inputs, Run, prepare, rows, say

SETTINGS = "AGENTARK_GRPO"
"""Environment variable: path of the file with the settings of the run."""
UPSTREAM_MAIN = "openrlhf.cli.train_ppo_ray"
UPSTREAM_ENVIRONMENT = {
    "TOKENIZERS_PARALLELISM": "true",
    "NCCL_DEBUG": "WARN",
    "RAY_ENABLE_ZERO_COPY_TORCH_TENSORS": "1",
}
"""The environment that upstream gives Ray's workers when it starts Ray itself."""
NOT_OURS = {
    "--train.async_enable": "its trainer is another class, without our advantages",
    "--reward.remote_url": "rewards come from our agent file",
    "--train.agent_func_path": "rewards come from our agent file",
    "--data.apply_chat_template": "prompts are rendered already",
}
"""Flags of upstream that would silently undo our changes."""


def command(config: GRPOConfig, layout: Layout) -> str:
    """The full command for a shell, one flag per line."""
    lines: list[str] = []
    for word in arguments(config, layout):
        quoted = shlex.quote(word)
        if word.startswith("--"):
            lines.append(quoted)
        else:
            lines[-1] += f" {quoted}"
    return " \\\n    ".join(["python -m distill.grpo.on_openrlhf.run", *lines])


def upstream_parser() -> argparse.ArgumentParser:
    """Upstream's real parser, without upstream's other imports (Ray, CUDA, flash-attn).

    Raises:
        UserError: OpenRLHF is not installed, or is built differently from the pinned version.
    """
    from distill.grpo.on_openrlhf.patch import check_version

    check_version()
    spec = find_spec(UPSTREAM_MAIN)
    assert spec is not None
    assert spec.origin is not None
    body = main_block(Path(spec.origin).read_text(encoding="utf-8"))
    ends = [index for index, node in enumerate(body) if "parse_args" in ast.dump(node)]
    made = compile(ast.Module(body=body[: ends[0]], type_ignores=[]), spec.origin, "exec")
    names: dict[str, Any] = {"__name__": "upstream_parser", "argparse": argparse, "datetime": datetime}
    exec(made, names)  # noqa: S102 - the installed package's own code, nothing of a model or a data file
    parser = names["parser"]
    assert isinstance(parser, argparse.ArgumentParser)
    return parser


def main_block(source: str) -> list[ast.stmt]:
    """The statements under `if __name__ == "__main__"`."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.If) and "__main__" in ast.dump(node.test):
            return node.body
    raise UserError(f"{UPSTREAM_MAIN}: has no main block; this OpenRLHF is built differently")


def parse_upstream(config: GRPOConfig, layout: Layout) -> str:
    """Check our command with upstream's parser and return its verdict in a few words.

    Raises:
        UserError: upstream refuses a flag (only `--upstream` can add such a flag).
    """
    for word in shlex.split(config.upstream):
        name = word.partition("=")[0]
        if name in NOT_OURS:
            raise UserError(f"--upstream {config.upstream!r}: {name} is not possible here ({NOT_OURS[name]})")
    try:
        parser = upstream_parser()
    except UserError as error:
        return f"not checked ({error})"

    def refuse(message: str) -> None:
        raise UserError(f"--upstream {config.upstream!r}: OpenRLHF refuses it ({message})")

    parser.error = refuse  # type: ignore[assignment]
    words = arguments(config, layout)
    parser.parse_args(words)
    return f"{sum(word.startswith('--') for word in words)} accepted by OpenRLHF's own parser"


# ---------------------------------------------------------------- running


def train(config: GRPOConfig) -> int:
    """Prepare the inputs, then run upstream in this process. Returns the exit code."""
    import torch

    gpus = config.actor_num_gpus_per_node or torch.cuda.device_count() or DEFAULT_GPUS
    check(config, config.actor_num_nodes * gpus)
    if not config.bf16:
        raise UserError("--bf16: is missing, and OpenRLHF trains in bfloat16 (or fp16 through --upstream) only")
    run = Run(config)
    with RunLock(run.folder / "run"):
        if run.open():
            say(f"{run.folder}: already trained with these settings; --overwrite trains again")
            return 0
        if (config.checkpoints / "_actor").is_dir() and not (config.overwrite or is_own(config.checkpoints, run)):
            raise UserError(f"{config.checkpoints}: {REASON}; use another --ckpt_path, or --overwrite")
        inputs = prepare(config)
        run.claim(say)
        mark(config.checkpoints, run)
        layout = write_inputs(config, inputs, run.folder, gpus)
        words = arguments(config, layout)
        parse_upstream(config, layout)
        os.environ[SETTINGS] = str((run.folder / "run.json").resolve())
        stopped = launch(words, config)
        run.close(inputs, stopped, {"last": rows(run.metrics)[-1]} if rows(run.metrics) else {})
    return STOPPED if stopped else 0


def write_inputs(config: GRPOConfig, inputs: Inputs, folder: Path, gpus: int) -> Layout:
    """Prompts in upstream's form: `input` rendered, `label` with the sample for the agent."""
    paths: list[Path | None] = []
    for name, prompts in (("prompts", inputs.prompts), ("held_out", inputs.held_out)):
        path = (folder / f"{name}.jsonl").resolve()
        lines = [
            {"input": prompt.text, "label": label(prompt.sample, prompt.question, name == "held_out")}
            for prompt in prompts
        ]
        write_atomically(path, b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
        paths.append(path if lines else None)
    assert paths[0] is not None
    resume = (config.checkpoints / "_actor").is_dir()
    return Layout(inputs.model, inputs.prompt_limit, paths[0], paths[1], gpus, resume)


def label(sample: Any, question: str, held_out: bool) -> str:
    """The data the agent gets with a prompt: the sample (only the grader uses its gold answer) and the question."""
    return msgspec.json.encode({"sample": sample, "question": question, "held_out": held_out}).decode()


def runtime_environment() -> dict[str, Any]:
    """The environment in which Ray's workers find our code and the settings of the run."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    theirs = {name: os.environ.get(name, value) for name, value in UPSTREAM_ENVIRONMENT.items()}
    return {"env_vars": theirs | {"PYTHONPATH": path, SETTINGS: os.environ[SETTINGS]}}


def launch(words: Sequence[str], config: GRPOConfig) -> list[str]:
    """Start Ray and the scorers, and run upstream's main with our classes. Returns the reason if it was stopped."""
    import ray
    import torch

    from distill.grpo.on_openrlhf import patch
    from distill.grpo.scorer import NAMESPACE, start_replicas

    marker = Path(config.save_path) / "stopped.json"
    marker.unlink(missing_ok=True)
    ray.init(address=config.ray_address, namespace=NAMESPACE, runtime_env=runtime_environment())
    try:
        replicas = []
        if config.mode.process and config.scorer == "actors":
            replicas = start_replicas(config, torch.cuda.device_count())
        patch.install(config)
        before, sys.argv = sys.argv, [UPSTREAM_MAIN, *words]
        try:
            runpy.run_module(UPSTREAM_MAIN, run_name="__main__")
        finally:
            sys.argv = before
        del replicas
    finally:
        ray.shutdown()
    return list(msgspec.json.decode(marker.read_bytes())) if marker.is_file() else []


def settings() -> GRPOConfig:
    """The settings of the run this process belongs to (a Ray worker gets them through the environment)."""
    path = os.environ.get(SETTINGS)
    if path is None:
        raise UserError(f"{SETTINGS}: is not set; start OpenRLHF with python -m openrlhf.cli.train_grpo")
    return GRPOConfig(**msgspec.json.decode(Path(path).read_bytes())["config"])


if __name__ == "__main__":
    launch(sys.argv[1:], settings())
