"""TRL's GRPOTrainer with token-level advantages from process and verifiable rewards.

Upstream gives every token of a response the same advantage, from one reward. Here `_generate_and_score_completions` is
extended: after upstream has sampled, the responses of all ranks are scored, credit is assigned over whole groups
(distill/grpo/credit.py) and the (B, T) result replaces upstream's advantages.

The KL to the reference is subtracted from the reward, token by token, and upstream's own KL loss (beta) is off; with
--use_kl_loss it is the other way round. Never both. While a chunk of prompts is rolled out, a thread scores the chunk
before it.
"""

import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import torch
from accelerate.utils import gather_object
from torch import Tensor
from transformers import TrainerCallback
from trl import GRPOTrainer
from trl.trainer.utils import add_fused_lm_head, use_adapter

from agentark.files import append, replacing
from distill.grpo.config import GRPOConfig
from distill.grpo.guards import GuardedCredit, guarded_credit
from distill.grpo.health import Watch, summary, total
from distill.grpo.questions import Prompt
from distill.grpo.reward import Rewarder, Scored, StepScores
from distill.grpo.run import say


def step_reward(**_: Any) -> list[float]:
    """Its name appears in upstream's log; `_calculate_rewards` below never calls it."""
    raise AssertionError("rewards are calculated by StepGRPOTrainer")


