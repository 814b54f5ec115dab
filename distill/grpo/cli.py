"""The command line of GRPO: a flag per field of `GRPOConfig`, and checks that the flags fit each other."""

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agentark import cli
from agentark.config import build, read_yaml
from agentark.flags import flags_of, settings_of
from agentark.types import UserError
from distill.grpo.config import GRPOConfig

SMALL_GROUP = 4
"""Smallest group with a leave-one-out baseline worth training on."""


REFUSED: Mapping[str, str] = {
    "remote_rm_url": "rewards come from --reward_pretrain and the task's grader; --scorer URL scores over HTTP",
    "reward_func": "rewards come from --reward_pretrain and the task's grader",
    "agent_func_path": "ours is set (distill/grpo/on_openrlhf/agent.py)",
    "normalize_reward": "step scores are in [-1, 1]; advantages are normalised (--no_advantage_norm turns it off)",
    "reward_clip_range": "step scores are in [-1, 1] already",
    "apply_chat_template": "prompts are rendered before the backend sees them",
    "input_template": "prompts are rendered before the backend sees them",
    "input_key": "prompts are rendered before the backend sees them; --prompt_data takes query/gt files",
    "label_key": "prompts are rendered before the backend sees them; --prompt_data takes query/gt files",
    "load_checkpoint": "a stopped run goes on with the same command",
    "use_wandb": "use --report_to wandb (the key comes from WANDB_API_KEY)",
    "use_tensorboard": "use --report_to tensorboard",
    "kl_target": "the KL weight is fixed",
    "use_kl_estimator_k3": "use --kl_estimator k3",
    "num_trajectories": "use --n_samples_per_prompt",
    "colocate_all_models": "it is the default; --separate turns it off",
    "load_in_4bit": "full precision weights only",
    "trust_remote_code": "no code of model repositories is run",
    "enable_ema": "not offered; use --upstream '--train.enable_ema'",
    "packing_samples": "use --upstream '--ds.packing_samples'",
    "deepspeed": "use --zero_stage",
    "vllm_sync_backend": "use --upstream '--vllm.sync_backend nccl'",
    "enforce_eager": "use --upstream '--vllm.enforce_eager'",
    "ring_attn_size": "use --upstream '--ds.ring_attn_size N --ds.packing_samples'",
    "max_len": "use --prompt_max_len and --generate_max_len",
}
"""Flags of older launchers that are refused, and what to do instead."""


def parser() -> cli.Parser:
    """One flag per field, without defaults, so that the result holds only the flags that were given."""
    made = cli.Parser(
        prog="python -m openrlhf.cli.train_grpo",
        description="Finetune a policy with GRPO on process and verifiable rewards.",
        argument_default=argparse.SUPPRESS,
    )
    made.add_argument("--config", type=Path, help="YAML file of the same keys; flags override it")
    for name, reading in flags_of(GRPOConfig):
        made.add_argument(f"--{name}", **reading)
        if name == "enable_thinking":
            made.add_argument("--no_enable_thinking", action="store_false", dest=name, help="ask the template for none")
    return made


def read(argv: Sequence[str] | None = None) -> GRPOConfig:
    """The settings that a command line asks for.

    Raises:
        UserError: an unknown or refused flag, a value out of range, or flags that do not go together.
    """
    made = parser()
    words, upstream = _without_upstream(sys.argv[1:] if argv is None else argv)
    _explain_strangers(words)
    given = vars(made.parse_args(words)) | upstream
    values: dict[str, Any] = {}
    if (path := given.pop("config", None)) is not None:
        values = read_yaml(path)
        build(GRPOConfig, {"pretrain": "", "save_path": ""} | values, str(path))
    values |= given
    config = settings_of(GRPOConfig, values)
    check(config)
    return config


def _without_upstream(argv: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The command line without --upstream, and the value of --upstream, which argparse would read as our own flags."""
    words, given = [], {}
    rest = iter(argv)
    for word in rest:
        name, separator, value = word.partition("=")
        if name != "--upstream":
            words.append(word)
        elif separator or (value := next(rest, "")):
            given["upstream"] = value
        else:
            raise UserError("--upstream: expected one argument, OpenRLHF's flags in quotes")
    return words, given


def _explain_strangers(words: Sequence[str]) -> None:
    """Raises UserError for flags of OpenRLHF itself or of older launchers."""
    known = set(GRPOConfig.model_fields) | {"config", "no_enable_thinking", "help"}
    for word in words:
        if not word.startswith("--"):
            continue
        name = word[2:].partition("=")[0].replace("-", "_")
        if name in known:
            continue
        if "." in name:
            raise UserError(f"{word}: a flag of OpenRLHF itself; pass it on with --upstream '{word} ...'")
        if name in REFUSED:
            raise UserError(f"{word}: {REFUSED[name]}")


def check(config: GRPOConfig, world_size: int | None = None) -> None:
    """Check that the settings go together.

    Args:
        world_size: number of training processes, if known.

    Raises:
        UserError: settings that do not fit; names the flag and what would be right.
    """
    n = config.n_samples_per_prompt
    if n == 1 and config.advantage_estimator in ("rloo", "group_norm"):
        raise UserError(
            f"--n_samples_per_prompt 1: {config.advantage_estimator} compares samples of one prompt; use at least "
            f"{SMALL_GROUP}"
        )
    if n < SMALL_GROUP and not config.force_small_groups:
        raise UserError(
            f"--n_samples_per_prompt {n}: baselines of fewer than {SMALL_GROUP} samples are noise; use at least "
            f"{SMALL_GROUP}, or --force_small_groups to go on"
        )
    if config.mode.process and config.reward_pretrain is None:
        raise UserError(f"--reward_pretrain: is missing, and --reward_mode {config.reward_mode} needs it (or use VR)")
    if config.use_kl_loss and config.init_kl_coef == 0:
        raise UserError("--use_kl_loss: needs --init_kl_coef above 0")
    if config.generation == "vllm_server" and config.vllm_server_url is None:
        raise UserError("--generation vllm_server: needs --vllm_server_url")
    config.bounds()
    _divides("rollout_batch_size", config.rollout_batch_size, config.micro_rollout_batch_size,
             f"--micro_rollout_batch_size {config.micro_rollout_batch_size}")  # fmt: skip
    total = config.total_samples
    if total % config.train_batch_size:
        small = [size for size in range(1, math.isqrt(total) + 1) if total % size == 0]
        divisors = [*small, *(total // size for size in small)]
        below = max((size for size in divisors if size < config.train_batch_size), default=None)
        above = min((size for size in divisors if size > config.train_batch_size), default=None)
        raise UserError(
            f"--train_batch_size {config.train_batch_size}: does not divide the {total} samples of a rollout "
            f"(rollout_batch_size x n_samples_per_prompt); the nearest that do: {_either(below, above)}"
        )
    each = config.micro_train_batch_size * (world_size or 1)
    what = f"--micro_train_batch_size {config.micro_train_batch_size}"
    what += f" x {world_size} processes" if world_size and world_size > 1 else ""
    _divides("train_batch_size", config.train_batch_size, each, what)


def _divides(name: str, value: int, by: int, what: str) -> None:
    if value % by:
        below = value // by * by or None
        raise UserError(
            f"--{name} {value}: is not a multiple of {what}; the nearest that are: "
            f"{_either(below, (value // by + 1) * by)}"
        )


def _either(below: int | None, above: int | None) -> str:
    return " or ".join(str(size) for size in (below, above) if size is not None)
