"""The settings of GRPO: one flag per field, and what each becomes on either backend.

The names are those of the user's command (the published code's launcher). OpenRLHF has since renamed its own flags into
dotted ones; `UPSTREAM` says which of them a field sets, `OURS` why a field needs none, `REFUSED` why a flag that older
launchers had is not taken. Every field stands in exactly one of the first two (a test holds them to it).

    rollout_batch_size        prompts per rollout; total samples = rollout_batch_size x n_samples_per_prompt
    micro_rollout_batch_size  prompts per GPU during rollout
    train_batch_size          samples per optimizer step, over all GPUs
    micro_train_batch_size    samples per GPU during training
"""

import argparse
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from pydantic.fields import FieldInfo

from agentark import cli
from agentark.config import Config, build, nearest, parse_overrides, read_yaml
from agentark.types import UserError

Guard = Literal["empty", "one_step", "long_step", "no_answer", "unstated", "truncated"]
GUARDS: tuple[Guard, ...] = ("empty", "one_step", "long_step", "no_answer", "unstated", "truncated")
SMALL_GROUP = 4
"""Smallest group whose leave-one-out baseline is worth training on (README: keep n_samples_per_prompt >= 4)."""


class Bounds(Config):
    """Where a run is called unhealthy; null: never."""

    kl: float | None = Field(None, gt=0)
    """Mean KL to the reference per token, nats, above which it is."""
    reward_jump: float | None = Field(None, gt=0)
    """Rise of the mean reward over the running mean of the rollouts before it, in their standard deviations."""
    mean_steps: float | None = Field(None, ge=1)
    """Mean steps per response below which it is, where the first rollout had more."""
    length_drop: float | None = Field(None, gt=0, lt=1)
    """Share of the first rollout's mean length below which it is."""
    truncated: float | None = Field(None, gt=0, le=1)
    """Share of truncated responses above which it is."""


ALARMS = {"kl": 0.2, "reward_jump": 6.0, "mean_steps": 1.1, "length_drop": 0.5, "truncated": 0.5}
STOPS = {"kl": 2.0, "length_drop": 0.1}


