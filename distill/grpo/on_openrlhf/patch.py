"""Replaces a private part of OpenRLHF, here and nowhere else; refuses any version but the pinned one.

Upstream turns one reward per response into advantages (`RemoteExperienceMaker.compute_advantages_and_returns`). Our
method calls upstream's for its other effects, then sets advantages per token from the step scores that our agent left
in `info`. Upstream's trainer is a Ray actor class; we take its plain class, subclass it, and put the subclass where
upstream's `train()` looks for its trainer.
"""

import importlib.metadata
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agentark.files import append, write_atomically
from agentark.types import UserError
from distill.grpo.config import GUARDS, GRPOConfig
from distill.grpo.health import Watch, summary
from distill.grpo.reward import Scored, StepScores

PINNED = "0.11.2"
PER_TOKEN = ("step_score", "step_end")
UNKNOWN = -1.0
"""Means `no gold answer` in `solved`: upstream averages the values in `info`, and NaN would spread."""
_log = logging.getLogger(__name__)


def check_version() -> None:
    """Raises UserError unless the pinned OpenRLHF is installed."""
    try:
        installed = importlib.metadata.version("openrlhf")
    except importlib.metadata.PackageNotFoundError:
        raise UserError("openrlhf: is not installed; see requirements-flash-attn.txt") from None
    if installed != PINNED:
        raise UserError(f"openrlhf {installed}: this code replaces a private class of {PINNED}; install that version")


def extra_logs(response: Scored, total: int, first: int) -> dict[str, Any]:
    """The data that the agent leaves for the experience maker.

    Args:
        response: the scored response.
        total: tokens of prompt and response.
        first: tokens of the prompt.

    Returns:
        Numbers, and lists of floats of length total - 1, which upstream aligns with its action mask (the entry of a
        token is at its position minus 1).
    """
    scores, ends = [0.0] * (total - 1), [0.0] * (total - 1)
    for end, score in zip(response.steps.ends, response.steps.scores, strict=True):
        scores[first + end - 1] = score
        ends[first + end - 1] = 1.0
    numbers: dict[str, Any] = {
        "solved": UNKNOWN if response.solved is None else response.solved,
        "truncated_response": float(response.truncated),
        "steps": float(len(response.steps.steps)),
    }
    hits = {f"guard_{name}": float(name in response.hits) for name in GUARDS}
    return {"step_score": scores, "step_end": ends} | numbers | hits


def responses(experience: Any) -> list[Scored]:
    """The scored responses of an experience, from the `info` that `extra_logs` filled; removes the lists per token.

    Upstream's tensors are (B, A) with A = longest sequence - 1; a response's tokens are where its action mask is 1.
    """
    info = experience.info
    scores, ends = (info.pop(name) for name in PER_TOKEN)
    scored = []
    for row, mask in enumerate(experience.action_mask.bool()):
        at = mask.nonzero().flatten().tolist()
        first = at[0]
        step_ends = [position - first for position in at if ends[row, position] > 0]
        solved = float(info["solved"][row])
        scored.append(
            Scored(
                text="",
                length=at[-1] - first + 1,
                steps=StepScores(
                    [""] * int(info["steps"][row]), step_ends, [float(scores[row, first + end]) for end in step_ends]
                ),
                solved=None if solved == UNKNOWN else solved,
                hits=tuple(name for name in GUARDS if info[f"guard_{name}"][row] > 0),
                truncated=bool(info["truncated_response"][row]),
            )
        )
    return scored


