"""The last line of a run, about what was skipped; and what continuous integration installs so that little is."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import what_was_skipped

ROOT = Path(__file__).parents[1]
SUITE = """
import pytest

@pytest.mark.parametrize("k", range(3))
@pytest.mark.skip(reason="no Chromium here (set CHROMIUM, or install one)")
def test_report(k): ...

@pytest.mark.parametrize("k", range(2))
def test_sandbox(k): pytest.skip("bwrap: bwrap is not installed")

def test_other(): pytest.skip("the package x is not installed")

@pytest.mark.slow
def test_slow(): ...

def test_good(): ...
"""


def test_the_last_line_of_a_run_groups_what_was_skipped(tmp_path: Path) -> None:
    (tmp_path / "test_made_up.py").write_text(SUITE)
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "."]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == (
        "skipped: 3 without Chromium (apt-get install chromium); 2 without bubblewrap (apt-get install bubblewrap); "
        "1 (the package x is not installed); 1 slow (make test-slow)"
    )


def test_nothing_skipped_nothing_said() -> None:
    assert what_was_skipped([], 0) == ""


def script(path: Path, body: str) -> None:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("apt", "out", "err"),
    [
        (None, "", "could not be installed with apt-get, their tests are skipped: chromium bubblewrap\n"),
        ("exit 100", "", "could not be installed with apt-get, their tests are skipped: chromium bubblewrap\n"),
        ('echo "$@" >> "$ASKED"', "installed: chromium bubblewrap\n", ""),
    ],
)
def test_packages_are_installed_where_apt_can_and_never_an_error(
    apt: str | None, out: str, err: str, tmp_path: Path
) -> None:
    for name in ("env", "sudo"):
        script(tmp_path / name, 'while case "$1" in -*|*=*) true;; *) false;; esac; do shift; done; exec "$@"')
    script(tmp_path / "id", "echo 1000")
    if apt is not None:
        script(tmp_path / "apt-get", apt)
    asked = tmp_path / "asked"
    environment = {"PATH": str(tmp_path), "ASKED": str(asked)}
    bash = shutil.which("bash")
    assert bash is not None
    done = subprocess.run(
        [bash, str(ROOT / ".ci" / "packages")], env=environment, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, out, err)
    if out:
        assert asked.read_text().splitlines() == [
            "update -qq",
            "install -qq -y --no-install-recommends chromium bubblewrap",
        ]


def test_continuous_integration_runs_check_and_test() -> None:
    assert (ROOT / ".ci" / "run").read_text().splitlines()[-2:] == ["bash .ci/packages", "make check test"]
