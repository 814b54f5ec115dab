"""PAD, second half: GRPO with process and verifiable rewards (AgentArk, arXiv 2602.03955, phase 3).

`python -m openrlhf.cli.train_grpo` runs this. config.py and cli.py hold the flags, reward.py the reward, credit.py
credit assignment; on_trl/ and on_openrlhf/ are two ways to run the same training.

Exit code beyond those of every script: 3 if a bound of --stops was crossed; the model is saved as it was then.
"""

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import yaml

from agentark.install import gpu_name
from agentark.tasks import TASKS
from agentark.types import UserError
from distill.grpo.cli import read
from distill.grpo.config import GRPOConfig, resolved
from distill.grpo.questions import fit, local_context
from distill.grpo.run import say

PACKAGES = ("openrlhf.trainer", "ray", "vllm", "deepspeed", "flash_attn")
"""Packages that the OpenRLHF backend imports."""


def choose_backend(config: GRPOConfig) -> tuple[str, str]:
    """(`trl` or `openrlhf`, why).

    Raises:
        UserError: the chosen backend cannot run here, or cannot do what the flags ask for.
    """
    gpu = gpu_name()
    missing = [name.partition(".")[0] for name in PACKAGES if not _installed(name)]
    launched = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if config.backend == "openrlhf":
        if not config.dry_run and (missing or gpu is None):
            lacks = f"needs {', '.join(missing)}: see requirements-flash-attn.txt" if missing else "needs a CUDA GPU"
            raise UserError(f"--backend openrlhf: {lacks}; --backend trl runs here")
        return "openrlhf", "asked for"
    if config.backend == "auto" and gpu is not None and not missing and not launched:
        return "openrlhf", f"{gpu} and all its packages are here"
    if config.advantage_estimator == "gae" and not config.dry_run:
        raise UserError("--advantage_estimator gae: TRL's GRPO has no value head; use --backend openrlhf, or rloo")
    if config.backend == "trl":
        return "trl", "asked for"
    if launched:
        return "trl", "started by a launcher of several processes"
    return "trl", "OpenRLHF trains on CUDA only" if gpu is None else f"OpenRLHF needs {', '.join(missing)}"


def _installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def missing_inputs(config: GRPOConfig) -> list[str]:
    """Files and folders that the flags name and that do not exist yet, one line each."""
    lines = []
    if config.reward_pretrain is not None and config.mode.process and not Path(config.reward_pretrain).is_dir():
        lines.append(f"--reward_pretrain {config.reward_pretrain}: no such folder")
    if not config.prompt_data:
        lines.append("--prompt_data: not given; the questions of the reward model's manifest would be used")
    for flag, names in (("prompt_data", config.prompt_data), ("eval_data", config.eval_data)):
        lines += [
            f"--{flag} {name}: no such file"
            for name in names
            if name not in TASKS
            and (name.endswith((".json", ".jsonl")) or name.count("/") != 1)
            and not Path(name).is_file()
        ]
    if config.pretrain.startswith((".", "/", "~")) and not Path(os.path.expanduser(config.pretrain)).is_dir():
        lines.append(f"--pretrain {config.pretrain}: no such folder")
    return lines


def dry_run(config: GRPOConfig) -> int:
    """Print what would run: OpenRLHF's command, all settings, and missing files."""
    from distill.grpo.on_openrlhf.flags import Layout
    from distill.grpo.on_openrlhf.run import command, parse_upstream

    layout = Layout.planned(config)
    context = local_context(config.pretrain)
    _, line = fit(config.prompt_max_len, config.generate_max_len, context)
    if line is not None:
        say(line)
    say("upstream command:")
    say(command(config, layout))
    say(f"upstream flags: {parse_upstream(config, layout)}")
    say(
        f"one rollout: {config.rollout_batch_size} prompts x {config.n_samples_per_prompt} samples = "
        f"{config.total_samples} samples, {config.micro_rollout_batch_size} prompts per GPU at once; "
        f"{config.total_samples // config.train_batch_size * config.max_epochs} optimizer steps of "
        f"{config.train_batch_size} samples, {config.micro_train_batch_size} per GPU at once"
    )
    say("resolved settings:")
    say(yaml.safe_dump(resolved(config), sort_keys=False, width=120).rstrip())
    for line in missing_inputs(config):
        say(f"warning: {line}")
    if context is None:
        say(f"warning: --pretrain {config.pretrain}: its context length is looked at when the run starts")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    config = read(argv)
    backend, why = choose_backend(config)
    say(f"backend: {backend} ({why})")
    if config.dry_run:
        return dry_run(config)
    if backend == "trl":
        if config.upstream:
            raise UserError(f"--upstream {config.upstream!r}: flags of OpenRLHF, but the backend is trl")
        from distill.grpo.on_trl.run import train
    else:
        from distill.grpo.on_openrlhf.run import train
    return train(config)