def experience_maker(config: GRPOConfig) -> type:
    """A subclass of the installed RemoteExperienceMaker with our advantages."""
    import torch
    from openrlhf.trainer.ppo_utils.experience_maker import RemoteExperienceMaker

    from distill.grpo.guards import guarded_credit

    class StepExperienceMaker(RemoteExperienceMaker):  # type: ignore[misc]
        watch: Watch
        stopped: list[str]

        def compute_advantages_and_returns(self, experiences: list[Any]) -> list[Any]:
            """Run upstream's method, then set our advantages and returns per token, for all experiences at once."""
            size = sum(len(experience.index) for experience in experiences)
            scored: list[Any] = [None] * size
            kls: list[Any] = [None] * size
            values: list[Any] = [None] * size
            for experience in experiences:
                mine = responses(experience)
                for row, index in enumerate(experience.index):
                    at = experience.action_mask[row].bool()
                    scored[index] = mine[row]
                    kls[index] = experience.kl[row][at].float()
                    values[index] = None if experience.values is None else experience.values[row][at].float()
            experiences = super().compute_advantages_and_returns(experiences)
            pad = torch.nn.utils.rnn.pad_sequence
            kl = pad(kls, batch_first=True)
            credit = guarded_credit(config, scored, kl, None if values[0] is None else pad(values, batch_first=True))
            for experience in experiences:
                for name, source in (("advantages", credit.advantages), ("returns", credit.returns)):
                    target = torch.zeros_like(experience.action_mask, dtype=torch.float32)
                    for row, index in enumerate(experience.index):
                        target[row, experience.action_mask[row].bool()] = source[index, : scored[index].length]
                    setattr(experience, name, target)
                experience.info["outcome"] = credit.outcomes[experience.index]
                experience.info["solved"] = experience.info["solved"].clamp(min=0)  # upstream logs its mean
            self.look(scored, kl)
            return experiences

        def look(self, scored: Sequence[Scored], kl: Any) -> None:
            tokens = sum(response.length for response in scored)
            figures = summary(scored) | {"kl": float(kl.sum()) / max(1, tokens)}
            folder = Path(config.save_path)
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / "metrics.jsonl"
            done = len(path.read_bytes().splitlines()) if path.is_file() else 0
            append(path, json.dumps({"step": done + 1, **figures}).encode() + b"\n")
            alarms, stops = self.watch.add(figures)
            for line in alarms:
                _log.warning("alarm: %s", line)
            self.stopped += stops

    return StepExperienceMaker


class StopRun(Exception):
    """A bound of --stops was crossed."""


def trainer(config: GRPOConfig, plain: type) -> type:
    """A subclass of upstream's plain trainer class that uses our experience maker and can be stopped.

    Args:
        plain: PPOTrainer without its Ray wrapping.
    """
    maker = experience_maker(config)

    class StepTrainer(plain):  # type: ignore[misc]
        experience_maker: Any

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            before = self.experience_maker
            made = maker(
                before.actor_model_group, before.critic_model_group, before.reward_model_group,
                before.initial_model_group, before.kl_ctl, before.strategy, before.tokenizer,
            )  # fmt: skip
            made.watch = Watch(*config.bounds())
            made.stopped = []
            self.experience_maker = made

        def save_logs_and_checkpoints(self, global_step: int, *args: Any, **kwargs: Any) -> None:
            super().save_logs_and_checkpoints(global_step, *args, **kwargs)
            if self.experience_maker.stopped:
                raise StopRun

        def fit(self, *args: Any, **kwargs: Any) -> None:
            """Run upstream's method; when it returns, its caller saves the model."""
            try:
                super().fit(*args, **kwargs)
            except StopRun:
                lines = self.experience_maker.stopped
                _log.warning("stopped: %s", "; ".join(lines))
                write_atomically(Path(config.save_path) / "stopped.json", json.dumps(lines).encode())

    return StepTrainer


def install(config: GRPOConfig) -> None:
    """Put our trainer where upstream's `train()` looks for its own.

    Raises:
        UserError: OpenRLHF has another version than the pinned one.
    """
    check_version()
    import ray
    from openrlhf.trainer import ppo_trainer

    plain = ppo_trainer.PPOTrainer.__ray_metadata__.modified_class
    ppo_trainer.PPOTrainer = ray.remote(trainer(config, plain))
