"""Watch loss, gradients and parameters for NaN and infinity; save them, then stop or skip the step."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from agentark.files import write_atomically
from agentark.types import RunError


class NanMonitor:
    """Watches one process.

    Args:
        folder: each finding is saved there in `step-<k>-rank-<r>/`: the batch, the trained parameters, and a report.
        action: `stop` raises RunError; `skip` leaves the optimiser step out.
        most: most steps that may be skipped.
    """

    def __init__(self, folder: Path, rank: int, action: Literal["stop", "skip"], most: int) -> None:
        self.folder = folder
        self.rank = rank
        self.action = action
        self.most = most
        self.skipped = 0
        self.batch: Mapping[str, Any] = {}
        self._pending: str | None = None
        """The finding of this optimiser step so far."""

    def loss(self, parts: Mapping[str, Tensor], step: int, model: nn.Module) -> None:
        """Called after a forward pass with every term of the loss."""
        for name, value in parts.items():
            if not bool(torch.isfinite(value).all()):
                self._found(f"loss {name}", step, model)
                return

    def gradients(self, model: nn.Module, step: int) -> None:
        """Called before the optimiser. In skip mode it clears the gradients of a bad step, so that the step changes
        nothing."""
        named = [(name, parameter.grad) for name, parameter in model.named_parameters() if parameter.grad is not None]
        if self._pending is None and (bad := _first(named)):
            self._found(f"gradient of {bad}", step, model)
        if self._pending is not None:
            model.zero_grad(set_to_none=True)
            self._pending = None

    def gradient_norm(self, norm: Any, model: nn.Module, step: int) -> None:
        """Called instead if an engine owns the gradients and reports only their norm."""
        if norm is not None and not bool(torch.isfinite(torch.as_tensor(norm))):
            self._found("gradient norm", step, model)

    def parameters(self, model: nn.Module, step: int) -> None:
        """Called after the optimiser. A value that is already in the parameters cannot be skipped."""
        named = ((name, weight) for name, weight in model.named_parameters() if weight.requires_grad)
        if bad := _first((name, weight) for name, weight in named if weight.numel()):
            self._save(f"parameter {bad}", step, model)
            raise RunError(f"step {step}: parameter {bad} is not finite; saved in {self._folder(step)}")

    def _found(self, what: str, step: int, model: nn.Module) -> None:
        self._save(what, step, model)
        if self.action == "stop":
            raise RunError(f"step {step}: {what} is not finite; batch and state saved in {self._folder(step)}")
        if self.skipped >= self.most:
            raise RunError(
                f"step {step}: {what} is not finite, after {self.skipped} skipped steps; see {self._folder(step)}"
            )
        self.skipped += 1
        self._pending = what

    def _folder(self, step: int) -> Path:
        return self.folder / f"step-{step}-rank-{self.rank}"

    def _save(self, what: str, step: int, model: nn.Module) -> None:
        from safetensors.torch import save_file

        folder = self._folder(step)
        folder.mkdir(parents=True, exist_ok=True)
        batch = {name: value.detach().cpu().contiguous() for name, value in self.batch.items()}
        named = ((name, weight) for name, weight in model.named_parameters() if weight.requires_grad)
        trained = {name: weight.detach().cpu().contiguous() for name, weight in named}
        save_file(batch, folder / "batch.safetensors")
        save_file(trained, folder / "trained.safetensors")
        report = {"step": step, "rank": self.rank, "found": what, "action": self.action}
        write_atomically(folder / "report.json", json.dumps(report, indent=2).encode() + b"\n")


def _first(named: Iterable[tuple[str, Tensor]]) -> str | None:
    """Name of the first tensor that is not finite; if all are finite, a single check over all norms is enough."""
    tensors = list(named)
    if not tensors:
        return None
    norms = torch._foreach_norm([value for _, value in tensors])
    if bool(torch.isfinite(torch.stack([norm.float() for norm in norms])).all()):
        return None
    return next((name for name, value in tensors if not bool(torch.isfinite(value).all())), None)
