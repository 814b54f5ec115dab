"""The OpenRLHF backend: our settings as the pinned upstream's command line, and that command with our classes in it.

`python -m distill.grpo.on_openrlhf.run <upstream flags>` is upstream's own `openrlhf.cli.train_ppo_ray` once patch.py
has put our experience maker into its trainer. Step scores come from our agent file (agent.py), which upstream's rollout
workers load by its path; the settings reach them through a file named by the environment (SETTINGS).
"""

import argparse
import ast
import os
import runpy
import shlex
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from agentark.lock import RunLock
from agentark.records import write_atomically
from agentark.types import UserError
from distill.grpo.cli import check
from distill.grpo.config import GRPOConfig
from distill.grpo.questions import fit, local_context
from distill.grpo.run import Inputs, Run, prepare, rows, say

ROOT = Path(__file__).parents[3]
AGENT = Path(__file__).with_name("agent.py")
SETTINGS = "AGENTARK_GRPO"
"""Environment variable: path of the file with the settings of the run."""
UPSTREAM_MAIN = "openrlhf.cli.train_ppo_ray"
UPSTREAM_ENVIRONMENT = {
    "TOKENIZERS_PARALLELISM": "true",
    "NCCL_DEBUG": "WARN",
    "RAY_ENABLE_ZERO_COPY_TORCH_TENSORS": "1",
}
"""What upstream would give Ray's workers, had it started Ray itself."""
NOT_OURS = {
    "--train.async_enable": "its trainer is another class, without our advantages",
    "--reward.remote_url": "rewards come from our agent file",
    "--train.agent_func_path": "rewards come from our agent file",
    "--data.apply_chat_template": "prompts are rendered already",
}
"""Flags of upstream that would silently undo what we put in."""
STOPPED = 3
DEFAULT_GPUS = 1
"""GPUs assumed where there are none to count (a dry run)."""


class Layout(NamedTuple):
    """What the machine and the inputs add to the settings."""

    model: str
    prompt_limit: int
    prompts: Path
    held_out: Path | None
    gpus: int
    """Per machine."""
    resume: bool

    @classmethod
    def planned(cls, config: GRPOConfig) -> "Layout":
        """For a dry run: only a policy that lies in a folder is looked at, GPUs are those asked for."""
        limit, _ = fit(config.prompt_max_len, config.generate_max_len, local_context(config.pretrain))
        folder = Path(config.save_path)
        held_out = folder / "held_out.jsonl" if config.eval_data else None
        gpus = config.actor_num_gpus_per_node or DEFAULT_GPUS
        return cls(config.pretrain, limit, folder / "prompts.jsonl", held_out, gpus, False)


