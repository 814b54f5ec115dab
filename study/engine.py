"""The engine that a study lends to its steps, in a process of its own (study/lending.py starts it).

It ends with the study: its input is a pipe that only the study holds, and that closes however the study ends.
"""

import os
import shutil
import signal
import threading
import time
from argparse import Namespace
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from agentark import cli
from agentark.engines.choose import add_engine_flags, choose_engine
from agentark.engines.lent import VARIABLE, lend
from agentark.lock import RunLock

GRACE_SECONDS = 5.0
"""Seconds that an engine has to end by itself."""


def parse(argv: list[str] | None = None) -> Namespace:
    parser = cli.Parser(prog="python -m study.engine", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--socket", type=Path, required=True, help="where it is lent; its folder is removed at the end")
    parser.add_argument("--model_name", required=True, help="hub id, local folder, or an embedded model")
    parser.set_defaults(debug=False)
    add_engine_flags(parser)
    args: Namespace = parser.parse_args(argv)
    return args


def end_with_the_study(folder: Path, ready: threading.Event) -> None:
    """Wait until the study lets go, and end this process and all that it started."""
    os.read(0, 1)
    if ready.is_set():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE_SECONDS)
    clear(folder)
    os._exit(1)  # also while it loads, which nothing interrupts


def clear(folder: Path) -> None:
    """Leave nothing behind: no folder, and no process that the engine started."""
    shutil.rmtree(folder, ignore_errors=True)
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            process.kill()


async def serve(engine: Any, socket: Path, ready: threading.Event) -> None:
    """Start the engine and lend it until this process is asked to end."""
    async with engine:
        ready.set()
        await lend(engine, engine.config, socket, lambda: engine.dead)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    os.environ.pop(VARIABLE, None)  # what is lent here is not borrowed
    ready = threading.Event()
    threading.Thread(target=end_with_the_study, args=(args.socket.parent, ready), daemon=True).start()
    choice = choose_engine(args, args.model_name)
    try:
        with RunLock(args.socket) as lock:
            cli.run_async(serve(choice.make(lock), args.socket, ready))
    except KeyboardInterrupt:
        pass  # as it always ends
    finally:
        clear(args.socket.parent)
    return 0


if __name__ == "__main__":
    cli.entry(main)
