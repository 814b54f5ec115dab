"""Rows made in worker processes, on all cores: where no call needs an engine and the samples stay in their file.

A worker gets places in that file and gives back lines of the results; all it does in between (decoding, rules, the row)
is what the runner does in one process. Only the main process writes. A comparison that needs algebra goes to a process
of the worker's own, which may be killed without the worker.
"""

import asyncio
import multiprocessing
import os
import signal
import threading
from array import array
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import util
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from agentark import answers
from agentark.jsonl import Line, Stored
from agentark.progress import Progress
from agentark.records import Store, encoded
from agentark.runner import Made, NoEngine, Runner, first_error
from agentark.types import RunError, Sample

CHUNK = 16
"""Samples that a worker gets at once."""
WORTH = 200
"""Samples that a worker needs to have, or its start costs more than it saves."""
KILLED = "a worker process was killed or could not be started (out of memory?); --workers sets their number"
CALLED = "a run without a model has called one"


def workers_for(samples: Sequence[Sample], asked: int) -> int:
    """How many processes to use; 1: it is not worth any beside this one."""
    return min(asked, len(samples) // WORTH) if isinstance(samples, Stored) else 1


async def run_in_workers(
    samples: Sequence[Sample], parts: Mapping[str, Any], workers: int, store: Store, progress: Progress
) -> None:
    """Make and write the rows of all samples, in the order in which they are ready.

    Args:
        samples: in a file; see `workers_for`.
        parts: of a Runner, all but engines, store and progress.

    Raises:
        RunError: the run cannot go on, or a worker died. What is written stays written.
    """
    assert isinstance(samples, Stored)
    context = multiprocessing.get_context("spawn")
    chunks = iter([samples[start : start + CHUNK].places for start in range(0, len(samples), CHUNK)])
    source = (samples.path, samples.name, samples.decode)
    started: list[tuple[BaseProcess, Connection]] = []

    async def feed(connection: Connection) -> None:
        for places in chunks:
            connection.send(places)
            made = await asyncio.to_thread(connection.recv)
            if isinstance(made, Exception):
                raise made
            for line, ok, calls in made:
                store.add(line)
                progress.sample(ok, calls)
        connection.send(None)

    try:
        for _ in range(workers):
            ours, theirs = context.Pipe()
            worker = context.Process(target=_serve, args=(theirs, source, dict(parts)))
            worker.start()
            theirs.close()
            started.append((worker, ours))
        async with asyncio.TaskGroup() as group:
            for _, connection in started:
                group.create_task(feed(connection))
        for process, _ in started:
            process.join()
    except* Exception as errors:  # noqa: BLE001 -- all are raised again
        first = first_error(errors)
        ended = isinstance(first, EOFError | OSError)  # a pipe's end, or a process that did not start
        raise (RunError(KILLED) if ended else first) from None
    finally:
        for process, connection in started:
            process.terminate()
            process.join()
            connection.close()


# ---------------------------------------------------------------- in the worker

_samples: Stored[Sample]
_runner: Runner
_loop: asyncio.AbstractEventLoop


def _serve(
    connection: Connection, source: tuple[Path, str, Callable[[Line], Sample]], parts: Mapping[str, Any]
) -> None:
    """Answer every list of places with its rows, or with what stopped them, until there are none."""
    global _samples, _runner, _loop
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process ends its workers
    threading.Thread(target=end_with_parent, daemon=True).start()
    util.Finalize(None, answers.close_pool, exitpriority=100)  # atexit does not run in a worker
    answers._WORKERS = 1
    _samples = Stored(*source, array("Q"))
    _runner = Runner(**parts, engines={"main": NoEngine(CALLED)}, store=None, progress=Progress(0, quiet=True))
    _loop = asyncio.new_event_loop()
    while (places := connection.recv()) is not None:
        try:
            rows: list[Made] | Exception = _rows(places)
        except Exception as error:  # noqa: BLE001 -- raised again by the main process
            rows = error
        connection.send(rows)


def end_with_parent() -> None:
    """Leave when the main process has been killed; nobody else would end this one."""
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)


def _rows(places: "array[int]") -> list[Made]:
    """Every sample with its row as a line of the results; places are small: no pipe is ever full."""

    async def made() -> list[Made]:
        found = await asyncio.gather(*(_runner.made(0, sample) for sample in _samples.at(places)))
        return [one._replace(row=encoded(one.row)) for one in found]

    return _loop.run_until_complete(made())
