"""Checkpoints of a training: marked when they are complete, and continued from only by the run that wrote them.

A checkpoint holds pickles (optimizer, random states). It is never loaded unless its manifest names the run.
"""

import math
import pickle
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from agentark import jsonl
from agentark.files import json_of, write_atomically
from agentark.run_folder import MANIFEST, RunFolder
from agentark.types import UserError, digest

RUN = "run"
"""Key of the run's digest in the manifest of a checkpoint."""
SUMS = "sums"
REASON = "its manifest does not name this run, so its pickles are not loaded"


def mark(folder: Path, run: RunFolder, **values: Any) -> None:
    """Write into a complete checkpoint whose it is."""
    write_atomically(folder / MANIFEST, msgspec.json.encode({RUN: digest(run.identity), **values}))


class Logged(Struct):
    """A line of a metrics file, as far as a continued run looks at it."""

    step: int
    train_runtime: float | None = None
    """Of the closing line of a training, which a run that goes on always writes again."""


def rewind(path: Path, step: int) -> None:
    """Delete the lines of a metrics file, if it is there, that a run going on after that step writes again.

    Raises:
        UserError: a line that no run wrote, except for a last one that was cut short.
    """
    if path.is_file():
        decoder = msgspec.json.Decoder(Logged)
        lines = [line for line in jsonl.lines(path) if line.content.endswith(b"\n")]
        rows = [(line.content, line.decode(decoder, "a line of metrics")) for line in lines]
        kept = [content for content, row in rows if row.step <= step and row.train_runtime is None]
        write_atomically(path, b"".join(kept))


def is_own(folder: Path, run: RunFolder) -> bool:
    """Whether this run wrote a checkpoint, and completed it."""
    ours = {digest(identity) for identity in (run.identity, run.earlier) if identity}
    try:
        return json_of(folder / MANIFEST).get(RUN) in ours
    except (UserError, TypeError):  # none, half of one, or one of another kind
        return False


class Sums(Struct):
    """What a trainer adds up from one logged line to the next, or over all steps; null stands for no number."""

    loss: float | None
    """Since the last logged line, mean over the processes."""
    total_loss: float | None
    logged: int
    """Step of the last logged line."""
    tokens: int = 0
    metrics: dict[str, list[float | None]] = {}
    """TRL's, since the last logged line."""

    @classmethod
    def of(cls, trainer: Any) -> "Sums":
        loss = float(trainer.accelerator.reduce(trainer._tr_loss, "mean"))
        sums = cls(loss, trainer._total_loss_scalar, trainer._globalstep_last_logged)
        if hasattr(trainer, "_total_train_tokens"):
            sums.tokens = int(trainer._total_train_tokens)
            sums.metrics = {name: [float(value) for value in values] for name, values in _metrics(trainer).items()}
        return sums

    def restore(self, trainer: Any) -> None:
        trainer._tr_loss.fill_(_number(self.loss))
        trainer._total_loss_scalar, trainer._globalstep_last_logged = _number(self.total_loss), self.logged
        if hasattr(trainer, "_total_train_tokens"):
            trainer._total_train_tokens = self.tokens
            _metrics(trainer).update({name: list(map(_number, values)) for name, values in self.metrics.items()})


def _metrics(trainer: Any) -> dict[str, list[float]]:
    metrics: dict[str, list[float]] = trainer._metrics["train"]
    return metrics


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def marking(trainer: Any, run: RunFolder, checkpoint: Path | None, **values: Any) -> Any:
    """A callback that marks every checkpoint of a trainer, and takes over the sums of the one it goes on from.

    transformers and TRL keep no sums in their checkpoints: without this, the mean loss of a continued training, its
    count of tokens and the first figures it logs would leave out the steps before.

    Args:
        checkpoint: where the training goes on from.
        values: to keep in each manifest too.
    """
    from transformers import TrainerCallback

    class Marking(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if checkpoint is None or (sums := json_of(checkpoint / MANIFEST).get(SUMS)) is None:
                return
            try:
                msgspec.convert(sums, Sums).restore(trainer)
            except msgspec.ValidationError as error:
                raise UserError(f"{checkpoint / MANIFEST}: {SUMS}: {error}; remove the checkpoint") from None

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            folder, sums = Path(args.output_dir) / f"checkpoint-{state.global_step}", Sums.of(trainer)
            if state.is_world_process_zero and folder.is_dir():
                mark(folder, run, **{SUMS: sums}, **values)

    return Marking()


def newest(folder: Path, run: RunFolder, say: Callable[[str], None]) -> Path | None:
    """The last checkpoint in a folder that this run wrote.

    Args:
        say: is told of those that are left out.
    """
    named = ((path, re.fullmatch(r"checkpoint-(\d{1,18})", path.name)) for path in folder.glob("checkpoint-*"))
    steps = {int(match[1]): path for path, match in named if match and path.is_dir()}
    for step in sorted(steps, reverse=True):
        if is_own(steps[step], run):
            return steps[step]
        say(f"{steps[step]}: left out ({REASON}, or it is not complete)")
    return None


def chosen(asked: str | None, folder: Path, run: RunFolder, say: Callable[[str], None]) -> Path | None:
    """The checkpoint to continue from.

    Args:
        asked: value of --resume_from_checkpoint.
        folder: of this run's checkpoints.

    Raises:
        UserError: the one that is asked for is no checkpoint of this run.
    """
    if asked in ("False", "false"):
        return None
    if asked in (None, "", "True", "true"):
        return newest(folder, run, say) if run.continued else None
    path = Path(asked)
    if not (path / "trainer_state.json").is_file():
        raise UserError(f"--resume_from_checkpoint {asked}: not a checkpoint (no trainer_state.json in it)")
    if not is_own(path, run):
        raise UserError(f"--resume_from_checkpoint {asked}: {REASON}")
    return path


@contextmanager
def loading(checkpoint: Path | None) -> Iterator[None]:
    """Around a training that continues. Raises UserError where a file of the checkpoint is damaged."""
    from safetensors import SafetensorError

    try:
        yield
    except (pickle.UnpicklingError, EOFError, SafetensorError, RuntimeError, FileNotFoundError, ValueError) as error:
        text = " ".join(str(error).split())
        damaged = (
            isinstance(error, pickle.UnpicklingError | EOFError | SafetensorError) or "PytorchStreamReader" in text
        )
        named = checkpoint is not None and str(checkpoint) in text
        if checkpoint is None or not (damaged or named):
            raise
        raise UserError(f"{checkpoint}: cannot be continued from ({text:.160}); remove it") from None
