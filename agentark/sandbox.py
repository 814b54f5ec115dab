"""The only place where model-written code runs.

A program gets a fresh interpreter under an unprivileged user id, in user, mount, process, network, IPC, cgroup and
host-name namespaces of its own. It sees the standard library and the system's shared libraries, read-only, a private
folder of bounded size, four harmless devices, and nothing else: no home, no repository, no /proc, no shell, no network,
no variable of our environment. Without such isolation nothing runs, unless `unsafe_no_isolation` asks for it.

Tests of a solution run in two processes: the solution in one, the tests in another one that it can neither read nor
trace. Only plain data crosses between them, so nothing a solution prints, patches, raises or overloads makes a wrong
answer compare equal to the right one.

`agentark/sandbox_inside.py` is what the launched interpreter runs; this module launches, feeds and watches it.
"""

import ast
import asyncio
import builtins
import contextlib
import functools
import glob
import inspect
import json
import math
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath
from typing import Any, Literal, TypeVar

from msgspec import Struct, structs

from agentark import sandbox_inside as inside
from agentark.sandbox_memory import watch_sum
from agentark.scratch import Folder
from agentark.types import RunError, UserError

Isolation = Literal["bwrap", "namespaces", "none"]
Status = Literal["ok", "failed", "timeout", "memory", "output"]
_T = TypeVar("_T")


class SandboxUnavailable(UserError):
    """Model-written code would run unprotected here, so it does not run."""


class Limits(Struct, frozen=True):
    """Limits of one run. CPU time is bounded by the wall time: each process gets that many seconds and one more."""

    memory: int = 1 << 30
    """Bytes of address space of each process; all of them together: times `processes` (without isolation: watched).
    What no address space shows (memfds, shared memory segments, queues) is refused."""
    processes: int = 4
    """Processes and threads alive at once. Without isolation: some 250 more, and no bound for root."""
    file_size: int = 16 << 20
    """Bytes of one file."""
    disk: int = 64 << 20
    """Bytes of all files (they are held in memory). Without isolation: counted with the memory, and files in memory
    elsewhere (/dev/shm) are refused where the kernel has Landlock."""
    open_files: int = 64
    """File descriptors of one process."""
    output: int = 1 << 20
    """Bytes kept of stdout, and of stderr; a program that writes more is killed."""


DEFAULT_LIMITS = Limits()


class Execution(Struct, frozen=True):
    """The result of running one program."""

    status: Status
    """`ok`: it ended with code 0, which any program can bring about; only `run_tests` says whether code is right."""
    returncode: int | None
    """Exit code, minus the signal that killed it, or None when we ended it."""
    stdout: str
    stderr: str
    seconds: float
    """Wall time, the start of the sandbox included."""
    isolation: Isolation


class Verdicts(Struct, frozen=True):
    """Which tests a solution passed."""

    passed: list[bool]
    errors: list[str | None]
    """Why not, in a line; None for a test that passed."""
    seconds: float
    isolation: Isolation


async def run_python(
    code: str,
    *,
    stdin: str = "",
    timeout: float = 10,
    limits: Limits = DEFAULT_LIMITS,
    files: Mapping[str, str] = {},
    unsafe_no_isolation: bool = False,
) -> Execution:
    """Run one program to its end, or until it oversteps a limit; nothing of it is left when this returns.

    Args:
        code: the program, started as a script; only the standard library can be imported.
        stdin: what it can read; then end of file.
        timeout: seconds of wall time.
        limits: what else is bounded.
        files: texts by relative path, laid out in its working folder beforehand (modules among them can be imported).
        unsafe_no_isolation: go on without isolation where there is none; the result says so.

    Raises:
        SandboxUnavailable: nothing here can isolate code.
        RunError: the sandbox cannot be ended.
        UserError: a file's path leaves the working folder.
    """
    for path in files:
        if not path or "\0" in path or PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
            raise UserError(f"files: {path!r} is not a path inside the sandbox's working folder; use a relative one")
    spec = {"files": {**files, "main.py": code}, "stdin": stdin}
    return (await _run(spec, timeout, limits, await _level(unsafe_no_isolation)))[0]


