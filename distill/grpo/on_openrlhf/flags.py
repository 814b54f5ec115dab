"""What each of our settings becomes on OpenRLHF, which has renamed its flags into dotted ones since the paper.

Every field of `GRPOConfig` stands in exactly one of `UPSTREAM` and `OURS` (a test holds them to it).
"""

from collections.abc import Mapping

from distill.grpo.cli import REFUSED
from distill.grpo.config import GRPOConfig

UPSTREAM: Mapping[str, tuple[str, ...]] = {
    "pretrain": ("--actor.model_name_or_path",),
    "save_path": ("--ckpt.output_dir",),
    "ckpt_path": ("--ckpt.path",),
    "prompt_data": ("--data.prompt_dataset", "--data.input_key", "--data.label_key"),
    "prompt_max_len": ("--data.max_len",),
    "generate_max_len": ("--rollout.max_new_tokens", "--data.max_len"),
    "eval_data": ("--eval.dataset",),
    "eval_steps": ("--eval.steps",),
    "temperature": ("--rollout.temperature",),
    "top_p": ("--rollout.top_p",),
    "n_samples_per_prompt": ("--rollout.n_samples_per_prompt",),
    "advantage_estimator": ("--algo.advantage.estimator",),
    "reward_pretrain": ("--train.agent_func_path",),
    "init_kl_coef": ("--algo.kl.init_coef",),
    "use_kl_loss": ("--algo.kl.use_loss",),
    "kl_estimator": ("--algo.kl.estimator",),
    "gamma": ("--algo.advantage.gamma",),
    "lambd": ("--algo.advantage.lambd",),
    "rollout_batch_size": ("--rollout.batch_size",),
    "micro_rollout_batch_size": ("--rollout.micro_batch_size",),
    "train_batch_size": ("--train.batch_size",),
    "micro_train_batch_size": ("--train.micro_batch_size",),
    "max_epochs": ("--train.max_epochs",),
    "num_episodes": ("--train.num_episodes",),
    "actor_learning_rate": ("--actor.adam.lr",),
    "critic_learning_rate": ("--critic.adam.lr",),
    "lr_scheduler": ("--actor.lr_scheduler",),
    "lr_warmup_ratio": ("--actor.lr_warmup_ratio",),
    "min_lr_ratio": ("--actor.min_lr_ratio",),
    "adam_betas": ("--actor.adam.betas",),
    "l2": ("--actor.adam.weight_decay",),
    "max_norm": ("--actor.max_norm",),
    "eps_clip": ("--actor.eps_clip",),
    "seed": ("--train.seed",),
    "zero_stage": ("--ds.zero_stage",),
    "bf16": ("--ds.param_dtype",),
    "flash_attn": ("--ds.attn_implementation",),
    "gradient_checkpointing": ("--actor.gradient_checkpointing_enable",),
    "adam_offload": ("--ds.adam_offload",),
    "lora_rank": ("--ds.lora.rank",),
    "lora_alpha": ("--ds.lora.alpha",),
    "save_steps": ("--ckpt.save_steps", "--ckpt.load_enable"),
    "max_ckpt_num": ("--ckpt.max_num",),
    "logging_steps": ("--logger.logging_steps",),
    "report_to": ("--logger.wandb.key", "--logger.tensorboard_dir"),
    "run_name": ("--logger.wandb.run_name",),
    "vllm_gpu_memory_utilization": ("--vllm.gpu_memory_utilization",),
    "vllm_tensor_parallel_size": ("--vllm.tensor_parallel_size",),
    "vllm_num_engines": ("--vllm.num_engines",),
    "actor_num_nodes": ("--actor.num_nodes", "--ref.num_nodes", "--critic.num_nodes"),
    "actor_num_gpus_per_node": ("--actor.num_gpus_per_node", "--ref.num_gpus_per_node", "--critic.num_gpus_per_node"),
    "separate": ("--train.colocate_all",),
}
"""Field -> the flags of OpenRLHF 0.11.2 that it decides."""

OURS: Mapping[str, str] = {
    "backend": "chooses between TRL and OpenRLHF",
    "dry_run": "starts nothing",
    "upstream": "holds flags of OpenRLHF itself",
    "overwrite": "about our own output folder",
    "prompt_split": "questions are read and rendered before OpenRLHF starts",
    "data_dir": "questions are read and rendered before OpenRLHF starts",
    "max_samples": "questions are read and rendered before OpenRLHF starts",
    "enable_thinking": "questions are read and rendered before OpenRLHF starts",
    "eval_split": "questions are read and rendered before OpenRLHF starts",
    "eval_samples": "questions are read and rendered before OpenRLHF starts",
    "force_small_groups": "a check of ours",
    "reward_baseline": "credit assignment (distill/grpo/credit.py), in our experience maker",
    "reward_mode": "credit assignment (distill/grpo/credit.py), in our experience maker",
    "verifiable_reward_coef": "credit assignment (distill/grpo/credit.py), in our experience maker",
    "disable_weighted_reward": "credit assignment (distill/grpo/credit.py), in our experience maker",
    "weight_temperature": "credit assignment (distill/grpo/credit.py), in our experience maker",
    "nomask_separator_adv": "credit assignment (distill/grpo/credit.py), in our experience maker",
    "mask_eos_adv": "credit assignment (distill/grpo/credit.py), in our experience maker",
    "no_advantage_norm": "credit assignment (distill/grpo/credit.py), in our experience maker",
    "guards": "the reward (distill/grpo/reward.py), in our agent file",
    "max_step_tokens": "the reward (distill/grpo/reward.py), in our agent file",
    "alarms": "the watch over every rollout (distill/grpo/health.py)",
    "stops": "the watch over every rollout (distill/grpo/health.py)",
    "max_steps": "TRL only: OpenRLHF trains on all prompts",
    "generation": "TRL only: OpenRLHF always rolls out in vLLM",
    "vllm_server_url": "TRL only",
    "ray_address": "given to ray.init",
    "scorer": "the agent file scores steps itself",
    "scorer_replicas": "the agent file scores steps itself",
    "scorer_batch_tokens": "the agent file scores steps itself",
}
"""Field -> why OpenRLHF has no flag for it."""


def table() -> str:
    """Every flag and what becomes of it, as markdown."""
    rows = ["| Flag | OpenRLHF 0.11.2 | Meaning |", "|---|---|---|"]
    for name, field in GRPOConfig.model_fields.items():
        theirs = ", ".join(f"`{flag}`" for flag in UPSTREAM[name]) if name in UPSTREAM else f"ours: {OURS[name]}"
        rows.append(f"| `--{name}` | {theirs} | {field.description} |")
    rows += [f"| `--{name}` | refused | {reason} |" for name, reason in REFUSED.items()]
    return "\n".join(rows)
