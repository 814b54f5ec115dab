"""Build `.venv` with the pinned stack: `python3 agentark/install.py` (what `make .venv` runs).

Standard library only, and run by path, before anything of ours can be imported. The GPU stack goes where an
NVIDIA GPU answers, the CPU stack elsewhere. A stamp in `.venv` names what is installed: a second run does nothing
while the requirement files are the same, updates in place when they changed, and builds anew after it was killed
half-way, when the folder was moved, or when the other stack is asked for.

Exit codes: 0 done; 1 a step failed (its command and last lines are shown); 2 wrong Python or wrong flag.
"""

import os
import sys

if not __package__:  # run by path: this folder has a types.py, which must not stand before the standard library's
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry) != os.path.dirname(os.path.abspath(__file__))]

if not (3, 11) <= sys.version_info[:2] <= (3, 13):
    version = ".".join(map(str, sys.version_info[:2]))
    sys.stderr.write("error: AgentArk needs Python 3.11 to 3.13 (trl 1.16 needs 3.11); this is Python " + version)
    sys.stderr.write("; name another: make PYTHON=python3.12\n")
    sys.exit(2)

import argparse
import ast
import collections
import contextlib
import fcntl
import hashlib
import io
import json
import platform
import re
import shlex
import shutil
import subprocess
import time
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / ".agentark-stack"
BUILDING = VENV / ".agentark-building"
"""There while a build runs; still there without a running build: it was killed."""

STACKS = {
    "cpu": ("requirements-cpu.txt", "requirements-cpu-nodeps.txt", "requirements-embedded.txt", "requirements-dev.txt"),
    "gpu": ("requirements.txt", "requirements-flash-attn.txt", "requirements-embedded.txt", "requirements-dev.txt"),
}
"""The requirement files of each stack."""

RECIPE = 2
"""Raise when the steps below change in a way that installed environments must follow."""

TAIL = 20
"""Lines of a failed command that are shown."""


class StepError(Exception):
    """A command failed; the message is what the user should see."""


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Build .venv with the pinned stack.")
    parser.error = lambda message: parser.exit(2, f"error: {message}\n")  # type: ignore[method-assign]
    parser.add_argument("--stack", choices=sorted(STACKS), help="default: gpu where nvidia-smi finds a GPU, else cpu")
    parser.add_argument("--verbose", action="store_true", help="show the output of every command")
    args = parser.parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # in order with stderr, into a pipe too
    try:
        with _one_at_a_time(ROOT) as lock:
            return _bring_up_to_date(args.stack, Commands(args.verbose, lock))
    except StepError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("stopped; run it again to build .venv\n")
        return 130


def _bring_up_to_date(asked: str | None, run: "Commands") -> int:
    """Look at what is there, then do nothing, update it, or build it."""
    stamp = read_stamp(STAMP)
    usable = stamp is not None and stamp.get("root") == str(ROOT) and not BUILDING.exists() and _runs(PYTHON)
    stack, why = choose_stack(asked, gpu_name(), str(stamp["stack"]) if usable and stamp else None)
    files = [ROOT / name for name in STACKS[stack]]
    for file in files:
        if not file.is_file():
            raise StepError(f"{file.name} is missing from {ROOT}")
    wanted = fingerprint(stack, files)
    if usable and stamp and stamp["fingerprint"] == wanted:
        STAMP.touch()
        print(f".venv is up to date ({stack} stack)")
        return 0

    started = time.monotonic()
    print(f"{stack.upper()} stack: {why}")
    in_place = _runs(PYTHON) and not BUILDING.exists() and (stamp is None or (usable and stamp["stack"] == stack))
    if not in_place:
        if VENV.is_symlink():
            raise StepError(f"{VENV.name} is a link to {os.readlink(VENV)}, which would be emptied: remove the link")
        reason = " (the last build did not finish)" if BUILDING.exists() else ""
        with run.step(f"new .venv with Python {platform.python_version()}{reason}"):
            shutil.rmtree(VENV / "bin", ignore_errors=True)  # first, so that half a clearing is seen as none
            run([sys.executable, "-m", "venv", "--clear", str(VENV)])
    BUILDING.touch()
    STAMP.unlink(missing_ok=True)
    try:
        missing = _install(stack, run)
    except StepError:
        BUILDING.unlink(missing_ok=True)  # the installer ended by itself: what is there is whole
        raise
    record = {"stack": stack, "fingerprint": wanted, "root": str(ROOT), "missing": missing}
    partial = STAMP.with_suffix(".partial")
    partial.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, STAMP)
    BUILDING.unlink()
    print(f".venv is ready ({stack} stack, {time.monotonic() - started:.0f} s)")
    return 0