class StepGRPOTrainer(GRPOTrainer):  # type: ignore[misc]
    """GRPO with step rewards.

    Args:
        config: of the run.
        prompts: the prompts that the dataset's column `row` points at.
        rewarder: scores responses of this process.
        reference: frozen copy of the first policy for the KL in the reward; None: no copy is needed, or the policy is
            an adapter that can be switched off.
        watch: compares every rollout with the bounds of the run.
        folder: folder of the run; completions are written below it.
    """

    def __init__(
        self,
        *,
        config: GRPOConfig,
        prompts: Sequence[Prompt],
        rewarder: Rewarder,
        reference: Any,
        watch: Watch,
        folder: Path,
        **upstream: Any,
    ) -> None:
        super().__init__(reward_funcs=[step_reward], **upstream)
        self.config = config
        self.prompts = prompts
        self.rewarder = rewarder
        self.watch = watch
        self.folder = folder
        self.stopped: list[str] = []
        self.seconds: dict[str, float] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="score")
        self._pending: list[Future[list[StepScores]]] = []
        self._rows: list[int] = []
        self._everyone: list[Scored] = []
        self._reference = self._placed(reference)
        self.add_callback(Log(self))

    def _placed(self, reference: Any) -> Any:
        """The reference model, prepared like the policy."""
        if reference is None:
            return None
        add_fused_lm_head(reference, temperature=self.temperature)
        reference.requires_grad_(False)
        if self.is_deepspeed_enabled:
            from trl.models import prepare_deepspeed

            return prepare_deepspeed(reference, self.accelerator)
        return self.accelerator.prepare_model(reference, evaluation_mode=True)

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        """Upstream's, which draws the order of each episode from the one before."""
        self.sampler = super()._get_train_sampler(dataset)
        return self.sampler

    # ---------------------------------------------------------------- rollout

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        """Tokenise without adding special tokens, because the prompts are rendered already."""
        return self.processing_class(text=prompts, add_special_tokens=False)["input_ids"], None, {}

    def _generate_single_turn(
        self, prompt_ids: list[list[int]], images: Any, multimodal_fields: Any, num_generations: int, **more: Any
    ) -> tuple[list[list[int]], Any]:
        """Sample `micro_rollout_batch_size` prompts at once; each chunk is scored while the next is sampled."""
        size = len(prompt_ids) if self.args.vllm_mode == "server" and self.use_vllm else self.config.samples_per_forward
        responses: list[list[int]] = []
        logprobs: list[Any] | None = None
        for start in range(0, len(prompt_ids), size):
            chunk = prompt_ids[start : start + size]
            ids, sampled = super()._generate_single_turn(chunk, images, multimodal_fields, num_generations, **more)
            responses += ids
            if sampled is not None:
                logprobs = (logprobs or []) + list(sampled)
            asked = [self.prompts[row].question for row in self._rows[start : start + size]]
            self._pending.append(self._thread.submit(self.rewarder.steps, asked, ids))
        return responses, logprobs

    def _generate(self, prompts: list[str]) -> Any:
        with self._timed("rollout"):
            return super()._generate(prompts)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self._rows = [row["row"] for row in inputs]
        self._pending = []
        out: dict[str, Any] = super()._generate_and_score_completions(inputs)
        kl = self._kl(out)
        with self._timed("credit"):
            credit = self._assign(out["completion_mask"], kl)
        out["advantages"] = credit.advantages.to(out["completion_ids"].device)
        self._report(credit, kl, out["completion_mask"])
        return out

    # ---------------------------------------------------------------- rewards

    def _calculate_rewards(
        self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: list[list[int]]
    ) -> Tensor:
        """Score this process's responses and gather the scores of all processes; (N, 1) for upstream's log."""
        with self._timed("reward"):
            with self._timed("score_wait"):
                steps = [scores for pending in self._pending for scores in pending.result()]
            samples = [self.prompts[row].sample for row in self._rows]
            mine = self.rewarder.finish(samples, completion_ids_list, steps)
            gathered = gather_object(list(zip(self._rows, mine, strict=True)))
        self._rows, self._everyone = [row for row, _ in gathered], [response for _, response in gathered]
        return torch.tensor([total(response) for response in self._everyone], device=self.accelerator.device)[:, None]

    def _kl(self, out: dict[str, Any]) -> Tensor | None:
        """KL of policy and reference per token, (B, T); None if no KL is subtracted from the reward."""
        if self.config.init_kl_coef == 0 or self.config.use_kl_loss:
            return None
        with self._timed("reference"), torch.no_grad():
            ids = torch.cat([out["prompt_ids"], out["completion_ids"]], dim=1)
            mask = torch.cat([out["prompt_mask"], out["completion_mask"]], dim=1)
            policy = out.get("old_per_token_logps")
            if policy is None:
                policy = self._logps(self.model, ids, mask, out)
            if self._reference is not None:
                reference = self._logps(self._reference, ids, mask, out)
            else:
                with use_adapter(self.accelerator.unwrap_model(self.model), adapter_name=None):
                    reference = self._logps(self.model, ids, mask, out)
            return estimate(policy - reference, self.config.kl_estimator) * out["completion_mask"]

    def _logps(self, model: Any, ids: Tensor, mask: Tensor, out: dict[str, Any]) -> Tensor:
        """log p of each response token, (B, T)."""
        logps, _, _ = self._get_per_token_logps_and_entropies(
            model, ids, mask, out["completion_ids"].size(1), batch_size=self.config.micro_train_batch_size
        )
        return torch.as_tensor(logps)

    def _assign(self, mask: Tensor, kl: Tensor | None) -> GuardedCredit:
        """Credit over the groups of all processes; returns the rows of this process."""
        rows, width = mask.shape
        everyones = None
        if kl is not None:
            everyones = self.accelerator.gather(self.accelerator.pad_across_processes(kl, dim=1)).cpu()
        credit = guarded_credit(self.config, self._everyone, everyones)
        first = self.accelerator.process_index * rows
        return credit.rows(first, first + rows, width)

    # ---------------------------------------------------------------- figures

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - started

    def _report(self, credit: GuardedCredit, kl: Tensor | None, mask: Tensor) -> None:
        sums = torch.stack([(kl if kl is not None else torch.zeros_like(mask)).sum().float(), mask.sum().float()])
        total, tokens = self.accelerator.reduce(sums, reduction="sum").tolist()
        figures = summary(self._everyone) | {"kl": total / max(1.0, tokens)} | credit.figures
        figures |= {f"seconds/{part}": value for part, value in self.seconds.items()}
        self.seconds = {}
        for name, value in figures.items():
            if name != "kl" or kl is not None:
                self._metrics["train"][name].append(value)
        alarms, stops = self.watch.add(figures)
        if self.accelerator.is_main_process:
            for line in alarms:
                say(f"alarm: {line}")
            self._completions()
        self.stopped += stops

    def _completions(self) -> None:
        path = self.folder / "completions" / f"step_{self.state.global_step:06d}.jsonl"
        with replacing(path) as stream:
            for row, response in zip(self._rows, self._everyone, strict=True):
                asked = {"id": self.prompts[row].sample.id, "question": self.prompts[row].question}
                steps = list(zip(response.steps.steps, response.steps.scores, strict=False))
                reply = {"text": response.text, "steps": steps, "solved": response.solved, "hits": response.hits}
                stream.write(msgspec.json.encode(asked | reply) + b"\n")


def estimate(log_ratio: Tensor, kind: str) -> Tensor:
    """KL estimators k1, k2, k3 of log(policy / reference) per token (Schulman 2020)."""
    if kind == "k1":
        return log_ratio
    if kind == "k2":
        return log_ratio.square() / 2
    return torch.expm1(-log_ratio) + log_ratio


class Log(TrainerCallback):  # type: ignore[misc]
    """Writes metrics.jsonl, one line per log call, and ends a run that the watch has stopped."""

    def __init__(self, trainer: StepGRPOTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A continued run counts its micro-batches from where it stopped, and has its episodes in the same orders."""
        self.trainer._step = state.global_step * args.gradient_accumulation_steps
        for _done in range(int(state.epoch or 0)):
            next(iter(self.trainer.sampler))  # draws the order of an episode

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if state.is_world_process_zero and logs and "loss" in logs:
            line = json.dumps({"step": state.global_step, **logs})
            append(self.trainer.folder / "metrics.jsonl", line.encode() + b"\n")

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.trainer.stopped:
            control.should_training_stop = True
            control.should_save = True