class GRPOConfig(Config):
    """Everything a run is decided by."""

    pretrain: str
    """Policy to finetune: hub id, local folder, or smollm2-135m-instruct."""
    save_path: str
    """Folder of the finetuned model, its manifest, metrics and checkpoints."""
    reward_pretrain: str | None = None
    """Folder of the process reward model (prm/finetune2.py); not needed for --reward_mode VR."""
    ckpt_path: str | None = None
    """Folder of the checkpoints; default: checkpoints/ under save_path."""
    backend: Literal["auto", "trl", "openrlhf"] = "auto"
    """auto: OpenRLHF where CUDA and its packages are, else TRL."""
    dry_run: bool = False
    """Only check and map the flags: prints OpenRLHF's full command and the resolved settings."""
    upstream: str = ""
    """More flags of OpenRLHF's own, in one string, passed on as they are."""
    overwrite: bool = False
    """Start anew where save_path holds a run of other settings."""

    prompt_data: list[str] = Field([])
    """Questions: labelled or results files, plain jsonl (query, gt), task names, hub sets; default: the PRM's own."""
    prompt_split: str | None = None
    """Split of tasks and hub sets; default: train."""
    data_dir: str | None = None
    """Folder with the files of tasks, instead of the hub."""
    max_samples: int | None = Field(None, ge=1)
    """Questions at most."""
    prompt_max_len: int = Field(1024, ge=1)
    """Tokens of a prompt at most; longer ones are dropped and counted."""
    generate_max_len: int = Field(1024, ge=1)
    """New tokens per response at most."""
    enable_thinking: bool | None = None
    """What the chat template is told about thinking; default: nothing."""
    eval_data: list[str] = Field([])
    """Questions held out for accuracy during training; same forms as prompt_data."""
    eval_split: str | None = None
    """Split of the held-out questions; default: the task's evaluation split."""
    eval_samples: int = Field(200, ge=1)
    """Held-out questions at most."""
    eval_steps: int = Field(0, ge=0)
    """Optimizer steps between two looks at the held-out questions; 0: only before and after."""

    temperature: float = Field(1.0, gt=0, le=10)
    """Of sampling; the policy's log-probabilities are taken at it too."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Nucleus of sampling."""
    n_samples_per_prompt: int = Field(8, ge=1)
    """Group size of the baseline (keep >= 4)."""
    force_small_groups: bool = False
    """Go on with fewer than 4 samples per prompt."""

    advantage_estimator: Literal["rloo", "reinforce", "gae", "group_norm"] = "rloo"
    """rloo: leave-one-out baseline; reinforce: none; gae: value head; group_norm: the paper's Eq. 5."""
    reward_baseline: Literal["token", "step"] = "token"
    """Unit of the leave-one-out baseline of process rewards."""
    reward_mode: Literal["PRM", "VR", "PRMVR", "ORM"] = "PRMVR"
    """Process reward, verifiable reward, both, or one PRM score for the whole response."""
    verifiable_reward_coef: float = Field(1.0, ge=0)
    """Weight of the verifiable reward."""
    disable_weighted_reward: bool = False
    """Weigh steps equally instead of by the min form."""
    weight_temperature: float = Field(0.1, gt=0)
    """Temperature of the min-form weights (PURE: 0.1)."""
    nomask_separator_adv: bool = False
    """Leave advantages on step separators."""
    mask_eos_adv: bool = False
    """Zero the advantage of the end-of-sequence token (published behaviour: stopping is never trained)."""
    no_advantage_norm: bool = False
    """Leave advantages as they are, instead of normalising them over the rollout."""
    init_kl_coef: float = Field(0.001, ge=0)
    """Weight of the KL to the reference; 0: no reference model."""
    use_kl_loss: bool = False
    """KL as a loss term instead of in the reward."""
    kl_estimator: Literal["k1", "k2", "k3"] = "k1"
    """Of the KL in the reward."""
    gamma: float = Field(1.0, gt=0, le=1)
    """Discount per token of gae; the other estimators do not discount."""
    lambd: float = Field(1.0, ge=0, le=1)
    """Lambda of gae."""
    guards: list[Guard] = Field([guard for guard in GUARDS if guard != "unstated"])
    """Responses of these kinds get the worst process score of their group. unstated: no answer is named as one (boxed,
    "answer is"), only a last number found; for policies that do name theirs, since one that stops early does not."""
    max_step_tokens: int = Field(512, ge=1)
    """A step of more tokens than this hits the guard long_step."""
    alarms: dict[str, float | None] = Field({})
    """key=value changes of the bounds that warn: kl, reward_jump, mean_steps, length_drop, truncated."""
    stops: dict[str, float | None] = Field({})
    """key=value changes of the bounds that save and stop with exit code 3; same keys."""

    rollout_batch_size: int = Field(64, ge=1)
    """Prompts per rollout."""
    micro_rollout_batch_size: int = Field(4, ge=1)
    """Prompts per GPU during rollout."""
    train_batch_size: int = Field(128, ge=1)
    """Samples per optimizer step."""
    micro_train_batch_size: int = Field(2, ge=1)
    """Samples per GPU during training."""
    max_epochs: int = Field(1, ge=1)
    """Passes over each rollout's samples."""
    num_episodes: int = Field(1, ge=1)
    """Passes over the prompts."""
    max_steps: int | None = Field(None, ge=1)
    """Optimizer steps at most (TRL)."""

    actor_learning_rate: float = Field(5e-7, gt=0)
    """Peak learning rate of the policy."""
    critic_learning_rate: float = Field(9e-6, gt=0)
    """Peak learning rate of the value model (gae)."""
    lr_scheduler: str = "cosine_with_min_lr"
    """Schedule of transformers, by its name there."""
    lr_warmup_ratio: float = Field(0.03, ge=0, lt=1)
    """Share of the steps over which the learning rate rises."""
    min_lr_ratio: float = Field(0.1, ge=0, le=1)
    """Last learning rate over the peak (cosine_with_min_lr)."""
    adam_betas: list[float] = Field([0.9, 0.95], min_length=2, max_length=2)
    """Adam's betas."""
    l2: float = Field(0.0, ge=0)
    """Weight decay."""
    max_norm: float = Field(1.0, gt=0)
    """Gradients are clipped to this norm."""
    eps_clip: float = Field(0.2, gt=0, lt=1)
    """PPO's clip range."""
    seed: int = Field(42, ge=0)
    """Of sampling, order and initialisation."""

    zero_stage: Literal[0, 1, 2, 3] = 2
    """DeepSpeed ZeRO stage; on TRL only where there is a GPU or more than one process."""
    bf16: bool = False
    """Train in bfloat16; where the machine cannot, float32 with one line."""
    flash_attn: bool = False
    """FlashAttention 2; on TRL without the package, torch's attention with one line."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass to save memory."""
    adam_offload: bool = False
    """Keep Adam's state in host memory."""
    lora_rank: int = Field(0, ge=0)
    """Rank of a LoRA adapter; 0: train all weights. The saved model has it merged."""
    lora_alpha: int = Field(16, ge=1)
    """Scale of the adapter."""

    save_steps: int = Field(-1, ge=-1)
    """Optimizer steps (OpenRLHF: rollouts) between checkpoints; -1: none."""
    max_ckpt_num: int = Field(3, ge=1)
    """Checkpoints kept."""
    logging_steps: int = Field(1, ge=1)
    """Optimizer steps between log lines."""
    report_to: list[Literal["wandb", "tensorboard"]] = Field([])
    """Also log there; wandb's key comes from WANDB_API_KEY."""
    run_name: str = "grpo"
    """Name of the run there."""

    generation: Literal["auto", "hf", "vllm", "vllm_server"] = "auto"
    """TRL's rollout engine: transformers, vLLM in this process, or a `trl vllm-serve`; auto: vllm with CUDA."""
    vllm_server_url: str | None = None
    """Address of that server."""
    vllm_gpu_memory_utilization: float = Field(0.5, gt=0, le=1)
    """Share of GPU memory for vLLM, which lives beside the policy."""
    vllm_tensor_parallel_size: int = Field(1, ge=1)
    """GPUs per vLLM engine."""
    vllm_num_engines: int | None = Field(None, ge=1)
    """vLLM engines (OpenRLHF); default: all GPUs over the tensor parallel size."""
    actor_num_nodes: int = Field(1, ge=1)
    """Machines that train (OpenRLHF)."""
    actor_num_gpus_per_node: int | None = Field(None, ge=1)
    """GPUs on each; default: those visible here."""
    separate: bool = False
    """Give policy, reference and vLLM GPUs of their own instead of sharing them (OpenRLHF)."""
    ray_address: str | None = None
    """A running Ray cluster (head:port); default: one is started on this machine."""
    scorer: str = "actors"
    """Where OpenRLHF's agents score steps: actors (PRM replicas in Ray) or the address of a `python -m prm.serve`."""
    scorer_replicas: int = Field(1, ge=1)
    """PRM replicas."""
    scorer_batch_tokens: int = Field(16384, ge=1)
    """Tokens per forward of the PRM, padding included."""

    def bounds(self) -> tuple[Bounds, Bounds]:
        """(alarms, stops) with the defaults filled in."""
        return build(Bounds, ALARMS | self.alarms, "--alarms"), build(Bounds, STOPS | self.stops, "--stops")

    @property
    def uses_prm(self) -> bool:
        return self.reward_mode != "VR"

    @property
    def uses_gold(self) -> bool:
        return self.reward_mode in ("VR", "PRMVR")

    @property
    def checkpoints(self) -> Path:
        return Path(self.ckpt_path) if self.ckpt_path else Path(self.save_path) / "checkpoints"

    @property
    def total_samples(self) -> int:
        """Samples of one rollout over all GPUs."""
        return self.rollout_batch_size * self.n_samples_per_prompt

    @property
    def samples_per_forward(self) -> int:
        """Samples one GPU holds at once during rollout."""
        return self.micro_rollout_batch_size * self.n_samples_per_prompt


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
    "reward_baseline": "credit assignment (distill/credit.py), in our experience maker",
    "reward_mode": "credit assignment (distill/credit.py), in our experience maker",
    "verifiable_reward_coef": "credit assignment (distill/credit.py), in our experience maker",
    "disable_weighted_reward": "credit assignment (distill/credit.py), in our experience maker",
    "weight_temperature": "credit assignment (distill/credit.py), in our experience maker",
    "nomask_separator_adv": "credit assignment (distill/credit.py), in our experience maker",
    "mask_eos_adv": "credit assignment (distill/credit.py), in our experience maker",
    "no_advantage_norm": "credit assignment (distill/credit.py), in our experience maker",
    "guards": "the reward (distill/reward.py), in our agent file",
    "max_step_tokens": "the reward (distill/reward.py), in our agent file",
    "alarms": "the watch over every rollout (distill/grpo_watch.py)",
    "stops": "the watch over every rollout (distill/grpo_watch.py)",
    "max_steps": "TRL only: OpenRLHF trains on all prompts",
    "generation": "TRL only: OpenRLHF always rolls out in vLLM",
    "vllm_server_url": "TRL only",
    "ray_address": "given to ray.init",
    "scorer": "the agent file scores steps itself",
    "scorer_replicas": "the agent file scores steps itself",
    "scorer_batch_tokens": "the agent file scores steps itself",
}
"""Field -> why OpenRLHF has no flag for it."""

