"""Checkpoints of a training: marked when they are complete, and continued from only by the run that wrote them.

A checkpoint holds pickles (optimizer, random states). It is never loaded unless its manifest names the run.
"""

import pickle
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from agentark.files import json_of, write_atomically
from agentark.run_folder import MANIFEST, RunFolder
from agentark.types import UserError, digest

RUN = "run"
"""Key of the run's digest in the manifest of a checkpoint."""
REASON = "its manifest does not name this run, so its pickles are not loaded"


def mark(folder: Path, run: RunFolder, **values: Any) -> None:
    """Write into a complete checkpoint whose it is."""
    write_atomically(folder / MANIFEST, msgspec.json.encode({RUN: digest(run.identity), **values}))


def is_own(folder: Path, run: RunFolder) -> bool:
    """Whether this run wrote a checkpoint, and completed it."""
    ours = {digest(identity) for identity in (run.identity, run.earlier) if identity}
    try:
        return json_of(folder / MANIFEST).get(RUN) in ours
    except (UserError, TypeError):  # none, half of one, or one of another kind
        return False


def marking(run: RunFolder, **values: Any) -> Any:
    """A callback that marks every checkpoint of a trainer.

    Args:
        values: to keep in its manifest too.
    """
    from transformers import TrainerCallback

    class Marking(TrainerCallback):  # type: ignore[misc]
        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            if state.is_world_process_zero and checkpoint.is_dir():
                mark(checkpoint, run, **values)

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