def arguments(config: GRPOConfig, layout: Layout) -> list[str]:
    """Upstream's command line for these settings."""
    nodes, gpus = str(config.actor_num_nodes), str(layout.gpus)
    engines = config.vllm_num_engines
    if engines is None:
        engines = max(1, config.actor_num_nodes * layout.gpus // config.vllm_tensor_parallel_size)
    flags: list[tuple[str, Any]] = [
        ("--actor.model_name_or_path", layout.model),
        ("--train.agent_func_path", AGENT.relative_to(ROOT) if config.dry_run else AGENT),
        ("--data.prompt_dataset", layout.prompts),
        ("--data.input_key", "input"),
        ("--data.label_key", "label"),
        ("--data.max_len", layout.prompt_limit + config.generate_max_len),
        ("--rollout.max_new_tokens", config.generate_max_len),
        ("--rollout.temperature", config.temperature),
        ("--rollout.top_p", config.top_p),
        ("--rollout.n_samples_per_prompt", config.n_samples_per_prompt),
        ("--rollout.batch_size", config.rollout_batch_size),
        ("--rollout.micro_batch_size", config.samples_per_forward),
        ("--train.batch_size", config.train_batch_size),
        ("--train.micro_batch_size", config.micro_train_batch_size),
        ("--train.max_epochs", config.max_epochs),
        ("--train.num_episodes", config.num_episodes),
        ("--train.seed", config.seed),
        ("--algo.advantage.estimator", config.advantage_estimator),
        ("--algo.advantage.gamma", config.gamma),
        ("--algo.advantage.lambd", config.lambd),
        ("--algo.kl.init_coef", config.init_kl_coef),
        ("--algo.kl.estimator", config.kl_estimator),
        ("--actor.adam.lr", config.actor_learning_rate),
        ("--actor.adam.betas", config.adam_betas),
        ("--actor.adam.weight_decay", config.l2),
        ("--actor.lr_scheduler", config.lr_scheduler),
        ("--actor.lr_warmup_ratio", config.lr_warmup_ratio),
        ("--actor.min_lr_ratio", config.min_lr_ratio),
        ("--actor.max_norm", config.max_norm),
        ("--actor.eps_clip", config.eps_clip),
        ("--critic.adam.lr", config.critic_learning_rate),
        ("--ds.zero_stage", config.zero_stage),
        ("--ds.param_dtype", "bf16" if config.bf16 else "fp16"),
        ("--ds.attn_implementation", "flash_attention_2" if config.flash_attn else "sdpa"),
        ("--ds.lora.rank", config.lora_rank),
        ("--ds.lora.alpha", config.lora_alpha),
        ("--ckpt.output_dir", config.save_path),
        ("--ckpt.path", config.checkpoints),
        ("--ckpt.save_steps", config.save_steps),
        ("--ckpt.max_num", config.max_ckpt_num),
        ("--logger.logging_steps", config.logging_steps),
        ("--logger.wandb.run_name", config.run_name),
        ("--actor.num_nodes", nodes),
        ("--actor.num_gpus_per_node", gpus),
        ("--ref.num_nodes", nodes),
        ("--ref.num_gpus_per_node", gpus),
        ("--critic.num_nodes", nodes),
        ("--critic.num_gpus_per_node", gpus),
        ("--vllm.num_engines", engines),
        ("--vllm.tensor_parallel_size", config.vllm_tensor_parallel_size),
        ("--vllm.gpu_memory_utilization", config.vllm_gpu_memory_utilization),
        ("--vllm.enable_prefix_caching", True),
        ("--train.colocate_all", not config.separate),
        ("--vllm.enable_sleep", not config.separate),
        ("--ds.enable_sleep", not config.separate),
        ("--algo.kl.use_loss", config.use_kl_loss),
        ("--actor.gradient_checkpointing_enable", config.gradient_checkpointing),
        ("--ds.adam_offload", config.adam_offload),
        ("--ckpt.load_enable", layout.resume),
    ]
    if layout.held_out is not None:
        flags += [("--eval.dataset", layout.held_out), ("--eval.steps", config.eval_steps or -1)]
        flags += [("--eval.temperature", 0.0), ("--eval.n_samples_per_prompt", 1)]
    if "wandb" in config.report_to:
        flags.append(("--logger.wandb.key", "from-the-environment"))  # upstream looks at WANDB_API_KEY first
    if "tensorboard" in config.report_to:
        flags.append(("--logger.tensorboard_dir", Path(config.save_path) / "tensorboard"))
    words: list[str] = []
    for name, value in flags:
        if isinstance(value, bool):
            words += [name] * value
        else:
            words += [name, *map(str, value if isinstance(value, list) else [value])]
    return words + shlex.split(config.upstream)


def command(config: GRPOConfig, layout: Layout) -> str:
    """The full command, one flag a line, as a shell takes it."""
    lines: list[str] = []
    for word in arguments(config, layout):
        quoted = shlex.quote(word)
        if word.startswith("--"):
            lines.append(quoted)
        else:
            lines[-1] += f" {quoted}"
    return " \\\n    ".join(["python -m distill.grpo.on_openrlhf.run", *lines])


def upstream_parser() -> argparse.ArgumentParser:
    """Upstream's real parser, without importing what upstream imports beside it (Ray, CUDA, flash-attn).

    Raises:
        UserError: OpenRLHF is not installed, or is built otherwise than the pinned one.
    """
    from distill.grpo.on_openrlhf.patch import check_version

    check_version()
    spec = find_spec(UPSTREAM_MAIN)
    assert spec is not None
    assert spec.origin is not None
    body = main_block(Path(spec.origin).read_text(encoding="utf-8"))
    ends = [place for place, node in enumerate(body) if "parse_args" in ast.dump(node)]
    made = compile(ast.Module(body=body[: ends[0]], type_ignores=[]), spec.origin, "exec")
    names: dict[str, Any] = {"__name__": "upstream_parser", "argparse": argparse}
    from datetime import datetime

    names["datetime"] = datetime
    exec(made, names)  # noqa: S102 - the installed package's own code, nothing of a model or a data file
    found = names["parser"]
    assert isinstance(found, argparse.ArgumentParser)
    return found


def main_block(source: str) -> list[ast.stmt]:
    """The statements under `if __name__ == "__main__"`."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.If) and "__main__" in ast.dump(node.test):
            return node.body
    raise UserError(f"{UPSTREAM_MAIN}: has no main block; this version of OpenRLHF is built otherwise")


class _Refusal(Exception):
    pass


def parse_upstream(config: GRPOConfig, layout: Layout) -> str:
    """What upstream's parser says of our command, in a few words.

    Raises:
        UserError: upstream refuses a flag (only `--upstream` can bring one in).
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
        raise _Refusal(message)

    parser.error = refuse  # type: ignore[assignment]
    words = arguments(config, layout)
    try:
        parser.parse_args(words)
    except _Refusal as error:
        raise UserError(f"--upstream {config.upstream!r}: OpenRLHF refuses it ({error})") from None
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
            say(f"{run.folder}: already trained with these settings; --overwrite trains anew")
            return 0
        inputs = prepare(config)
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
            msgspec.json.encode({"input": one.text, "label": label(one.sample, one.question, name == "held_out")})
            + b"\n"
            for one in prompts
        ]
        write_atomically(path, b"".join(lines))
        paths.append(path if lines else None)
    assert paths[0] is not None
    resume = (config.checkpoints / "_actor").is_dir()
    return Layout(inputs.model, inputs.prompt_limit, paths[0], paths[1], gpus, resume)


def label(sample: Any, question: str, held_out: bool) -> str:
    """What the agent gets beside a prompt: the sample (its gold answer is for the grader only) and the question."""
    return msgspec.json.encode({"sample": sample, "question": question, "held_out": held_out}).decode()


def runtime_environment() -> dict[str, Any]:
    """Ray's workers find our code and the settings of the run."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    theirs = {name: os.environ.get(name, value) for name, value in UPSTREAM_ENVIRONMENT.items()}
    return {"env_vars": theirs | {"PYTHONPATH": path, SETTINGS: os.environ[SETTINGS]}}


def launch(words: Sequence[str], config: GRPOConfig) -> list[str]:
    """Start Ray and the scorers, run upstream's main with our classes. Returns why it was stopped, if it was."""
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
    """The settings of the run this process belongs to (a Ray worker's, through the environment)."""
    path = os.environ.get(SETTINGS)
    if path is None:
        raise UserError(f"{SETTINGS}: is not set; start OpenRLHF with python -m openrlhf.cli.train_grpo")
    return GRPOConfig(**msgspec.json.decode(Path(path).read_bytes())["config"])


def main() -> None:
    """Upstream's main with our experience maker; the settings are those of AGENTARK_GRPO."""
    launch(sys.argv[1:], settings())


if __name__ == "__main__":
    main()
