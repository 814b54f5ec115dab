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
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import util
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
    loop = asyncio.get_running_loop()
    window = asyncio.Semaphore(2 * workers)
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(
        workers, context, initializer=_start, initargs=(samples.path, samples.name, samples.decode, dict(parts))
    )

    async def chunk(places: "array[int]") -> None:
        for line, ok, calls in await loop.run_in_executor(pool, _rows, places):
            store.add(line)
            progress.sample(ok, calls)
        window.release()

    try:
        async with asyncio.TaskGroup() as group:
            for start in range(0, len(samples), CHUNK):
                await window.acquire()
                group.create_task(chunk(samples[start : start + CHUNK].places))
    except* (RunError, BrokenProcessPool, OSError) as errors:  # OSError: of the start of a process
        first = first_error(errors)
        raise (first if isinstance(first, RunError) else RunError(KILLED)) from None
    finally:
        pool.shutdown(cancel_futures=True)


# ---------------------------------------------------------------- in the worker

_samples: Stored[Sample]
_runner: Runner
_loop: asyncio.AbstractEventLoop


def _start(path: Path, name: str, decode: Callable[[Line], Sample], parts: Mapping[str, Any]) -> None:
    global _samples, _runner, _loop
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process ends its workers
    threading.Thread(target=_end_with_parent, daemon=True).start()
    util.Finalize(None, answers.close_pool, exitpriority=100)  # atexit does not run in a worker
    answers._WORKERS = 1
    _samples = Stored(path, name, decode, array("Q"))
    _runner = Runner(**parts, engines={"main": NoEngine(CALLED)}, store=None, progress=Progress(0, quiet=True))
    _loop = asyncio.new_event_loop()


def _end_with_parent() -> None:
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