async def run_tests(
    solution: str,
    tests: Sequence[str],
    *,
    setup: str = "",
    timeout: float = 10,
    limits: Limits = DEFAULT_LIMITS,
    unsafe_no_isolation: bool = False,
) -> Verdicts:
    """Which of the tests the solution passes, all of them in one sandbox.

    Each test starts from a new namespace with the solution's global names and whatever `setup` defines over them; a
    solution that hangs in one test or ends its process is started again for the next. A name of Python's builtins in a
    test means the builtin, unless the test names nothing else; a module of the standard library in it (`sys.maxsize`)
    is the module. Objects that are not plain data can be passed around,
    called, iterated and asked for attributes, but never equal plain data. What the solution prints is dropped.

    Args:
        solution: model-written code that defines functions or classes.
        tests: code that raises where the solution is wrong. From the dataset: it is confined too, but its verdict is
            taken on trust.
        setup: run before each test, in its namespace: what the question gives (imports, helpers).
        timeout: seconds of wall time for each test.
        limits: of each process; the tests have two.

    Raises:
        SandboxUnavailable: nothing here can isolate code.
    """
    spec = {
        "solution": solution,
        "setup": setup,
        "tests": [[test, *_names_of(f"{setup}\n{test}")] for test in tests],
        "seconds": timeout,
    }
    ended, messages = await _run(spec, timeout * (len(tests) + 1) + 5, limits, await _level(unsafe_no_isolation))
    errors: list[str | None] = [f"no verdict: {ended.status}"] * len(tests)
    for message in messages:
        if "test" in message:
            errors[message["test"]] = message["failed"]
    return Verdicts([error is None for error in errors], errors, ended.seconds, ended.isolation)


def run_python_sync(code: str, **options: Any) -> Execution:
    """`run_python` for code without an event loop (it blocks)."""
    return _blocking(run_python(code, **options))


def run_tests_sync(solution: str, tests: Sequence[str], **options: Any) -> Verdicts:
    """`run_tests` for code without an event loop (it blocks)."""
    return _blocking(run_tests(solution, tests, **options))


def isolation_level() -> Isolation:
    """The isolation that works here, found by trying it once: `none` means that the sandbox refuses."""
    return _probe()[0]


_REMEDY = (
    "install bubblewrap, or allow user namespaces (sysctl user.max_user_namespaces=10000, and 0 for "
    "kernel.apparmor_restrict_unprivileged_userns; a container needs a seccomp profile that allows unshare and mount), "
    "or accept the risk with --unsafe_no_isolation"
)
_PROBE = "import os; print(os.getuid(), os.getpid() < 9, sorted({'home', 'var', 'sys'} & {*os.listdir('/')}))"
_GRACE = 5.0
"""Seconds in which a killed sandbox must be gone."""