def _install(stack: str, run: "Commands") -> list[str]:
    """Install a stack into the venv. Returns the optional requirement files that failed."""
    settings = pip_settings(run.output([str(PYTHON), "-m", "pip", "config", "list"]))
    with run.step("uv"):
        uv = VENV / "bin" / "uv"
        has_uv = run.succeeds([str(PYTHON), "-m", "pip", "install", "-q", "uv"]) or uv.exists()
    if has_uv:
        install = [str(uv), "pip", "install", "--python", str(PYTHON)]
        run.environment.update(uv_environment(settings, os.environ))
    else:
        print("  uv is not available here: pip does the work, more slowly")
        install = [str(PYTHON), "-m", "pip", "install"]
    run.environment["DS_BUILD_OPS"] = "0"  # deepspeed builds its ops at first use, and only those needed

    missing: list[str] = []
    if stack == "cpu":
        _install_cpu_torch(run, install, has_uv, settings)
        _install_files(run, install, "requirements-cpu.txt")
        _install_files(run, [*install, "--no-deps"], "requirements-cpu-nodeps.txt", "requirements-embedded.txt")
    else:
        _install_files(run, install, "requirements.txt")
        _install_files(run, [*install, "--no-deps"], "requirements-embedded.txt")
        optional = "requirements-flash-attn.txt"
        try:
            _install_files(run, [*install, "--no-build-isolation"], optional)
        except StepError as error:
            missing.append(optional)
            retry = "python -m pip install --no-build-isolation -r " + optional
            print(f"  {error}")
            print(f"warning: no flash-attn and no openrlhf, everything else works; try again: .venv/bin/{retry}")
    _install_files(run, install, "requirements-dev.txt")
    with run.step("bytecode"):  # uv leaves it to the first import, and to each one where PYTHONDONTWRITEBYTECODE is set
        run.succeeds([str(PYTHON), "-m", "compileall", "-q", "-j", "0", str(VENV / "lib")])  # fails on some templates
    return missing


def _install_files(run: "Commands", install: Sequence[str], *names: str) -> None:
    with run.step(" ".join(names)):
        run([*install, *(part for name in names for part in ("-r", str(ROOT / name)))])


def _install_cpu_torch(run: "Commands", install: Sequence[str], has_uv: bool, settings: Mapping[str, str]) -> None:
    """Install a torch without CUDA: from a folder in pip's settings, from torch's own index, or the default build."""
    pin = torch_pin((ROOT / "requirements-cpu.txt").read_text(encoding="utf-8"))
    wheel = find_torch_wheel(find_links_folders(settings), pin, sys_tag(PYTHON), platform.machine())
    if wheel is not None:
        with run.step(f"torch {pin}+cpu (from find-links)"):
            run([*install, str(wheel)])
        return
    if has_uv:
        with run.step(f"torch {pin} (CPU build)"):
            found = run.succeeds([*install, "--torch-backend=cpu", f"torch=={pin}"])
        if found:
            return
    print("  no CPU build of torch within reach: the default one does it, with gigabytes of CUDA beside it")
    with run.step(f"torch {pin}"):
        run([*install, f"torch=={pin}"])


# ---- what is decided, without side effects ----


def choose_stack(asked: str | None, gpu: str | None, installed: str | None) -> tuple[str, str]:
    """Which stack, and why, in words.

    Args:
        asked: `--stack`, if given.
        gpu: the name of the GPU that answers, if any.
        installed: the stack of a working `.venv`. It stays unless asked otherwise: a cluster's login node,
            without a GPU, must not take the GPU stack away.
    """
    if asked is not None:
        return asked, "asked for by --stack"
    found = f"nvidia-smi finds {gpu}" if gpu else "no NVIDIA GPU found (nvidia-smi does not list one)"
    fitting = "gpu" if gpu else "cpu"
    if installed is not None and installed != fitting:
        return installed, f"what .venv holds, although {found}; --stack {fitting} changes it"
    return fitting, found


def fingerprint(stack: str, files: Sequence[Path]) -> str:
    """A hash of everything that decides what is installed."""
    state = hashlib.sha256(f"{RECIPE} {stack}\n".encode())
    for file in files:
        content = file.read_bytes()
        state.update(f"{file.name} {len(content)}\n".encode() + content)
    return state.hexdigest()


def read_stamp(file: Path) -> dict[str, object] | None:
    """The stamp of a finished build; None when there is none or it cannot be read."""
    try:
        stamp = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(stamp, dict) or stamp.get("stack") not in STACKS or "fingerprint" not in stamp:
        return None
    return stamp


def pip_settings(listing: str) -> dict[str, str]:
    """Options from the output of `pip config list`, in pip's order: global, install, environment; the last wins."""
    found: dict[str, dict[str, str]] = {"global": {}, "install": {}, ":env:": {}}
    for line in listing.splitlines():
        match = re.fullmatch(r"(global|install|:env:)\.([\w-]+)=(.+)", line.strip())
        if match:
            section, option, text = match.groups()
            try:
                value = ast.literal_eval(text)
            except (ValueError, SyntaxError):
                value = text
            found[section][option] = str(value)
    return {**found["global"], **found["install"], **found[":env:"]}


