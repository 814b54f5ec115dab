"""Outputs that cannot be: a FIFO, a device, a folder for a file, a file for a folder, and links to them."""

import importlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from script_parsers import parsed

from agentark.files import check_file, check_folder, write_atomically
from agentark.lock import RunLock
from agentark.records import Store
from agentark.run_folder import RunFolder
from agentark.types import UserError

FILES = {
    "inference.py": [
        "--output_path",
        "--method_name",
        "vanilla",
        "--test_dataset_name",
        "GSM8K",
        "--model_name",
        "a/b",
    ],
    "label.py": ["--output", "--input", "a", "--dataset_name", "GSM8K"],
    "distill.select": ["--output", "--input", "a", "--strategy", "rsft"],
    "prm/score.py": ["--output", "--prm", "a", "--input", "b"],
    "prm/evaluate.py": ["--output", "--prm", "a", "--input", "b"],
    "eval.compare": ["--output", "--a", "a", "--b", "b"],
}
"""Script -> its flag for a file to write, and the other flags it needs."""
ASKED = ["--dataset_name", "GSM8K", "--model_name_or_path", "a/b"]
FOLDERS = {
    "inference.py": ["--result_dir", *FILES["inference.py"][1:]],
    "eval.math_eval": ["--output_dir", *ASKED],
    "eval.choice_eval": ["--output_dir", *ASKED],
    "eval.short_answer_eval": ["--output_dir", *ASKED],
    "eval.code_eval": ["--output_dir", *ASKED],
    "eval.reasoning_eval": ["--output_dir", "--input_file", "a", *ASKED],
    "eval.cost_fair": ["--output_dir", "--dataset_name", "GSM8K", "--model_name", "a/b"],
    "eval.team": ["--output_dir", "--dataset_name", "GSM8K", "--model_name", "a/b"],
    "eval.report": ["--output", "--results", "a"],
    "study.tiny_model": ["--output"],
}
"""The same for a folder."""


def fifo(path: Path) -> Path:
    os.mkfifo(path)
    return path


def link(path: Path, target: Path) -> Path:
    path.symlink_to(target)
    return path


def below_a_file(folder: Path) -> Path:
    (folder / "file").write_text("mine")
    return folder / "file" / "a"


NEITHER: dict[str, Callable[[Path], Path]] = {
    "a FIFO": lambda folder: fifo(folder / "pipe"),
    "a link to a FIFO": lambda folder: link(folder / "link", fifo(folder / "pipe")),
    "a device": lambda folder: Path("/dev/null"),
    "a full device": lambda folder: Path("/dev/full"),
    "a link to a device": lambda folder: link(folder / "link", Path("/dev/null")),
    "an open file": lambda folder: Path("/dev/stdout"),
    "an open file in proc": lambda folder: Path("/proc/self/fd/1"),
    "a link to itself": lambda folder: link(folder / "link", folder / "link"),
    "below a file": below_a_file,
    "below a FIFO": lambda folder: fifo(folder / "pipe") / "a" / "b",
    "too long a name": lambda folder: folder / ("a" * 300),
}
NO_FILE = NEITHER | {
    "a folder": lambda folder: folder,
    "a link to a folder": lambda folder: link(folder / "link", folder),
    "a link to nothing": lambda folder: link(folder / "link", folder / "gone" / "a"),
}
NO_FOLDER = NEITHER | {
    "a file": lambda folder: below_a_file(folder).parent,
    "a link to a file": lambda folder: link(folder / "link", below_a_file(folder).parent),
    "a link to nothing": lambda folder: link(folder / "link", folder / "gone"),
}


@pytest.mark.parametrize("what", NO_FILE)
@pytest.mark.parametrize("script", FILES)
def test_no_file_can_be_written_there(script: str, what: str, tmp_path: Path) -> None:
    refused(script, FILES[script], NO_FILE[what](tmp_path))


@pytest.mark.parametrize("what", NO_FOLDER)
@pytest.mark.parametrize("script", FOLDERS)
def test_no_folder_can_be_there(script: str, what: str, tmp_path: Path) -> None:
    refused(script, FOLDERS[script], NO_FOLDER[what](tmp_path))


def refused(script: str, flags: list[str], path: Path) -> None:
    with pytest.raises(UserError) as raised:
        parsed(script, [*flags[1:], flags[0], str(path)])
    assert flags[0] in str(raised.value)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("what", NO_FOLDER)
def test_the_folder_of_a_training(what: str, tmp_path: Path) -> None:
    path = NO_FOLDER[what](tmp_path)
    for folder, elsewhere in ((path, []), (tmp_path / "good", [path])):
        with pytest.raises(UserError, match=r"^\S.*: ") as raised:
            RunFolder(folder, {}, kind="sft", flag="--output_dir", replaces=True, elsewhere=elsewhere)
        assert str(path) in str(raised.value)


@pytest.mark.parametrize("ending", ["", ".lock", ".journal.jsonl", ".manifest.json"])
@pytest.mark.parametrize("what", ["a FIFO", "a folder", "a link to a device"])
def test_the_files_of_a_run(what: str, ending: str, tmp_path: Path) -> None:
    """Refused when the run opens them, whichever flag or default named them; nothing waits for a FIFO's other end."""
    (tmp_path / "other").mkdir()
    NO_FILE[what](tmp_path / "other").rename(tmp_path / f"a.jsonl{ending}")
    with (
        pytest.raises(UserError, match=r"a\.jsonl.*: is a (FIFO|folder|device); give a file"),
        RunLock(tmp_path / "a.jsonl"),
    ):
        Store(tmp_path / "a.jsonl", {})


@pytest.mark.parametrize("what", NO_FILE)
def test_nothing_is_written_there(what: str, tmp_path: Path) -> None:
    with pytest.raises(UserError):
        write_atomically(NO_FILE[what](tmp_path), b"new")


def test_links_to_files_and_folders_are_followed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    (tmp_path / "folder").mkdir()
    check_file(link(tmp_path / "a", tmp_path / "file"))
    check_folder(link(tmp_path / "b", tmp_path / "folder"))
    check_file(tmp_path / "b" / "new" / "a.jsonl")
    check_file(link(tmp_path / "c", tmp_path / "folder" / "new"))
    write_atomically(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new"


def test_every_flag_that_names_an_output_is_here() -> None:
    """Flags of argparse scripts by name; trainings are tested by their folder, study.table by its own test."""
    words = ("output", "result_dir", "save_path")
    for script in ("inference", "label", "distill.select.__main__", "eval.common", "prm.score", "prm.evaluate"):
        source = Path(str(importlib.import_module(script).__file__)).read_text(encoding="utf-8")
        lines = [
            line
            for line in source.splitlines()
            if "add_argument" in line and any(f'"--{word}' in line for word in words)
        ]
        assert lines
        assert all("cli.output_" in line for line in lines), lines