def _blocking(work: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine from anywhere, even below a running event loop."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


async def _level(unsafe_no_isolation: bool) -> Isolation:
    level, reason = await asyncio.to_thread(_probe)
    if level == "none" and not unsafe_no_isolation:
        raise SandboxUnavailable(f"model-written code cannot be isolated on this machine ({reason}): {_REMEDY}")
    return level


@functools.cache
def _probe() -> tuple[Isolation, str]:
    """The first level that works, and why the earlier ones do not."""
    if sys.platform != "linux":
        return "none", f"{sys.platform} has no namespaces"
    reasons: list[str] = []
    candidates: tuple[Isolation, ...] = ("bwrap", "namespaces")
    for level in candidates:
        failure = _try(level)
        if failure is None:
            return level, "; ".join(reasons)
        reasons.append(f"{level}: {failure}")
    return "none", "; ".join(reasons)


@functools.cache
def _try(level: Isolation) -> str | None:
    """Run a program at this level that reports what it sees; None if it is closed in, else the fault."""
    if level == "bwrap" and shutil.which("bwrap") is None:
        return "not installed"
    try:
        found = _blocking(_run({"files": {"main.py": _PROBE}}, 20, DEFAULT_LIMITS, level))[0]
    except (SandboxUnavailable, OSError) as error:
        return str(error)
    if found.stdout == "65534 True []\n":
        return None
    return f"{found.status}: {found.stdout[-200:]}{found.stderr[-200:]}".strip()


async def _run(
    spec: dict[str, Any], seconds: float, limits: Limits, level: Isolation
) -> tuple[Execution, list[dict[str, Any]]]:
    """Launch, feed and watch one sandbox; the messages are what its inside reports about the program or the tests."""
    ours, theirs = socket.socketpair()
    folder = Folder("sandbox") if level == "none" else None
    place = folder.name if folder else "/tmp"
    spec |= {
        "level": level,
        "parent": os.getpid(),
        "view": _view(),
        "limits": structs.asdict(limits) | {"cpu": math.ceil(seconds) + 1},
        "ours": 2 + ("tests" in spec) - (os.geteuid() == 0) if level != "none" else 250 + _tasks_of_user(),
        "python": _python(),
        "place": place,
        "env": {"HOME": place, "TMPDIR": place, "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "0"},
        "serve": _source(inside.codec, inside.serve),
    }
    start = time.perf_counter()
    try:
        process = await asyncio.create_subprocess_exec(
            *_command(level, limits),
            stdin=theirs.fileno(),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={"LC_ALL": "C.UTF-8"},
            cwd="/",
            start_new_session=True,
        )
        theirs.close()
        stdout, stderr, reports, stopped = await _watch(process, ours, spec, seconds, limits, level)
    finally:
        ours.close()
        theirs.close()
        if folder is not None:
            folder.cleanup()
    messages = [json.loads(line) for line in reports.splitlines()]
    report = {key: value for message in messages for key, value in message.items()}
    said = stderr.decode(errors="replace")
    if "error" in report or not (report or stopped):
        raise SandboxUnavailable(report.get("error") or f"the launcher ended: {said[-500:].strip() or 'no message'}")
    code = None if stopped else report.get("returncode", -signal.SIGKILL)
    status = stopped or _status(code, said)
    took = time.perf_counter() - start
    return Execution(status, code, stdout.decode(errors="replace"), said, took, level), messages


async def _watch(
    process: asyncio.subprocess.Process,
    channel: socket.socket,
    spec: dict[str, Any],
    seconds: float,
    limits: Limits,
    level: Isolation,
) -> tuple[bytes, bytes, bytes, Status | None]:
    """Feed a sandbox and make sure that it ends: (stdout, stderr, what its inside reports, why it was stopped)."""
    stopped: list[Status] = []

    def stop(why: Status) -> None:
        """Process 1 dies with its launcher, and all others with process 1; without isolation the launcher kills."""
        if not stopped:
            stopped.append(why)
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM if level == "none" else signal.SIGKILL)

    assert process.stdout is not None
    assert process.stderr is not None
    work = asyncio.gather(
        _keep(process.stdout, limits.output, stop),
        _keep(process.stderr, limits.output, stop),
        _converse(channel, json.dumps(spec).encode(), stop),
        process.wait(),
    )
    most, place = limits.memory * limits.processes, spec["place"]
    memory = watch_sum(process.pid, place, most, lambda: stop("memory")) if level == "none" else asyncio.sleep(0)
    watching = asyncio.ensure_future(memory)
    try:
        await asyncio.wait({work}, timeout=seconds)
    finally:
        watching.cancel()
        if not work.done() or process.returncode is None:
            stop("timeout")
            await asyncio.wait({work}, timeout=_GRACE)
        if not work.done():  # a program that is not isolated can stop or kill its launcher
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await asyncio.wait({work}, timeout=_GRACE)
    if not work.done():
        work.cancel()
        raise RunError(f"a sandbox ({level}) had not ended {_GRACE:.0f} s after it was killed")
    stdout, stderr, reports, _ = work.result()
    return stdout, stderr, reports, stopped[0] if stopped else None


def _tasks_of_user() -> int:
    """Processes and threads that the kernel counts with a program's when it has no user namespace of its own.

    The margin is for other sandboxes that are about to start.
    """
    tasks = 0
    for process in glob.glob("/proc/[0-9]*"):
        with contextlib.suppress(OSError):
            tasks += len(os.listdir(f"{process}/task")) if os.stat(process).st_uid == os.getuid() else 0
    return tasks


def _status(code: int | None, stderr: str) -> Status:
    if code == -signal.SIGXCPU:
        return "timeout"
    last = stderr.rstrip().rpartition("\n")[2]
    return "ok" if code == 0 else "memory" if last.startswith("MemoryError") else "failed"


async def _keep(stream: asyncio.StreamReader, most: int, stop: Callable[[Status], None]) -> bytes:
    """Read to the end; keep the first `most` bytes, and stop a program that writes more."""
    kept = bytearray()
    while chunk := await stream.read(1 << 16):
        if len(kept) + len(chunk) > most:
            stop("output")
        kept += chunk[: most - len(kept)]
    return bytes(kept)


async def _converse(channel: socket.socket, spec: bytes, stop: Callable[[Status], None]) -> bytes:
    """Say what to do; return what the inside (never the program) reports."""
    reader, writer = await asyncio.open_unix_connection(sock=channel)
    try:
        writer.write(spec)
        await writer.drain()
        writer.write_eof()
        return await _keep(reader, 1 << 24, stop)
    except ConnectionError:
        return b""
    finally:
        writer.close()


def _command(level: Isolation, limits: Limits) -> list[str]:
    before = (inside.enter, inside.confine, inside.forbid, inside.drop)
    program = _source(inside.codec, inside.serve, inside.judge, *before, inside.launch)
    launcher = [_python(), "-I", "-S", "-c", f"{program}launch()\n"]
    if level != "bwrap":
        return launcher
    parents = {str(parent) for path, _ in _view() for parent in PurePosixPath(path).parents if str(parent) != "/"}
    folders = [("--perms", "755", "--dir", parent) for parent in sorted(parents)]  # those bwrap makes itself are closed
    view = [
        ("--symlink", link, path) if link else ("--dev-bind" if path.startswith("/dev/") else "--ro-bind", path, path)
        for path, link in _view()
    ]
    user = ["--unshare-user", "--disable-userns", "--uid", "65534", "--gid", "65534"]
    return [
        *(shutil.which("bwrap") or "bwrap", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"),
        *("--unshare-cgroup-try", "--die-with-parent", "--hostname", "sandbox", "--proc", "/proc"),
        *(("--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID") if os.geteuid() == 0 else user),
        *("--perms", "1777", "--size", str(limits.disk), "--tmpfs", "/tmp"),
        *(word for words in (*folders, *view) for word in words),
        *("--remount-ro", "/", "--", *launcher),
    ]


@functools.cache
def _python() -> str:
    """The interpreter behind the virtual environment, without symbolic links."""
    return os.path.realpath(getattr(sys, "_base_executable", sys.executable))


@functools.cache
def _view() -> list[tuple[str, str | None]]:
    """The paths that a program may see, each with its target where it is a symbolic link."""
    prefix = os.path.realpath(sys.base_prefix)
    folders = ["/lib", "/lib64", "/usr/lib", "/usr/lib64", f"{prefix}/lib", f"{prefix}/lib64", "/etc/ld.so.cache"]
    devices = [f"/dev/{name}" for name in ("null", "zero", "random", "urandom")]
    view: list[tuple[str, str | None]] = []
    for path in (*folders, _python(), *devices):
        known = any(path == other or path.startswith(f"{other}/") for other, _ in view)
        if os.path.exists(path) and not known:
            view.append((path, os.readlink(path) if os.path.islink(path) else None))
    return view


@functools.cache
def _source(*functions: Callable[..., Any]) -> str:
    return "from __future__ import annotations\n" + "\n".join(map(inspect.getsource, functions))


def _names_of(code: str) -> tuple[list[str], list[str]]:
    """Names in a test that Python has as well: (the solution's functions after all, modules of the library).

    Builtin names mean the solution's functions in a test that names nothing else (`sum(1, 2) == 4`).
    """
    try:
        nodes = list(ast.walk(ast.parse(code)))
    except (SyntaxError, ValueError, RecursionError):
        return [], []
    names = {node.id for node in nodes if isinstance(node, ast.Name)}
    bound = {node.id for node in nodes if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)}
    bound |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    bases = [node.value for node in nodes if isinstance(node, ast.Attribute)]
    modules = {base.id for base in bases if isinstance(base, ast.Name)} & (sys.stdlib_module_names - bound)
    return [] if names - set(dir(builtins)) else sorted(names), sorted(modules)
