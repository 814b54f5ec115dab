"""The TRL backend: sets up distill/grpo/on_trl/trainer.py from the settings, runs it, and saves the result.

Runs anywhere TRL does, also on a CPU: one process or many (accelerate, torchrun, DeepSpeed), with transformers or vLLM
as rollout engine. The same command continues a run, however it was stopped, from its last complete checkpoint.
"""

import json
import os
import time
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from agentark import answers, checkpoints
from agentark.config import ROOT
from agentark.distributed import launch_alone
from agentark.files import space_in
from agentark.health import STOPPED
from agentark.hub import check_weights, pretrained
from agentark.lock import RunLock
from agentark.students import check_training
from agentark.types import UserError
from distill.grpo.cli import check
from distill.grpo.config import GRPOConfig
from distill.grpo.health import Watch
from distill.grpo.plot import grpo_curves
from distill.grpo.reward import Rewarder, StepScorer
from distill.grpo.run import Inputs, Run, prepare, rows, say

DEEPSPEED = ROOT / "configs" / "deepspeed"


def train(config: GRPOConfig) -> int:
    """Run to the end. Returns the exit code."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    main = int(os.environ.get("RANK", "0")) == 0
    check(config, world)
    run = Run(config)
    with RunLock(run.folder / "run") if main else nullcontext():
        if run.open(main):
            say(f"{run.folder}: already trained with these settings; --overwrite trains again")
            return 0
        inputs = prepare(config)
        trainer = build(config, inputs, run, local_scorer(config, inputs), world)
        with space_in(run.folder):
            return fit(config, inputs, run, trainer)


def local_scorer(config: GRPOConfig, inputs: Inputs) -> StepScorer | None:
    """The reward model in this process, on the GPU of its policy."""
    if not config.mode.process:
        return None
    from distill.grpo.scorer import LocalScorer

    assert config.reward_pretrain is not None
    return LocalScorer.load(Path(config.reward_pretrain), device(), config.bf16, config.scorer_batch_tokens)


def device() -> str:
    import torch

    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"


def build(config: GRPOConfig, inputs: Inputs, run: Run, scorer: StepScorer | None, world: int = 1) -> Any:
    """The trainer, ready to start."""
    from datasets import Dataset
    from safetensors import SafetensorError

    from distill.grpo.on_trl.trainer import StepGRPOTrainer

    check_weights(inputs.model, "--pretrain")
    dataset = Dataset.from_list([{"prompt": prompt.text, "row": row} for row, prompt in enumerate(inputs.prompts)])
    try:
        args = arguments(config, inputs.prompt_limit, world)
        check_training(args)
        return StepGRPOTrainer(
            config=config,
            prompts=inputs.prompts,
            rewarder=Rewarder(config, scorer, inputs.tokenizer, inputs.eos),
            reference=_reference(config, inputs),
            watch=Watch(*config.bounds()),
            folder=run.folder,
            model=inputs.model,
            args=args,
            train_dataset=dataset,
            processing_class=inputs.tokenizer,
            peft_config=_adapter(config),
        )
    except (OSError, ValueError, ImportError, RuntimeError, TypeError, OverflowError, SafetensorError) as error:
        about = f"--pretrain {config.pretrain}, or these settings"
        raise UserError(f"TRL refuses {about}: {' '.join(str(error).split()):.300}") from error


def arguments(config: GRPOConfig, prompt_limit: int, world: int = 1) -> Any:
    """TRL's settings. Prints a line for each flag that this machine cannot follow.

    The loss of an optimiser step is the sum over its response tokens of -min(ratio x advantage, clipped ratio x
    advantage), over the response tokens of the rollout (of all processes) divided by the optimiser steps made from it:
    TRL's `dapo`. So every token of a rollout weighs the same, whatever the length of its response; prompts and padding
    count in neither sum. With --use_kl_loss, init_kl_coef x ratio x k3 is added to each token before the division:
    k3 = exp(-d) + d - 1 with d = log(policy / reference). The differentiable ratio makes the gradient on policy that of
    the reverse KL, d x grad log policy, where plain k3 has (1 - exp(-d)) x grad log policy (arXiv 2512.02556).
    """
    import torch
    from trl import GRPOConfig as Arguments

    cuda = torch.cuda.is_available()
    deepspeed = _deepspeed(config, cuda, world)
    engine = config.generation if config.generation != "auto" else ("vllm" if cuda and find_spec("vllm") else "hf")
    floor = config.lr_scheduler == "cosine_with_min_lr"
    return Arguments(
        output_dir=str(config.checkpoints),
        per_device_train_batch_size=config.micro_train_batch_size,
        gradient_accumulation_steps=config.train_batch_size // (config.micro_train_batch_size * world),
        generation_batch_size=config.total_samples,
        num_generations=config.n_samples_per_prompt,
        num_iterations=config.max_epochs,
        num_train_epochs=config.num_episodes,
        max_steps=config.max_steps or -1,
        max_completion_length=config.generate_max_len,
        temperature=config.temperature,
        top_p=config.top_p,
        learning_rate=config.actor_learning_rate,
        lr_scheduler_type=config.lr_scheduler,
        lr_scheduler_kwargs={"min_lr_rate": config.min_lr_ratio} if floor else None,
        warmup_steps=config.lr_warmup_ratio,
        adam_beta1=config.adam_betas[0],
        adam_beta2=config.adam_betas[1],
        weight_decay=config.l2,
        max_grad_norm=config.max_norm,
        epsilon=config.eps_clip,
        beta=config.init_kl_coef if config.use_kl_loss else 0.0,
        use_bias_correction_kl=True,
        loss_type="dapo",
        scale_rewards="none",
        seed=config.seed,
        bf16=_bf16(config, cuda),
        use_cpu=not cuda and deepspeed is None,
        gradient_checkpointing=config.gradient_checkpointing,
        deepspeed=deepspeed,
        model_init_kwargs={"dtype": "float32", "attn_implementation": attention(config, cuda), "use_safetensors": True},
        save_strategy="steps" if config.save_steps > 0 else "no",
        save_steps=_whole_rollouts(config) if config.save_steps > 0 else 500,
        save_total_limit=config.max_ckpt_num,
        logging_steps=config.logging_steps,
        report_to=_report_to(config),
        run_name=config.run_name,
        remove_unused_columns=False,
        use_vllm=engine != "hf",
        vllm_mode="server" if engine == "vllm_server" else "colocate",
        vllm_server_base_url=config.vllm_server_url,
        vllm_max_model_length=prompt_limit + config.generate_max_len,
        vllm_gpu_memory_utilization=config.vllm_gpu_memory_utilization,
        vllm_tensor_parallel_size=config.vllm_tensor_parallel_size,
    )


def _whole_rollouts(config: GRPOConfig) -> int:
    """Steps between checkpoints. From one in the middle of a rollout, a run would sample that rollout anew."""
    steps = -(-config.save_steps // config.steps_per_rollout) * config.steps_per_rollout
    if steps != config.save_steps:
        say(
            f"--save_steps {config.save_steps}: a rollout makes {config.steps_per_rollout} optimizer steps; "
            f"saving every {steps}"
        )
    return steps


def _bf16(config: GRPOConfig, cuda: bool) -> bool:
    import torch

    fits = cuda and torch.cuda.is_bf16_supported()
    if config.bf16 and not fits:
        say("--bf16: not supported on this machine; training in float32")
    return config.bf16 and fits


def attention(config: GRPOConfig, cuda: bool) -> str:
    if not config.flash_attn:
        return "sdpa"
    if cuda and find_spec("flash_attn"):
        return "flash_attention_2"
    say("--flash_attn: " + ("flash_attn is not installed" if cuda else "needs CUDA") + "; using torch's attention")
    return "sdpa"


def _deepspeed(config: GRPOConfig, cuda: bool, world: int) -> dict[str, Any] | None:
    """DeepSpeed's settings, if ZeRO is useful and installed."""
    if config.zero_stage == 0:
        return None
    if not cuda and world == 1:
        say(f"--zero_stage {config.zero_stage}: one process on CPU has nothing to share; DeepSpeed is off")
        return None
    if find_spec("deepspeed") is None:
        raise UserError(f"--zero_stage {config.zero_stage}: needs the package deepspeed; --zero_stage 0 trains without")
    if os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes"):
        raise UserError("ACCELERATE_USE_CPU: would silently switch DeepSpeed off; unset it, or use --zero_stage 0")
    if world == 1:
        launch_alone()
    settings: dict[str, Any] = json.loads((DEEPSPEED / f"zero{max(2, config.zero_stage)}.json").read_bytes())
    settings["zero_optimization"]["stage"] = config.zero_stage
    if config.adam_offload:
        settings["zero_optimization"]["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    if not cuda:  # or DeepSpeed builds its CPU Adam for minutes
        auto = dict.fromkeys(("lr", "betas", "eps", "weight_decay"), "auto")
        settings["optimizer"] = {"type": "AdamW", "params": {**auto, "torch_adam": True}}
    return settings


def _report_to(config: GRPOConfig) -> list[str]:
    usable = os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_MODE") == "offline"
    if "wandb" in config.report_to and not usable:
        raise UserError("--report_to wandb: set WANDB_API_KEY (or WANDB_MODE=offline)")
    return list(config.report_to)


def _adapter(config: GRPOConfig) -> Any:
    if not config.lora_rank:
        return None
    from peft import LoraConfig

    return LoraConfig(
        r=config.lora_rank, lora_alpha=config.lora_alpha, target_modules="all-linear", task_type="CAUSAL_LM"
    )


def _reference(config: GRPOConfig, inputs: Inputs) -> Any:
    """A frozen copy of the first policy; None if the reward has no KL term or an adapter can be switched off."""
    if config.init_kl_coef == 0 or config.use_kl_loss or config.lora_rank:
        return None
    import torch

    half = config.bf16 and torch.cuda.is_available()
    return pretrained("AutoModelForCausalLM", inputs.model, dtype=torch.bfloat16 if half else torch.float32).eval()


# ---------------------------------------------------------------- running


def fit(config: GRPOConfig, inputs: Inputs, run: Run, trainer: Any) -> int:
    """Train from the start or the last checkpoint, save, and write the manifest."""
    from distill.grpo.on_trl.held_out import HeldOut

    started = time.perf_counter()
    main = trainer.accelerator.is_main_process
    run.claim(say)
    trainer.accelerator.wait_for_everyone()
    checkpoint = checkpoints.newest(config.checkpoints, run, say)
    trainer.add_callback(checkpoints.marking(trainer, run, checkpoint))
    if main:
        step = int(checkpoint.name.rpartition("-")[2]) if checkpoint else -1
        for path in (run.metrics, run.dev):
            checkpoints.rewind(path, step)
    if checkpoint is not None:
        say(f"going on from {checkpoint}")
        trainer.watch.history = [row for row in rows(run.metrics) if "total_reward" in row]
    if inputs.held_out:
        trainer.add_callback(HeldOut(trainer, inputs.held_out, run.dev))
    with checkpoints.loading(checkpoint):
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    save(config, inputs, run, trainer)
    if main:
        metrics = rows(run.metrics)
        grpo_curves(metrics, rows(run.dev), run.folder / "curves.png")
        figures = {"steps": trainer.state.global_step, "seconds": round(time.perf_counter() - started, 1)}
        figures |= {"first": metrics[0], "last": metrics[-1]} if metrics else {}
        run.close(inputs, trainer.stopped, figures | {"held_out": rows(run.dev)})
        for line in trainer.stopped:
            say(f"stopped: {line}")
        say(f"saved to {run.folder} after {trainer.state.global_step} optimizer steps")
    answers.close_pool()
    return STOPPED if trainer.stopped else 0


def save(config: GRPOConfig, inputs: Inputs, run: Run, trainer: Any) -> None:
    """The policy as a plain model folder, adapters merged, in safetensors."""
    folder = run.folder
    if config.lora_rank:
        trainer.save_model(str(folder / "adapter"))
        if trainer.accelerator.is_main_process:
            _merge(inputs.model, folder / "adapter", folder)
    else:
        trainer.save_model(str(folder))
    if trainer.accelerator.is_main_process:
        inputs.tokenizer.save_pretrained(folder)
        for saved in (folder, folder / "adapter"):
            (saved / "training_args.bin").unlink(missing_ok=True)  # a pickle that nothing needs
    trainer.accelerator.wait_for_everyone()


def _merge(base: str, adapter: Path, folder: Path) -> None:
    import torch
    from peft import PeftModel

    model = pretrained("AutoModelForCausalLM", base, dtype=torch.float32)
    PeftModel.from_pretrained(model, str(adapter)).merge_and_unload().save_pretrained(folder)
