"""The OpenRLHF flags for each of our settings; OpenRLHF has renamed its flags to dotted names since the paper.

Every field of `GRPOConfig` either decides flags of `FLAGS` or is listed in `OURS`, never both (a test checks it).
"""

import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from agentark.config import ROOT
from distill.grpo.config import GRPOConfig
from distill.grpo.questions import fit, local_context

AGENT = Path(__file__).with_name("agent.py")
DEFAULT_GPUS = 1
"""GPUs assumed if there are none to count (in a dry run)."""


class Layout(NamedTuple):
    """Facts about the machine and the inputs that complete the settings."""

    model: str
    prompt_limit: int
    prompts: Path
    held_out: Path | None
    gpus: int
    """Per machine."""
    resume: bool

    @classmethod
    def planned(cls, config: GRPOConfig) -> "Layout":
        """The layout of a dry run: reads only a local policy's config, and takes the number of GPUs from the flags."""
        limit, _ = fit(config.prompt_max_len, config.generate_max_len, local_context(config.pretrain))
        folder = Path(config.save_path)
        held_out = folder / "held_out.jsonl" if config.eval_data else None
        gpus = config.actor_num_gpus_per_node or DEFAULT_GPUS
        return cls(config.pretrain, limit, folder / "prompts.jsonl", held_out, gpus, False)


class Flag(NamedTuple):
    """A flag of OpenRLHF 0.11.2."""

    name: str
    fields: str
    """Our settings that decide the flag, separated by spaces."""
    value_of: Callable[[GRPOConfig, Layout], Any] | None = None
    """The flag's value: true or false for a switch, None to leave it out. Default: the value of the field."""

    def words(self, config: GRPOConfig, layout: Layout) -> list[str]:
        value = getattr(config, self.fields) if self.value_of is None else self.value_of(config, layout)
        if value is None or isinstance(value, bool):
            return [self.name] * bool(value)
        return [self.name, *map(str, value if isinstance(value, list) else [value])]


