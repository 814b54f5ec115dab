"""The settings of GRPO, one field per flag, under the names of the user's command (the published launcher).

rollout_batch_size        prompts per rollout; total samples = rollout_batch_size x n_samples_per_prompt
micro_rollout_batch_size  prompts per GPU during rollout
train_batch_size          samples per optimizer step, over all GPUs
micro_train_batch_size    samples per GPU during training
"""

from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field

from agentark.config import Config, Count, build
from distill.grpo.modes import MODES, Baseline, Estimator, ModeSpec

Guard = Literal["empty", "one_step", "long_step", "no_answer", "unstated", "truncated"]
GUARDS: tuple[Guard, ...] = get_args(Guard)


class Bounds(Config):
    """A run beyond one of these bounds counts as unhealthy; null: no bound."""

    kl: float | None = Field(None, gt=0)
    """Highest mean KL to the reference per token, in nats."""
    reward_jump: float | None = Field(None, gt=0)
    """Largest rise of the mean reward above the mean of earlier rollouts, in their standard deviations."""
    mean_steps: float | None = Field(None, ge=1)
    """Smallest mean number of steps per response, if the first rollout had more."""
    length_drop: float | None = Field(None, gt=0, lt=1)
    """Shortest mean length, as a share of the first rollout's."""
    truncated: float | None = Field(None, gt=0, le=1)
    """Largest share of truncated responses."""


ALARMS = {"kl": 0.2, "reward_jump": 6.0, "mean_steps": 1.1, "length_drop": 0.5, "truncated": 0.5}
STOPS = {"kl": 2.0, "length_drop": 0.1}


