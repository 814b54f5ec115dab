"""The decisions of install.py: stack, settings handed to uv, torch wheel, stamp. `make .venv` does the building."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from agentark import install


@pytest.mark.parametrize(
    ("asked", "gpu", "installed", "stack", "reason"),
    [
        (None, None, None, "cpu", "no NVIDIA GPU"),
        (None, "NVIDIA H100", None, "gpu", "finds NVIDIA H100"),
        ("cpu", "NVIDIA H100", None, "cpu", "--stack"),
        ("gpu", None, "cpu", "gpu", "--stack"),
        (None, None, "gpu", "gpu", "what .venv holds, although no NVIDIA GPU"),
        (None, "NVIDIA H100", "cpu", "cpu", "--stack gpu changes it"),
        (None, None, "cpu", "cpu", "no NVIDIA GPU"),
    ],
)
def test_choice_of_stack(asked: str | None, gpu: str | None, installed: str | None, stack: str, reason: str) -> None:
    chosen, why = install.choose_stack(asked, gpu, installed)
    assert chosen == stack
    assert reason in why


@pytest.mark.parametrize(
    ("script", "name"),
    [
        ("echo 'GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-1234)'", "NVIDIA A100-SXM4-40GB"),
        ("echo 'No devices found.'", None),
        ("echo 'GPU 0: NVIDIA A100 (UUID: GPU-1234)'; exit 9", None),
        ("echo 'driver mismatch' >&2; exit 18", None),
    ],
)
def test_gpu_is_found_only_where_nvidia_smi_lists_one(
    script: str, name: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = tmp_path / "nvidia-smi"
    command.write_text(f"#!/bin/sh\n{script}\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert install.gpu_name() == name


def test_no_nvidia_smi_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert install.gpu_name() is None


LISTING = """:env:.find-links='/from/env'
global.cert='/a/ca.crt'
global.extra-index-url='https://one.example/simple https://user:secret@two.example/simple'
global.find-links='/from/global\\n/other'
install.no-index='false'
download.find-links='/not/for/install'
WARNING: something else
"""


def test_pip_settings_later_sections_win() -> None:
    assert install.pip_settings(LISTING) == {
        "cert": "/a/ca.crt",
        "extra-index-url": "https://one.example/simple https://user:secret@two.example/simple",
        "find-links": "/from/env",
        "no-index": "false",
    }
    assert install.pip_settings("") == {}


def test_uv_gets_what_pip_has_and_nothing_else() -> None:
    settings = {"find-links": "/a\n/b", "extra-index-url": "https://x.example https://y.example", "no-index": "0"}
    assert install.uv_environment(settings, {}) == {
        "UV_FIND_LINKS": "/a,/b",
        "UV_INDEX": "https://x.example https://y.example",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
    }
    assert install.uv_environment({}, {}) == {}
    assert install.uv_environment({"no-index": "true"}, {}) == {"UV_NO_INDEX": "1"}


def test_what_the_user_set_for_uv_stays() -> None:
    settings = {"index-url": "https://pip.example", "find-links": "/pip", "extra-index-url": "https://more.example"}
    environ = {"UV_INDEX_URL": "https://uv.example", "UV_FIND_LINKS": "/uv", "UV_INDEX": "https://mine.example"}
    assert install.uv_environment(settings, environ) == {"UV_INDEX_STRATEGY": "unsafe-best-match"}


def test_find_links_folders_are_the_local_ones(tmp_path: Path) -> None:
    folder, spaced = tmp_path / "wheels", tmp_path / "more wheels"
    folder.mkdir()
    spaced.mkdir()
    links = f"{folder} {spaced.as_uri()} https://host.example/list.html {tmp_path}/none"
    assert install.find_links_folders({"find-links": links}) == [folder, spaced]
    assert install.find_links_folders({}) == []


def test_torch_wheel_must_fit_version_python_and_machine(tmp_path: Path) -> None:
    for name in (
        "torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl",
        "torch-2.13.0-cp312-cp312-manylinux_2_28_x86_64.whl",
        "torch-2.13.0+cpu-cp313-cp313-manylinux_2_28_aarch64.whl",
        "torch-2.12.0+cpu-cp313-cp313-manylinux_2_28_x86_64.whl",
    ):
        (tmp_path / name).touch()
    found = install.find_torch_wheel([tmp_path / "none", tmp_path], "2.13.0", "cp311", "x86_64")
    assert found == tmp_path / "torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl"
    assert install.find_torch_wheel([tmp_path], "2.13.0", "cp312", "x86_64") is None
    assert install.find_torch_wheel([tmp_path], "2.13.0", "cp313", "x86_64") is None
    assert install.find_torch_wheel([], "2.13.0", "cp311", "x86_64") is None


def test_torch_pin() -> None:
    assert install.torch_pin("# torch==1.0\ntorch==2.13.0\ntorchdata\n") == "2.13.0"
    with pytest.raises(install.StepError):
        install.torch_pin("torchdata==1\n")


def test_fingerprint_follows_stack_and_files(tmp_path: Path) -> None:
    one, two = tmp_path / "one.txt", tmp_path / "two.txt"
    one.write_text("a")
    two.write_text("b")
    first = install.fingerprint("cpu", [one, two])
    assert install.fingerprint("cpu", [one, two]) == first
    assert install.fingerprint("gpu", [one, two]) != first
    two.write_text("c")
    assert install.fingerprint("cpu", [one, two]) != first


@pytest.mark.parametrize("text", ["", "{", "[]", '{"stack": "tpu", "fingerprint": "x"}', '{"stack": "cpu"}'])
def test_a_damaged_stamp_is_no_stamp(text: str, tmp_path: Path) -> None:
    stamp = tmp_path / "stamp"
    assert install.read_stamp(stamp) is None
    stamp.write_text(text)
    assert install.read_stamp(stamp) is None


class Machine:
    """install.py over an empty folder, with every command and interpreter faked."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.commands: list[str] = []
        self.fails_at: str | None = None
        self.killed_at: str | None = None
        for name in {name for names in install.STACKS.values() for name in names}:
            (root / name).write_text("torch==2.13.0\n")
        venv = root / ".venv"
        self.root, self.stamp, self.building = root, venv / ".agentark-stack", venv / ".agentark-building"
        monkeypatch.setattr(install, "ROOT", root)
        monkeypatch.setattr(install, "VENV", venv)
        monkeypatch.setattr(install, "PYTHON", venv / "bin" / "python")
        monkeypatch.setattr(install, "STAMP", self.stamp)
        monkeypatch.setattr(install, "BUILDING", self.building)
        monkeypatch.setattr(install, "gpu_name", lambda: None)
        monkeypatch.setattr(install, "sys_tag", lambda python: "cp312")
        monkeypatch.setattr(install, "_runs", lambda python: python.exists())
        monkeypatch.setattr(install.Commands, "output", lambda run, command: "")
        monkeypatch.setattr(install.Commands, "_run", lambda run, command: self.run(command))

    def run(self, command: list[str]) -> tuple[int, list[str]]:
        text = " ".join(command)
        self.commands.append(text)
        if "-m venv" in text:
            self.building.unlink(missing_ok=True)
            (self.root / ".venv" / "bin").mkdir(parents=True)
            (self.root / ".venv" / "bin" / "python").touch()
        if self.killed_at and self.killed_at in text:
            raise SystemExit("killed")
        return (1, ["no route to host"]) if self.fails_at and self.fails_at in text else (0, [])

    def install(self, *argv: str) -> tuple[int, list[str]]:
        """Run it; returns the exit code and the commands it ran."""
        self.commands = []
        return install.main(argv), self.commands

    @property
    def new_venvs(self) -> int:
        return sum("-m venv" in command for command in self.commands)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def test_second_run_does_nothing(machine: Machine) -> None:
    code, commands = machine.install()
    assert code == 0
    assert machine.new_venvs == 1
    assert any("requirements-cpu.txt" in command for command in commands)
    assert "-m compileall" in commands[-1]
    assert not machine.building.exists()
    assert machine.install() == (0, [])


