"""One writer per results file, and no engine process outliving its run."""

import fcntl
import logging
import os
import secrets
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Literal

import msgspec
import psutil
from msgspec import Struct

from agentark.files import append_to, check_file, writing
from agentark.types import RunError, UserError

POLL_SECONDS = 0.05
TOKENS = "AGENTARK_RUNS"
"""Environment variable: start tokens of the runs that a process was started by, the outermost first."""
KEEPS_ENVIRONMENT = "SPT_NOENV"
"""Environment variable: a process that gives itself a title, as vLLM's and Ray's do, leaves its tokens readable."""
logger = logging.getLogger(__name__)


class _Process(Struct, frozen=True):
    pid: int
    started: float

    def alive(self) -> psutil.Process | None:
        """The process, if it is still the same one."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started) < 1.0 and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return None
        return process if same else None


class _Owner(Struct, frozen=True):
    host: str
    process: _Process
    engine: tuple[_Process, ...] = ()
    token: str | None = None
    """In the environment of every process the run starts; None in lock files from before tokens."""

    def started(self, process: psutil.Process, lock: IO[bytes]) -> bool:
        """Whether a process that the file names is one of the run's: the file alone is not believed.

        A process that the run started has its token. One that it forked, as vLLM does its engine, shows the run's own
        environment, from before the token; but it has the lock file open as the run had.
        """
        try:
            tokens = process.environ().get(TOKENS, "").split(",")
            return (bool(self.token) and self.token in tokens) or _holds(process, lock)
        except (psutil.Error, OSError):
            return False


def _holds(process: psutil.Process, lock: IO[bytes]) -> bool:
    """Whether a process has this file open to append to it."""
    ours = os.fstat(lock.fileno())
    return any(
        file.mode == "a+" and os.path.samestat(os.stat(file.path), ours)
        for file in process.open_files()
        if os.path.exists(file.path)
    )


class RunLock:
    """One writer per results file; the next owner ends engine processes that a killed run left behind.

    A POSIX record lock holds the file (released by the kernel when its owner dies, not inherited by the
    engine process). Where the file system has none, the pid in the file decides, and a warning says so.
    """

    def __init__(self, results: Path) -> None:
        self.path = results.with_name(results.name + ".lock")
        self._stream: IO[bytes] | None = None
        self._token = secrets.token_hex(8)
        self._before = os.environ.get(TOKENS)

    def __enter__(self) -> "RunLock":
        self._stream = self._open()
        owner = self._read()
        mechanism: Literal["lock", "pid"] = "lock"
        try:
            fcntl.lockf(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise self._refusal(owner) from None
        except OSError as error:
            mechanism = "pid"
            logger.warning("%s: no file locks here (%s); the pid in the file decides", self.path, error.strerror)
        if os.fstat(self._stream.fileno()).st_nlink == 0:  # its owner removed it between our open and our lock
            self._stream.close()
            return self.__enter__()
        if owner is not None:
            if mechanism == "pid" and (owner.host != socket.gethostname() or owner.process.alive()):
                raise self._refusal(owner)
            self._reap(owner)
        try:
            self._write(())
        except (RunError, UserError):
            self.path.unlink()
            self._stream.close()
            raise
        os.environ[TOKENS] = ",".join(filter(None, (self._before, self._token)))
        os.environ.setdefault(KEEPS_ENVIRONMENT, "1")
        return self

    def __exit__(self, *exc: object) -> None:
        assert self._stream is not None
        os.environ.pop(TOKENS)
        if self._before is not None:
            os.environ[TOKENS] = self._before
        self.path.unlink(missing_ok=True)
        self._stream.close()

    def _open(self) -> IO[bytes]:
        check_file(self.path)
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            return self.path.open("ab+", buffering=0)

    def _refusal(self, owner: _Owner | None) -> UserError:
        who = f"process {owner.process.pid} on {owner.host}" if owner else "another process"
        return UserError(f"{self.path}: {who} is writing these results; wait for it or use another output path")

    def _read(self) -> _Owner | None:
        assert self._stream is not None
        self._stream.seek(0)
        try:
            return msgspec.json.decode(self._stream.read(), type=_Owner)
        except msgspec.DecodeError:
            return None  # empty: a new lock

    def _write(self, engine: tuple[_Process, ...]) -> None:
        assert self._stream is not None
        me = psutil.Process()
        owner = _Owner(socket.gethostname(), _Process(me.pid, me.create_time()), engine, self._token)
        with writing(self.path):
            self._stream.truncate(0)
            append_to(self._stream.fileno(), msgspec.json.encode(owner))

    def _reap(self, owner: _Owner) -> None:
        if owner.host != socket.gethostname():
            return
        named = [process for entry in owner.engine if (process := entry.alive())]
        assert self._stream is not None
        orphans = [process for process in named if owner.started(process, self._stream)]
        for process in named:
            if process not in orphans:
                logger.warning("%s names process %d, which this run did not start: left alone", self.path, process.pid)
        for process in orphans:
            logger.warning("ending process %d, left behind by the killed run %d", process.pid, owner.process.pid)
            process.terminate()
        for process in psutil.wait_procs(orphans, timeout=10)[1]:
            process.kill()

    @contextmanager
    def engine_start(self) -> Iterator[None]:
        """While an engine starts, keep the lock file naming every process it spawns."""
        started = threading.Event()

        def watch() -> None:
            with suppress(RunError, UserError):  # the last note below meets it again
                while not started.wait(POLL_SECONDS):
                    self.note_engine()

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            started.set()
            watcher.join()
            self.note_engine()

    def note_engine(self) -> None:
        """Write this process's children, with their start times, to the lock file."""
        children = []
        for child in psutil.Process().children(recursive=True):
            try:
                children.append(_Process(child.pid, child.create_time()))
            except psutil.NoSuchProcess:
                continue
        self._write(tuple(children))