class GRPOConfig(Config):
    """All settings of a run."""

    pretrain: str
    """Policy to finetune: hub id, local folder, or smollm2-135m-instruct."""
    save_path: str
    """Folder of the finetuned model, its manifest, metrics and checkpoints."""
    reward_pretrain: str | None = None
    """Folder of the process reward model (prm/finetune2.py); not needed for --reward_mode VR."""
    ckpt_path: str | None = None
    """Folder of the checkpoints; default: checkpoints/ under save_path."""
    backend: Literal["auto", "trl", "openrlhf"] = "auto"
    """auto: OpenRLHF if CUDA and its packages are present, else TRL."""
    dry_run: bool = False
    """Only check the flags and print OpenRLHF's full command and the resolved settings."""
    upstream: str = ""
    """More flags of OpenRLHF itself, in one string, passed on unchanged."""
    overwrite: bool = False
    """Start over if save_path holds a run with other settings."""

    prompt_data: list[str] = Field([])
    """Questions: labelled or results files, plain jsonl (query, gt), task names, hub sets; default: the PRM's own."""
    prompt_split: str | None = None
    """Split of tasks and hub sets; default: train."""
    data_dir: str | None = None
    """Folder with the files of tasks, instead of the hub."""
    max_samples: int | None = Field(None, ge=1)
    """The most questions to train on."""
    prompt_max_len: int = Field(1024, ge=1)
    """The longest prompt, in tokens; longer ones are dropped and counted."""
    generate_max_len: int = Field(1024, ge=1)
    """The most new tokens per response."""
    enable_thinking: bool | None = None
    """Turn thinking on or off in the chat template; default: leave it to the template."""
    eval_data: list[str] = Field([])
    """Questions held out for accuracy during training; same forms as prompt_data."""
    eval_split: str | None = None
    """Split of the held-out questions; default: the task's evaluation split."""
    eval_samples: int = Field(200, ge=1)
    """The most held-out questions."""
    eval_steps: int = Field(0, ge=0)
    """Optimizer steps between evaluations on the held-out questions; 0: only before and after training."""

    temperature: float = Field(1.0, gt=0, le=10)
    """Sampling temperature; the policy's log-probabilities use it too."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Nucleus sampling: share of the probability mass."""
    n_samples_per_prompt: Count = Field(8, ge=1)
    """Group size for the baseline (keep >= 4)."""
    force_small_groups: bool = False
    """Allow fewer than 4 samples per prompt."""

    advantage_estimator: Estimator = "rloo"
    """rloo: leave-one-out baseline; reinforce: none; gae: value head; group_norm: the paper's Eq. 5."""
    reward_baseline: Baseline = "token"
    """Unit of the leave-one-out baseline for process rewards."""
    reward_mode: Literal[tuple(MODES)] = "PRMVR"  # type: ignore[valid-type]
    """Process reward, verifiable reward, both, or one PRM score for the whole response."""
    verifiable_reward_coef: float = Field(1.0, ge=0)
    """Weight of the verifiable reward."""
    disable_weighted_reward: bool = False
    """Weight steps equally instead of by the min form."""
    weight_temperature: float = Field(0.1, gt=0)
    """Temperature of the min-form weights (PURE: 0.1)."""
    nomask_separator_adv: bool = False
    """Keep the advantages of step separators."""
    mask_eos_adv: bool = False
    """Zero the advantage of the end-of-sequence token (published behaviour: stopping is never trained)."""
    no_advantage_norm: bool = False
    """Do not normalise advantages over the rollout."""
    init_kl_coef: float = Field(0.001, ge=0)
    """Weight of the KL to the reference; 0: no reference model."""
    use_kl_loss: bool = False
    """KL as a loss term instead of in the reward: k3 with the importance ratio (see on_trl/run.py)."""
    kl_estimator: Literal["k1", "k2", "k3"] = "k1"
    """Estimator of the KL in the reward."""
    gamma: float = Field(1.0, gt=0, le=1)
    """Discount per token for gae; the other estimators do not discount."""
    lambd: float = Field(1.0, ge=0, le=1)
    """Lambda for gae."""
    guards: list[Guard] = Field([guard for guard in GUARDS if guard != "unstated"])
    """Responses of these kinds get the worst process score of their group. unstated: the answer is only a last number,
    not marked as the answer (boxed, "answer is"); for policies that normally mark it, but not when they stop early."""
    max_step_tokens: int = Field(512, ge=1)
    """A step with more tokens than this hits the guard long_step."""
    alarms: dict[str, float | None] = Field({})
    """key=value changes of the bounds that warn: kl, reward_jump, mean_steps, length_drop, truncated."""
    stops: dict[str, float | None] = Field({})
    """key=value changes of the bounds that save and stop with exit code 3; same keys."""

    rollout_batch_size: int = Field(64, ge=1, le=1 << 20)
    """Prompts per rollout."""
    micro_rollout_batch_size: int = Field(4, ge=1, le=1 << 20)
    """Prompts per GPU during rollout."""
    train_batch_size: int = Field(128, ge=1, le=1 << 20)
    """Samples per optimizer step."""
    micro_train_batch_size: int = Field(2, ge=1, le=1 << 20)
    """Samples per GPU during training."""
    max_epochs: int = Field(1, ge=1)
    """Passes over each rollout's samples."""
    num_episodes: int = Field(1, ge=1)
    """Passes over the prompts."""
    max_steps: int | None = Field(None, ge=1)
    """The most optimizer steps (TRL)."""

    actor_learning_rate: float = Field(5e-7, gt=0)
    """Peak learning rate of the policy."""
    critic_learning_rate: float = Field(9e-6, gt=0)
    """Peak learning rate of the value model (gae)."""
    lr_scheduler: str = "cosine_with_min_lr"
    """Learning rate schedule, by its name in transformers."""
    lr_warmup_ratio: float = Field(0.03, ge=0, lt=1)
    """Share of the steps over which the learning rate rises."""
    min_lr_ratio: float = Field(0.1, ge=0, le=1)
    """Final learning rate as a share of the peak (cosine_with_min_lr)."""
    adam_betas: list[float] = Field([0.9, 0.95], min_length=2, max_length=2)
    """Adam's betas."""
    l2: float = Field(0.0, ge=0)
    """Weight decay."""
    max_norm: float = Field(1.0, gt=0)
    """Gradients are clipped to this norm."""
    eps_clip: float = Field(0.2, gt=0, lt=1)
    """PPO's clip range."""
    seed: int = Field(42, ge=0, lt=1 << 32)
    """Seed of sampling, order and initialisation."""

    zero_stage: Literal[0, 1, 2, 3] = 2
    """DeepSpeed ZeRO stage; on TRL only with a GPU or several processes."""
    bf16: bool = False
    """Train in bfloat16; a machine without it prints a line and trains in float32."""
    flash_attn: bool = False
    """FlashAttention 2; TRL without the package prints a line and uses torch's attention."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass to save memory."""
    adam_offload: bool = False
    """Keep Adam's state in host memory."""
    lora_rank: int = Field(0, ge=0, le=4096)
    """Rank of a LoRA adapter; 0: train all weights. The saved model has the adapter merged in."""
    lora_alpha: int = Field(16, ge=1)
    """Scale of the adapter."""

    save_steps: int = Field(-1, ge=-1)
    """Optimizer steps (TRL: rounded up to whole rollouts; OpenRLHF: rollouts) between checkpoints; -1: none."""
    max_ckpt_num: int = Field(3, ge=1)
    """Checkpoints kept."""
    logging_steps: int = Field(1, ge=1)
    """Optimizer steps between log lines."""
    report_to: list[Literal["wandb", "tensorboard"]] = Field([])
    """Other services to log to; wandb's key comes from WANDB_API_KEY."""
    run_name: str = "grpo"
    """Name of the run in these services."""

    generation: Literal["auto", "hf", "vllm", "vllm_server"] = "auto"
    """TRL's rollout engine: transformers, vLLM in this process, or a `trl vllm-serve`; auto: vllm with CUDA."""
    vllm_server_url: str | None = None
    """Address of the `trl vllm-serve` server."""
    vllm_gpu_memory_utilization: float = Field(0.5, gt=0, le=1)
    """Share of GPU memory for vLLM, which shares the GPU with the policy."""
    vllm_tensor_parallel_size: int = Field(1, ge=1)
    """GPUs per vLLM engine."""
    vllm_num_engines: int | None = Field(None, ge=1)
    """vLLM engines (OpenRLHF); default: all GPUs over the tensor parallel size."""
    actor_num_nodes: int = Field(1, ge=1)
    """Training machines (OpenRLHF)."""
    actor_num_gpus_per_node: int | None = Field(None, ge=1)
    """GPUs on each machine; default: the GPUs visible here."""
    separate: bool = False
    """Put policy, reference and vLLM on separate GPUs instead of sharing them (OpenRLHF)."""
    ray_address: str | None = None
    """A running Ray cluster (head:port); default: one is started on this machine."""
    scorer: str = "actors"
    """Where OpenRLHF's agents score steps: actors (PRM replicas in Ray) or the address of a `python -m prm.serve`."""
    scorer_replicas: int = Field(1, ge=1)
    """Number of PRM replicas."""
    scorer_batch_tokens: int = Field(16384, ge=1)
    """Tokens per forward of the PRM, padding included."""

    def bounds(self) -> tuple[Bounds, Bounds]:
        """(alarms, stops) with the defaults filled in."""
        return build(Bounds, ALARMS | self.alarms, "--alarms"), build(Bounds, STOPS | self.stops, "--stops")

    @property
    def mode(self) -> ModeSpec:
        return MODES[self.reward_mode]

    @property
    def checkpoints(self) -> Path:
        return Path(self.ckpt_path) if self.ckpt_path else Path(self.save_path) / "checkpoints"

    @property
    def total_samples(self) -> int:
        """Samples of one rollout over all GPUs."""
        return self.rollout_batch_size * self.n_samples_per_prompt

    @property
    def steps_per_rollout(self) -> int:
        """Optimizer steps from one rollout."""
        return self.total_samples // self.train_batch_size * self.max_epochs

    @property
    def samples_per_forward(self) -> int:
        """Samples that a GPU holds at once during rollout."""
        return self.micro_rollout_batch_size * self.n_samples_per_prompt


def resolved(config: GRPOConfig) -> dict[str, Any]:
    """All settings, defaults included."""
    alarms, stops = config.bounds()
    return config.model_dump() | {"alarms": alarms.model_dump(), "stops": stops.model_dump()}