def test_changed_requirements_update_in_place(machine: Machine) -> None:
    machine.install()
    (machine.root / "requirements-dev.txt").write_text("pytest==10\n")
    code, commands = machine.install()
    assert code == 0
    assert commands
    assert machine.new_venvs == 0
    assert machine.install() == (0, [])


@pytest.mark.parametrize("step", ["install -q uv", "torch==", "requirements-cpu.txt", "requirements-dev.txt"])
def test_killed_build_is_built_anew(step: str, machine: Machine) -> None:
    machine.killed_at = step
    with pytest.raises(SystemExit):
        machine.install()
    assert install.read_stamp(machine.stamp) is None
    machine.killed_at = None
    assert machine.install()[0] == 0
    assert machine.new_venvs == 1
    assert machine.install() == (0, [])


def test_failed_step_is_shown_and_the_next_run_continues(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    machine.fails_at = "-r " + str(machine.root / "requirements-cpu.txt")
    assert machine.install()[0] == 1
    told = capsys.readouterr().err
    assert "requirements-cpu.txt" in told
    assert "no route to host" in told
    machine.fails_at = None
    assert machine.install()[0] == 0
    assert machine.new_venvs == 0


def test_what_a_link_leads_to_is_not_emptied(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    shared = machine.root / "shared"
    (shared / "bin").mkdir(parents=True)
    (machine.root / ".venv").symlink_to(shared)
    assert machine.install() == (1, [])
    assert f".venv is a link to {shared}, which would be emptied: remove the link" in capsys.readouterr().err
    assert (shared / "bin").is_dir()


def test_moved_folder_is_built_anew(machine: Machine) -> None:
    machine.install()
    stamp = json.loads(machine.stamp.read_text())
    machine.stamp.write_text(json.dumps({**stamp, "root": "/elsewhere"}))
    assert machine.install()[0] == 0
    assert machine.new_venvs == 1


def test_other_stack_is_built_anew(machine: Machine) -> None:
    machine.install()
    code, commands = machine.install("--stack", "gpu")
    assert code == 0
    assert machine.new_venvs == 1
    assert not any("requirements-cpu" in command for command in commands)
    assert machine.install() == (0, [])  # and it stays, although no GPU is found


def test_failing_flash_attn_is_a_warning(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    machine.fails_at = "requirements-flash-attn.txt"
    assert machine.install("--stack", "gpu")[0] == 0
    told = capsys.readouterr().out
    assert "warning: no flash-attn and no openrlhf" in told
    assert "--no-build-isolation -r requirements-flash-attn.txt" in told
    assert json.loads(machine.stamp.read_text())["missing"] == ["requirements-flash-attn.txt"]


def test_without_uv_pip_does_it(machine: Machine) -> None:
    machine.fails_at = "install -q uv"
    code, commands = machine.install()
    assert code == 0
    assert not any("bin/uv" in command or "--torch-backend" in command for command in commands)
    assert any("python -m pip install -r" in command for command in commands)


def test_torch_falls_through_to_the_default_build(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    machine.fails_at = "--torch-backend=cpu"
    code, commands = machine.install()
    assert code == 0
    assert any(command.endswith("torch==2.13.0") and "--torch-backend" not in command for command in commands)
    assert "no CPU build of torch within reach" in capsys.readouterr().out


def test_runs_by_path_past_the_modules_beside_it() -> None:
    """This folder's types.py must not be taken for the standard library's."""
    done = subprocess.run(
        [sys.executable, str(Path(install.__file__)), "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "--stack" in done.stdout
