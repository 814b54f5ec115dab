"""Starts, checks and ends one server process on the machine that this runs on.

Ray sends this module and `scratch` to its workers by value, so they need nothing but the standard library: a node of
a cluster must have vLLM, not this project.
"""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from agentark.scratch import Folder

HEALTH_SECONDS = 2.0
STOP_SECONDS = 20.0
LAST_WORDS = 300
GUARD_MODULE = "agentark_guard"
PR_SET_PDEATHSIG = 1


class Replica:
    """A server in a process group of its own, on one port for life.

    Args:
        command: what starts it; `{python}`, `{host}` and `{port}` are filled in here.
        environment: added to this process's own.
        reachable: listen on the node's own address, for the others of its network; else loopback only.
        guard: source of the module that the server can import as `GUARD_MODULE`.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], reachable: bool, guard: str = ""
    ) -> None:
        self._command = list(command)
        self._environment = dict(environment)
        self._guard = guard
        self._address = _own_address() if reachable else "127.0.0.1"
        with socket.socket() as free:
            free.bind((self._address, 0))
            self._port = int(free.getsockname()[1])
        self._process: subprocess.Popen[bytes] | None = None
        self._healthy = False

    def start(self) -> tuple[str, int, int]:
        """(address, port, process id) of the server, started anew; what is left of an earlier one is ended first."""
        self.stop(0.0)
        filled = {"{python}": sys.executable, "{host}": self._address, "{port}": str(self._port)}
        self._folder = Folder("replica")
        self._log = os.path.join(self._folder.name, "log")
        with open(os.path.join(self._folder.name, f"{GUARD_MODULE}.py"), "w", encoding="utf-8") as module:
            module.write(self._guard)
        paths = os.pathsep.join(filter(None, (self._folder.name, os.environ.get("PYTHONPATH"))))
        with open(self._log, "wb") as output:
            self._process = subprocess.Popen(
                [filled.get(word, word) for word in self._command],
                stdout=output,
                stderr=output,
                env={**os.environ, **self._environment, "PYTHONPATH": paths},
                start_new_session=True,
                preexec_fn=_end_with_parent(),
            )
        self._healthy = False
        return self._address, self._port, self._process.pid

    def state(self) -> tuple[str, str]:
        """(`starting`, `healthy` or `dead`, last words of a dead one)."""
        if self._process is None or self._process.poll() is not None:
            return "dead", self._last_words()
        self._healthy = self._healthy or self._answers()  # later, a busy server may be slow to answer
        return ("healthy" if self._healthy else "starting"), ""

    def stop(self, patience: float = STOP_SECONDS) -> None:
        """End the server and all that it started."""
        if self._process is None:
            return
        group = self._process.pid
        if patience:
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGTERM)
            deadline = time.monotonic() + patience
            while self._process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.05)
        with suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)  # an engine process outlives the server that was killed
        self._process.wait()
        self._process = None
        self._folder.cleanup()

    def _answers(self) -> bool:
        try:
            url = f"http://{self._address}:{self._port}/health"
            direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with direct.open(url, timeout=HEALTH_SECONDS) as reply:
                return bool(reply.status == 200)
        except OSError:
            return False

    def _last_words(self) -> str:
        """The last line of its log that names an error, or the last line."""
        if self._process is None:
            return "it was stopped"
        with suppress(OSError), open(self._log, encoding="utf-8", errors="replace") as log:
            lines = [line.strip() for line in log if line.strip()]
            errors = [line for line in lines if "Error" in line]
            if lines:
                return (errors or lines)[-1][-LAST_WORDS:]
        return f"exit code {self._process.returncode}"


def _end_with_parent() -> Callable[[], None]:
    """Runs in the child before it becomes the server: it will get SIGTERM when this process dies, however it dies."""
    libc = ctypes.CDLL(None)
    end = int(signal.SIGTERM)

    def ask() -> None:
        libc.prctl(PR_SET_PDEATHSIG, end)

    return ask


def _own_address() -> str:
    """This machine's address towards the others; no packet is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return socket.gethostbyname(socket.gethostname())
        return str(probe.getsockname()[0])
