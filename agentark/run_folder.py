"""The output folder of a training: looked at first, claimed once everything is loaded, complete at the very end.

What a folder held before is moved aside when another run claims it, and deleted when that run is complete.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from agentark.files import changes, check_folder, json_if_there, json_of, write_atomically, writing
from agentark.types import UserError

MANIFEST = "manifest.json"
HALF = ".tmp??????"
"""What safetensors calls a file until it is whole; a kill leaves it behind."""
WRITTEN = (
    *("config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json", "adapter*", "README.md"),
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt", "*.model", "*.jinja"),
    *(MANIFEST, "run.json", "done.json", "prm.json", "stopped.json", "evaluation.json", "trainer_state.json"),
    *("metrics.jsonl", "dev.jsonl", "prompts.jsonl", "held_out.jsonl", "plot.png", "curves.png", "training_args.bin"),
    *("checkpoint-*", "checkpoints", "completions", "features", "nan", "stage_[12]", "runs", "wandb"),
    *("global_step*", "latest", "zero_to_fp32.py", ".*.tmp", ".cache", HALF),
)  # fmt: skip
"""Names that trainings, and the libraries below them, write into their folder."""


@dataclass
class RunFolder:
    """An output folder, and whether its run is new, to be continued, or finished."""

    record: ClassVar[tuple[str, str]] = (MANIFEST, "config")
    """File with the identity of the run, and its key there."""
    all_settings: ClassVar[bool] = False
    """Whether the identity names every setting; settings that only an older version knows are then ignored."""

    folder: Path
    """As `flag` names it."""
    identity: dict[str, Any]
    """All that decides the run."""
    _: KW_ONLY
    kind: str
    """Kind of the run, as in manifest.json."""
    flag: str
    replace: str = "--overwrite"
    """Flag that replaces another run."""
    replaces: bool
    """Whether that flag was given."""
    elsewhere: Sequence[Path] = ()
    """Further folders of the run."""
    continued: bool = field(default=False, init=False)
    """Whether an earlier session of this run can go on."""
    values: dict[str, Any] = field(default_factory=dict, init=False)
    """Content of manifest.json."""
    earlier: dict[str, Any] = field(default_factory=dict, init=False)
    """The identity as an earlier session wrote it."""

    def __post_init__(self) -> None:
        self.identity = json.loads(json.dumps(self.identity, default=str))
        self._name = f"{self.flag} {self.folder}"
        self._main, self._claimed = True, False
        check_folder(self.folder, self._name)
        for folder in self.elsewhere:
            check_folder(folder)

    def open(self, main: bool = True) -> bool:
        """Look at the folder; nothing changes. Returns whether it holds this run, finished.

        Args:
            main: whether this process may write.

        Raises:
            UserError: it holds something else, which stays, or what may not be replaced.
        """
        self._main = main
        file, key = self.folder / self.record[0], self.record[1]
        manifest = json_if_there(self.folder / MANIFEST)
        kind = manifest.get("kind") or manifest.get("stage")
        ours = file.is_file() and (kind == self.kind or not manifest)
        if main and not ours and entries(self.folder, self._name):
            which = f" of this kind (but: {kind})" if kind else ""
            raise UserError(f"{self._name}: is not empty and holds no run of ours{which}; choose another folder")
        if self.replaces:
            if main:
                check_replaceable(self.folder, WRITTEN, self._name, self.replace)
            return False
        if ours:
            self.earlier = json_of(file).get(key) or {}
            if not isinstance(self.earlier, dict):
                raise UserError(f"{self._name}: {file.name} is not the manifest of a run; choose another folder")
            self._check_same(self.earlier)
            self.continued, self.values = True, manifest
        return is_complete(self.values)

    def _check_same(self, before: dict[str, Any]) -> None:
        names = self.identity if self.all_settings else {*before, *self.identity}
        if changed := changes(before, self.identity, names):
            raise UserError(
                f"{self._name}: holds a run of other settings ({changed:.400}); use {self.replace} to "
                "replace it, or another folder"
            )

    def claim(self, say: Callable[[str], None], **values: Any) -> None:
        """Take the folder for this run, once everything is loaded; the first call counts.

        Args:
            say: is told where the folder's earlier run is kept.
            values: of manifest.json.
        """
        if self._claimed or not self._main:
            return
        self._claimed = True
        complete = is_complete(json_if_there(self.folder / MANIFEST))
        for folder in (self.folder, *self.elsewhere) if self.replaces else ():
            if (kept := set_aside(folder, complete)) is not None:
                say(f"what was in {folder} is kept in {kept} until this run is complete")
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            for folder in (self.folder, *self.elsewhere):
                for half in folder.rglob(HALF) if self.continued else ():
                    half.unlink(missing_ok=True)
        if values:
            self.write(**values)

    def write(self, **values: Any) -> None:
        """Add to manifest.json (first process only). Once that says complete, the replaced run is deleted."""
        self.values |= values
        if not self._main:
            return
        content = msgspec.json.format(msgspec.json.encode(self.values, enc_hook=float), indent=2)
        write_atomically(self.folder / MANIFEST, content + b"\n")
        if is_complete(self.values):
            for folder in (self.folder, *self.elsewhere):
                shutil.rmtree(aside(folder), ignore_errors=True)


def is_complete(manifest: dict[str, Any]) -> bool:
    """Whether a training came to its end, by its manifest; one that was stopped (--stops) did not."""
    return bool(manifest.get("finished") and not manifest.get("stopped")) or manifest.get("status") == "done"


# ---------------------------------------------------------------- replacing what a folder holds


def entries(folder: Path, name: str) -> list[Path]:
    """The content of a folder, apart from locks; empty if it does not exist.

    Args:
        name: of the folder in the error message.

    Raises:
        UserError: it is something else.
    """
    check_folder(folder, name)
    return sorted(path for path in folder.iterdir() if path.suffix != ".lock") if folder.is_dir() else []


def check_replaceable(folder: Path, written: Sequence[str], name: str, replace: str) -> None:
    """Raises UserError where a folder holds what we did not write, or this process runs in it.

    Args:
        written: patterns of the names that are ours.
    """
    for path in entries(folder, name):
        if not any(fnmatch(path.name, pattern) for pattern in written):
            raise UserError(f"{name}: {replace} would remove {path.name}, which is not ours; move it away")
    if Path.cwd().is_relative_to(folder.resolve()):
        raise UserError(f"{name}: {replace} would remove the folder that this command was started in")


def aside(folder: Path) -> Path:
    """Where the old content of a folder is kept until its replacement is complete."""
    folder = folder.resolve()
    return folder.with_name(f".{folder.name}.replaced")


def set_aside(folder: Path, complete: bool) -> Path | None:
    """Empty a folder, except for its locks. Returns where its content is kept, if it had any.

    Args:
        complete: whether its content is a complete run; if not, and an older content is kept, the new is deleted.
    """
    kept = aside(folder)
    if kept.exists() and not complete:
        for path in entries(folder, str(folder)):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        return kept
    shutil.rmtree(kept, ignore_errors=True)
    if not entries(folder, str(folder)):
        return None
    folder.resolve().rename(kept)
    folder.resolve().mkdir()
    for lock in kept.glob("*.lock"):  # they are held by this process
        lock.rename(folder / lock.name)
    return kept
