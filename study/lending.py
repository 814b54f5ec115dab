"""Steps that ask the same model through vLLM share one engine: which steps they are, and the engine's life.

The engine is a process of its own (study/engine.py) that the study starts, hands on from step to step by an environment
variable (agentark/engines/lent.py), and ends. The step decides: it borrows only the engine that it would have started.
What it records is the same with and without, and so is its command.
"""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

from agentark.engines.choose import engine_flags
from agentark.engines.lent import VARIABLE, terms_of
from agentark.lock import RunLock
from study.engine import GRACE_SECONDS
from study.plan import PROGRAMS, PlannedStep
from study.step import Watch, asked_to_end, ending, failure, last_lines, poll, started

MODEL_FLAGS = {
    *("--model_name", "--model_name_or_path", "--model", "--distiller"),
    *("--pretrain", "--prm", "--verifier_models", "--team"),
}
"""Flags that name a model which a step loads."""
ASKING = [PROGRAMS[name] for name in ("inference", "label", "select")]
"""Programs that ask a model, beside the evaluations."""
ALONE = {"--no_use_vllm", "--launch", "--use_modal_batch", "--no_apply_chat_template", "--debug", "--rules_only"}
"""Flags with which a step wants another engine than the study's, or none."""
PROGRAM = ["-m", "study.engine"]
SHORT = 70
"""Characters of a folder for sockets, whose paths have 107 at most."""


class Shared(Struct, frozen=True):
    """Steps that share an engine, in order."""

    flags: tuple[str, ...]
    """The engine's flags, model included."""
    steps: tuple[str, ...]


def shared(steps: Sequence[PlannedStep]) -> list[Shared]:
    """The engines that more than one step asks, of steps that will run in this order.

    Between two of these steps there may be some that load no model; any other step needs the engine's memory.
    """
    engines: list[tuple[tuple[str, ...], list[str]]] = []
    open_ = False
    for step in steps:
        flags = _engine(step)
        if flags is not None and open_ and engines[-1][0] == flags:
            engines[-1][1].append(step.name)
        elif flags is not None:
            engines.append((flags, [step.name]))
            open_ = True
        elif step.flags.keys() & MODEL_FLAGS:
            open_ = False
    return [Shared(flags, tuple(names)) for flags, names in engines if len(names) > 1]


def _engine(step: PlannedStep) -> tuple[str, ...] | None:
    """Flags of the vLLM engine that a step starts; None: it starts none, or one that cannot be lent."""
    flags = {f"--{name[2:].replace('-', '_')}": texts for name, texts in step.flags.items()}  # scripts take both
    models = sorted(flags.keys() & MODEL_FLAGS)
    asks = step.program in ASKING or (len(step.program) == 2 and step.program[1].startswith("eval."))
    if len(models) != 1 or not asks or "--use_vllm" not in flags or flags.keys() & ALONE:
        return None
    if any(text.startswith("verifier_models") for text in flags.get("--method_config", ())):
        return None  # more models beside this one
    known = engine_flags()
    words = (word for name, texts in sorted(flags.items()) if name in known for word in (name, *texts))
    return ("--model_name", *flags[models[0]], *words)


class _Running(Struct, frozen=True):
    """An engine's process."""

    shared: Shared
    process: "subprocess.Popen[bytes]"
    socket: Path


class Lender:
    """Starts the engines that steps share, hands them on and ends them. A context manager.

    Args:
        steps: those that will run, in order.
        log: file to which the engines' output is appended.
        lock: lock of the study, which records the processes.
        tell: called with a line about an engine.
        watch: called while one starts, with the seconds so far and the last line of its output.
    """

    def __init__(
        self, steps: Sequence[PlannedStep], log: Path, lock: RunLock, tell: Callable[[str], None], watch: Watch
    ) -> None:
        self._shared = {name: one for one in shared(steps) for name in one.steps}
        self._log, self._lock, self._tell, self._watch = log, lock, tell, watch
        self._running: _Running | None = None

    def __enter__(self) -> "Lender":
        return self

    def __exit__(self, *exc: object) -> None:
        self._end()

    def start_for(self, step: PlannedStep) -> float:
        """Have the engine of a step running, if it shares one. Returns the seconds that took.

        Raises:
            RunError: the engine ended before it was ready; the message names its log and last lines.
            KeyboardInterrupt: SIGINT or SIGTERM came.
        """
        wanted, running = self._shared.get(step.name), self._running
        if wanted is None:
            return 0.0
        if running is not None and running.shared == wanted:
            if running.process.poll() is None and terms_of(running.socket) is not None:
                return 0.0
            self._end()
            how = ending(running.process.returncode)
            self._tell(f"the engine of {wanted.flags[1]} has ended ({how}): starting it again")
        self._end()
        seconds = self._start(wanted)
        self._tell(f"{wanted.flags[1]} is ready in {seconds:.0f} s, for {len(wanted.steps)} steps ({self._log})")
        return seconds

    def environment(self, step: PlannedStep) -> dict[str, str]:
        """The variables with which a step finds its engine."""
        running = self._running if step.name in self._shared else None
        return {} if running is None else {VARIABLE: str(running.socket)}

    def end_after(self, step: PlannedStep) -> None:
        """End the engine whose last step this is."""
        if step.name in self._shared and step.name == self._shared[step.name].steps[-1]:
            self._end()

    def _start(self, wanted: Shared) -> float:
        began = time.perf_counter()
        folder = None if len(tempfile.gettempdir()) <= SHORT else "/tmp"
        socket = Path(tempfile.mkdtemp(prefix="agentark-engine-", dir=folder)) / "socket"
        command = [*PROGRAM, "--socket", str(socket), *wanted.flags]
        with asked_to_end() as asked, self._lock.engine_start():
            process, begin = started(command, self._log, {}, subprocess.PIPE)
            self._running = _Running(wanted, process, socket)
            while terms_of(socket) is None and not asked:
                if (code := poll(process)) is not None:
                    raise failure(f"the engine of {wanted.flags[1]}", command, code, self._log, begin)
                self._watch(time.perf_counter() - began, "".join(last_lines(self._log, begin, 1)))
        if asked:
            raise KeyboardInterrupt
        return time.perf_counter() - began

    def _end(self) -> None:
        if self._running is None:
            return
        process, socket = self._running.process, self._running.socket
        assert process.stdin is not None
        process.stdin.close()  # which it waits for
        with suppress(subprocess.TimeoutExpired):
            process.wait(2 * GRACE_SECONDS)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # also what a killed one left behind
        process.wait()
        shutil.rmtree(socket.parent, ignore_errors=True)
        self._running = None