def _engines(config: GRPOConfig, layout: Layout) -> int:
    """Number of vLLM engines to start; default: as many as fit on the GPUs."""
    return config.vllm_num_engines or max(1, config.actor_num_nodes * layout.gpus // config.vllm_tensor_parallel_size)


FLAGS = (
    Flag("--actor.model_name_or_path", "pretrain", lambda config, layout: layout.model),
    Flag(
        "--train.agent_func_path",
        "reward_pretrain",
        lambda config, _: AGENT.relative_to(ROOT) if config.dry_run else AGENT,
    ),
    Flag("--data.prompt_dataset", "prompt_data", lambda config, layout: layout.prompts),
    Flag("--data.input_key", "prompt_data", lambda config, layout: "input"),
    Flag("--data.label_key", "prompt_data", lambda config, layout: "label"),
    Flag(
        "--data.max_len",
        "prompt_max_len generate_max_len",
        lambda config, layout: layout.prompt_limit + config.generate_max_len,
    ),
    Flag("--rollout.max_new_tokens", "generate_max_len"),
    Flag("--rollout.temperature", "temperature"),
    Flag("--rollout.top_p", "top_p"),
    Flag("--rollout.n_samples_per_prompt", "n_samples_per_prompt"),
    Flag("--rollout.batch_size", "rollout_batch_size"),
    Flag(
        "--rollout.micro_batch_size",
        "micro_rollout_batch_size n_samples_per_prompt",
        lambda config, _: config.samples_per_forward,
    ),
    Flag("--train.batch_size", "train_batch_size"),
    Flag("--train.micro_batch_size", "micro_train_batch_size"),
    Flag("--train.max_epochs", "max_epochs"),
    Flag("--train.num_episodes", "num_episodes"),
    Flag("--train.seed", "seed"),
    Flag("--algo.advantage.estimator", "advantage_estimator"),
    Flag("--algo.advantage.gamma", "gamma"),
    Flag("--algo.advantage.lambd", "lambd"),
    Flag("--algo.kl.init_coef", "init_kl_coef"),
    Flag("--algo.kl.estimator", "kl_estimator"),
    Flag("--actor.adam.lr", "actor_learning_rate"),
    Flag("--actor.adam.betas", "adam_betas"),
    Flag("--actor.adam.weight_decay", "l2"),
    Flag("--actor.lr_scheduler", "lr_scheduler"),
    Flag("--actor.lr_warmup_ratio", "lr_warmup_ratio"),
    Flag("--actor.min_lr_ratio", "min_lr_ratio"),
    Flag("--actor.max_norm", "max_norm"),
    Flag("--actor.eps_clip", "eps_clip"),
    Flag("--critic.adam.lr", "critic_learning_rate"),
    Flag("--ds.zero_stage", "zero_stage"),
    Flag("--ds.param_dtype", "bf16", lambda config, _: "bf16" if config.bf16 else "fp16"),
    Flag(
        "--ds.attn_implementation", "flash_attn", lambda config, _: "flash_attention_2" if config.flash_attn else "sdpa"
    ),
    Flag("--ds.lora.rank", "lora_rank"),
    Flag("--ds.lora.alpha", "lora_alpha"),
    Flag("--ckpt.output_dir", "save_path"),
    Flag("--ckpt.path", "ckpt_path", lambda config, _: config.checkpoints),
    Flag("--ckpt.save_steps", "save_steps"),
    Flag("--ckpt.max_num", "max_ckpt_num"),
    Flag("--logger.logging_steps", "logging_steps"),
    Flag("--logger.wandb.run_name", "run_name"),
    Flag("--actor.num_nodes", "actor_num_nodes"),
    Flag("--actor.num_gpus_per_node", "actor_num_gpus_per_node", lambda config, layout: layout.gpus),
    Flag("--ref.num_nodes", "actor_num_nodes"),
    Flag("--ref.num_gpus_per_node", "actor_num_gpus_per_node", lambda config, layout: layout.gpus),
    Flag("--critic.num_nodes", "actor_num_nodes"),
    Flag("--critic.num_gpus_per_node", "actor_num_gpus_per_node", lambda config, layout: layout.gpus),
    Flag("--vllm.num_engines", "vllm_num_engines", _engines),
    Flag("--vllm.tensor_parallel_size", "vllm_tensor_parallel_size"),
    Flag("--vllm.gpu_memory_utilization", "vllm_gpu_memory_utilization"),
    Flag("--vllm.enable_prefix_caching", "", lambda config, layout: True),
    Flag("--train.colocate_all", "separate", lambda config, _: not config.separate),
    Flag("--vllm.enable_sleep", "separate", lambda config, _: not config.separate),
    Flag("--ds.enable_sleep", "separate", lambda config, _: not config.separate),
    Flag("--algo.kl.use_loss", "use_kl_loss"),
    Flag("--actor.gradient_checkpointing_enable", "gradient_checkpointing"),
    Flag("--ds.adam_offload", "adam_offload"),
    Flag("--ckpt.load_enable", "save_steps", lambda config, layout: layout.resume),
    Flag("--eval.dataset", "eval_data", lambda config, layout: layout.held_out),
    Flag("--eval.steps", "eval_steps", lambda config, layout: (config.eval_steps or -1) if layout.held_out else None),
    Flag("--eval.temperature", "eval_data", lambda config, layout: 0.0 if layout.held_out else None),
    Flag("--eval.n_samples_per_prompt", "eval_data", lambda config, layout: 1 if layout.held_out else None),
    Flag(  # upstream looks at WANDB_API_KEY first
        "--logger.wandb.key",
        "report_to",
        lambda config, _: "from-the-environment" if "wandb" in config.report_to else None,
    ),
    Flag(
        "--logger.tensorboard_dir",
        "report_to",
        lambda config, _: Path(config.save_path) / "tensorboard" if "tensorboard" in config.report_to else None,
    ),
)
"""All flags, in the order of the command."""

OURS: Mapping[str, str] = {
    name: reason
    for names, reason in {
        "backend": "chooses between TRL and OpenRLHF",
        "dry_run": "starts nothing",
        "upstream": "holds flags of OpenRLHF itself",
        "overwrite": "about our own output folder",
        "prompt_split data_dir max_samples enable_thinking eval_split eval_samples": (
            "questions are read and rendered before OpenRLHF starts"
        ),
        "force_small_groups": "a check of ours",
        "reward_baseline reward_mode verifiable_reward_coef disable_weighted_reward weight_temperature "
        "nomask_separator_adv mask_eos_adv no_advantage_norm": (
            "credit assignment (distill/grpo/credit.py), in our experience maker"
        ),
        "guards max_step_tokens": "the reward (distill/grpo/reward.py), in our agent file",
        "alarms stops": "the watch over every rollout (distill/grpo/health.py)",
        "max_steps": "TRL only: OpenRLHF trains on all prompts",
        "generation": "TRL only: OpenRLHF always rolls out in vLLM",
        "vllm_server_url": "TRL only",
        "ray_address": "given to ray.init",
        "scorer scorer_replicas scorer_batch_tokens": "the agent file scores steps itself",
    }.items()
    for name in names.split()
}
"""Field -> why OpenRLHF has no flag for it."""


def arguments(config: GRPOConfig, layout: Layout) -> list[str]:
    return [word for flag in FLAGS for word in flag.words(config, layout)] + shlex.split(config.upstream)
