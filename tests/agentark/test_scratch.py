"""Temporary folders and files: held ones stay, and what a kill left goes with the next."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from agentark import scratch

CODE = """
import sys
from agentark import scratch
folder = scratch.Folder("test")
descriptor, name = scratch.file("test")
print(folder.name, name, flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def names(place: Path) -> list[str]:
    return sorted(path.name for path in place.iterdir())


def aged(place: Path, seconds: float = 2 * scratch.SECONDS) -> None:
    for path in place.iterdir():
        os.utime(path, (time.time() - seconds,) * 2, follow_symlinks=False)


def test_what_a_kill_left_is_removed_by_the_next(place: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", CODE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    folder, log = (Path(name) for name in process.stdout.readline().split())
    made = sorted((folder.name, log.name))
    assert names(place) == made
    (folder / "inside").write_text("x")
    aged(place)
    scratch.sweep("test")
    assert names(place) == made, "held"
    process.kill()
    process.wait()
    scratch.sweep("test")
    assert names(place) == []


def test_only_old_ones_of_the_kind_are_removed(place: Path) -> None:
    elsewhere = place / "elsewhere"
    elsewhere.mkdir()
    (place / "agentark-test-link").symlink_to(elsewhere)
    os.mkfifo(place / "agentark-test-fifo")
    for name in ("agentark-test-old", "agentark-other-old", "mine"):
        (place / name).mkdir()
    aged(place)
    (place / "agentark-test-new").mkdir()
    scratch.sweep("test")
    assert names(place) == ["agentark-other-old", "agentark-test-link", "agentark-test-new", "elsewhere", "mine"]


def test_a_folder_is_removed_at_its_end(place: Path) -> None:
    open_files = len(os.listdir("/proc/self/fd"))
    with scratch.Folder("test") as name:
        Path(name, "inside").write_text("x")
        assert len(names(place)) == 1
    assert names(place) == []
    folder = scratch.Folder("test", str(place))
    folder.cleanup()
    folder.cleanup()
    assert names(place) == []
    assert len(os.listdir("/proc/self/fd")) == open_files