REFUSED: Mapping[str, str] = {
    "remote_rm_url": "rewards come from --reward_pretrain and the task's grader; --scorer URL scores over HTTP",
    "reward_func": "rewards come from --reward_pretrain and the task's grader",
    "agent_func_path": "ours is set (distill/grpo_agent.py)",
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
"""Flags of older launchers that are not taken, and what to do instead."""


def parser() -> cli.Parser:
    """One flag per field, without defaults: only what was given comes out."""
    made = cli.Parser(
        prog="python -m openrlhf.cli.train_grpo",
        description="Finetune a policy with GRPO on process and verifiable rewards.",
        argument_default=argparse.SUPPRESS,
    )
    made.add_argument("--config", type=Path, help="YAML file of the same keys; flags override it")
    for name, field in GRPOConfig.model_fields.items():
        made.add_argument(f"--{name}", help=_help(field), **_argument(field))
        if name == "enable_thinking":
            made.add_argument("--no_enable_thinking", action="store_false", dest=name, help="ask the template for none")
    return made


def _help(field: FieldInfo) -> str:
    default = "" if field.is_required() or field.default in (None, False, "", []) else f" [{field.default}]"
    return f"{field.description}{default}".replace("%", "%%")


def _argument(field: FieldInfo) -> dict[str, Any]:
    """How argparse reads a field; ranges are the config's to check."""
    kind = field.annotation
    if isinstance(kind, types.UnionType):
        kind = next(one for one in typing.get_args(kind) if one is not type(None))
    if kind is bool:
        return {"action": "store_true"}
    origin, inside = typing.get_origin(kind), typing.get_args(kind)
    if origin is dict:
        return {"nargs": "*", "metavar": "KEY=VALUE"}
    if origin is list:
        return {"nargs": "*", **_argument(FieldInfo(annotation=inside[0]))}
    if origin is Literal:
        return {"type": type(inside[0]), "choices": inside}
    if kind is int:
        return {"type": cli.integer(-1)}
    return {"type": cli.number(float("-inf")) if kind is float else str}


def read(argv: Sequence[str] | None = None) -> GRPOConfig:
    """The settings a command line asks for.

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
    for key in ("alarms", "stops"):
        if key in given:
            given[key] = parse_overrides(given[key], f"--{key}")
    values |= given
    for key in ("pretrain", "save_path"):
        if key not in values:
            raise UserError(f"--{key}: is missing ({GRPOConfig.model_fields[key].description})")
    config = build(GRPOConfig, values, "command line")
    check(config)
    return config


def _without_upstream(argv: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The command line without --upstream, and its value, which argparse would take for flags of ours."""
    words, found = [], {}
    rest = iter(argv)
    for word in rest:
        name, separator, value = word.partition("=")
        if name != "--upstream":
            words.append(word)
        elif separator or (value := next(rest, "")):
            found["upstream"] = value
        else:
            raise UserError("--upstream: expected one argument, OpenRLHF's flags in quotes")
    return words, found


def _explain_strangers(words: Sequence[str]) -> None:
    """Raises UserError for flags that are OpenRLHF's own or an older launcher's."""
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
        raise UserError(f"unknown argument {word} ({nearest(name, known).rpartition('; ')[2]}; see --help)")


def check(config: GRPOConfig, world_size: int | None = None) -> None:
    """Settings that do not go together.

    Args:
        world_size: processes that train, where it is known.

    Raises:
        UserError: naming the flag and what would be right.
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
    if config.uses_prm and config.reward_pretrain is None:
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
        divisors = [size for size in range(1, total + 1) if total % size == 0]
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


def resolved(config: GRPOConfig) -> dict[str, Any]:
    """All settings as they stand, defaults included."""
    alarms, stops = config.bounds()
    return config.model_dump() | {"alarms": alarms.model_dump(), "stops": stops.model_dump()}


def table() -> str:
    """Every flag and what becomes of it, as markdown."""
    rows = ["| Flag | OpenRLHF 0.11.2 | Meaning |", "|---|---|---|"]
    for name, field in GRPOConfig.model_fields.items():
        theirs = ", ".join(f"`{flag}`" for flag in UPSTREAM[name]) if name in UPSTREAM else f"ours: {OURS[name]}"
        rows.append(f"| `--{name}` | {theirs} | {field.description} |")
    rows += [f"| `--{name}` | refused | {reason} |" for name, reason in REFUSED.items()]
    return "\n".join(rows)