def uv_environment(settings: Mapping[str, str], environ: Mapping[str, str]) -> dict[str, str]:
    """pip's settings as uv's environment variables (uv does not read pip's); what the user set for uv stays.

    Variables, not flags: an index address may hold a password, and commands are printed when they fail.
    """
    indexes = settings.get("extra-index-url", "").split()
    wanted = {
        "UV_DEFAULT_INDEX": settings.get("index-url", ""),
        "UV_INDEX": " ".join(indexes),
        "UV_FIND_LINKS": ",".join(settings.get("find-links", "").split()),
        "UV_INDEX_STRATEGY": "unsafe-best-match" if indexes else "",  # pip's rule: the best of all indexes
        "UV_INSECURE_HOST": " ".join(settings.get("trusted-host", "").split()),
        "SSL_CERT_FILE": settings.get("cert", ""),
    }
    if settings.get("no-index", "").lower() in {"1", "true", "yes", "on"}:
        wanted["UV_NO_INDEX"] = "1"
    older = {"UV_DEFAULT_INDEX": "UV_INDEX_URL", "UV_INDEX": "UV_EXTRA_INDEX_URL"}
    return {
        name: value
        for name, value in wanted.items()
        if value and not environ.get(name) and not environ.get(older.get(name, name))
    }


def find_links_folders(settings: Mapping[str, str]) -> list[Path]:
    """The local folders among pip's find-links."""
    folders = []
    for link in settings.get("find-links", "").split():
        path = urllib.parse.unquote(urllib.parse.urlsplit(link).path) if link.startswith("file:") else link
        if Path(path).expanduser().is_dir():
            folders.append(Path(path).expanduser())
    return folders


def find_torch_wheel(folders: Sequence[Path], pin: str, tag: str, machine: str) -> Path | None:
    """A CPU build of this torch for this Python (`cp312`) and machine (`x86_64`) in one of the folders."""
    name = f"torch-{pin}+cpu-{tag}-{tag}-*linux*_{machine}.whl"
    return next((wheel for folder in folders for wheel in sorted(folder.glob(name))), None)


def torch_pin(requirements: str) -> str:
    """The torch version a requirements file pins."""
    match = re.search(r"^torch==(\S+)", requirements, re.MULTILINE)
    if match is None:
        raise StepError("requirements-cpu.txt pins no torch")
    return match.group(1)


# ---- the machine ----


def gpu_name() -> str | None:
    """Name of the first NVIDIA GPU, None where nvidia-smi is missing, fails or lists nothing."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return None
    try:
        done = subprocess.run([command, "-L"], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r"^GPU \d+: (.+?)(?: \(UUID|$)", done.stdout, re.MULTILINE)
    return match.group(1) if done.returncode == 0 and match else None


def sys_tag(python: Path) -> str:
    """The wheel tag of an interpreter, such as `cp312`."""
    code = "import sys; print('cp%d%d' % sys.version_info[:2])"
    return subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def _runs(python: Path) -> bool:
    """Whether an interpreter starts, has a supported version and has pip."""
    code = "import sys, pip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))"
    try:
        return subprocess.run([str(python), "-c", code], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


@contextlib.contextmanager
def _one_at_a_time(folder: Path) -> Iterator[int]:
    """Wait for another build in the same folder to end (where the file system has locks).

    Yields the handle that holds the lock. Commands inherit it: an installer that outlives a killed build still
    counts as a build.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print("another build of .venv is running; waiting for it")
                fcntl.flock(handle, fcntl.LOCK_EX)
        yield handle
    finally:
        os.close(handle)


class Commands:
    """Runs commands one by one; shows only those that fail."""

    def __init__(self, verbose: bool, lock: int) -> None:
        self.verbose = verbose
        self.lock = lock
        self.environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        for stray in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "CONDA_PREFIX"):
            self.environment.pop(stray, None)

    def __call__(self, command: Sequence[str]) -> None:
        """Run a command; StepError with its last lines when it fails."""
        code, tail = self._run(command)
        if code != 0:
            raise StepError("\n".join([f"exit code {code} from: {shlex.join(command)}", *tail]))

    def succeeds(self, command: Sequence[str]) -> bool:
        """Run a command that may fail."""
        return self._run(command)[0] == 0

    def output(self, command: Sequence[str]) -> str:
        """Standard output of a command, empty when it fails."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)
        return done.stdout if done.returncode == 0 else ""

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Say what is being done and how long it took."""
        print(f"  {name} ...", end="\n" if self.verbose else " ", flush=True)
        started = time.monotonic()
        try:
            yield
        except BaseException:
            print("failed", flush=True)
            raise
        print(f"{time.monotonic() - started:.0f} s", flush=True)

    def _run(self, command: Sequence[str]) -> tuple[int, list[str]]:
        tail: collections.deque[str] = collections.deque(maxlen=TAIL)
        with subprocess.Popen(
            command,
            cwd=ROOT,
            env=self.environment,
            pass_fds=[self.lock],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process:
            for line in process.stdout or ():
                tail.append(line.rstrip())
                if self.verbose:
                    print(line, end="", flush=True)
        return process.returncode, [line for line in tail if line]


if __name__ == "__main__":
    sys.exit(main())
