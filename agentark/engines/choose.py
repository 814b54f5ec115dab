"""Which engine a command line asks for. Imports an engine, or a launcher, only once it is chosen."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from agentark.cli import Parser, integer, number, resolve_model
from agentark.config import ConfigT, build, parse_overrides
from agentark.engines import engine_class
from agentark.engines.endpoints import DEFAULT_FILE, endpoints_of, read_endpoints
from agentark.hub import check_adapter
from agentark.lock import RunLock
from agentark.types import Engine, UserError

ENGINE_FIELDS = {"model_timeout": "timeout"}
"""Flags whose engine setting has another name."""
BESIDE = {
    *("use_vllm", "no_use_vllm", "use_modal_batch", "launch", "num_replicas", "ray_address", "model_api_config"),
    *("tensor_parallel_size", "data_parallel_size", "max_concurrency", "gpu_memory_utilization", "model_timeout"),
}
"""Engine flags that say where and how fast a model runs, not what it replies."""


def add_engine_flags(parser: Parser) -> None:
    """The flags that choose and tune an engine; the same in every script that calls a model."""
    group = parser.add_argument_group("engine")
    group.add_argument("--use_vllm", action="store_true", help="run the model in vLLM, started by this process")
    group.add_argument("--use_modal_batch", action="store_true", help="run the model in a deployed Modal app")
    group.add_argument("--launch", choices=["ray"], help="run the model in vLLM servers started by Ray")
    group.add_argument("--num_replicas", type=integer(1), default=1, help="servers with --launch")
    group.add_argument("--ray_address", help="with --launch ray: a running cluster (default: Ray on this machine)")
    group.add_argument("--tensor_parallel_size", type=integer(1), default=1, help="GPUs per model replica")
    group.add_argument("--data_parallel_size", type=integer(1), default=1, help="replicas of the model")
    group.add_argument("--max_concurrency", type=integer(1), help="calls in flight (default: the engine's own)")
    group.add_argument("--max_model_len", type=integer(1), help="context length in tokens (default: the model's)")
    group.add_argument("--gpu_memory_utilization", type=number(0.05, 1.0), default=0.9, help="share of GPU memory")
    group.add_argument("--dtype", default="auto", choices=["auto", "bfloat16", "float16", "float32"], help="weights")
    group.add_argument("--engine_args", nargs="+", default=[], metavar="KEY=VALUE", help="more of vLLM's own arguments")
    group.add_argument(
        "--extra_body", nargs="+", default=[], metavar="KEY=VALUE", help="further fields of the requests to a server"
    )
    group.add_argument("--lora_path", type=adapter, help="folder of a PEFT adapter")
    group.add_argument("--model_timeout", type=number(1), help="seconds one call may take")
    group.add_argument("--model_api_config", type=endpoint_file, help="file of model endpoints")
    group.add_argument("--enable_thinking", action="store_true", default=None, help="turn thinking on")
    group.add_argument("--no_enable_thinking", action="store_false", dest="enable_thinking", help="turn it off")
    group.add_argument("--reproducible", action="store_true", help="seed requests (slower: agentark/engines/README.md)")
    parser.set_defaults(chat_template=True)  # scripts for base models have a flag for it


def engine_flags() -> frozenset[str]:
    """All of them, as they are written."""
    parser = Parser(add_help=False)
    add_engine_flags(parser)
    return frozenset(option for action in parser._actions for option in action.option_strings)


def adapter(text: str) -> Path:
    """An argparse type: a PEFT adapter, looked at even where nothing is left to do. Raises UserError."""
    check_adapter(Path(text))
    return Path(text)


def endpoint_file(text: str) -> Path:
    """An argparse type: an endpoint file, looked at even where no model is asked. Raises UserError."""
    read_endpoints(Path(text))
    return Path(text)


class Choice(NamedTuple):
    """The engine a command line asks for."""

    label: str
    """Name of the model in records and output paths."""
    make: Callable[[RunLock], Engine]
    model: str | None = None
    """Its folder or hub id, where its files are read here; None: it is served."""
    kind: str | None = None
    """Name of the engine that holds it here; None: it is served."""


def choose_engine(args: argparse.Namespace, model_name: str, flag: str = "--model_name") -> Choice:
    """Launched servers or vLLM when asked for; a served model when the endpoint file names it; else transformers.

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
    if args.engine_args and not args.use_vllm:
        raise UserError(f"--engine_args {args.engine_args[0]}: goes with --use_vllm")
    endpoints = None if args.use_vllm else endpoints_of(model_name, args.model_api_config)
    if endpoints is not None:
        if not args.chat_template:
            raise UserError(f"--no-apply_chat_template: {model_name} is served with a chat API; use --use_vllm")
        if args.lora_path is not None:
            raise UserError(
                f"--lora_path {args.lora_path}: a served adapter is a model of its own in the endpoint file"
            )
        from agentark.engines.request import extra_body

        more = extra_body(args.extra_body)
        return _choice("openai", args, model_name, model=model_name, endpoints=endpoints, extra_body=more)
    if args.extra_body:
        raise UserError(f"--extra_body {args.extra_body[0]}: goes with a served model (--model_api_config)")
    model, label = resolve_model(model_name, flag)
    if args.use_vllm:
        more = parse_overrides(args.engine_args, "--engine_args")
        return _choice("vllm", args, label, model=model, served_name=label, quiet=not args.debug, engine_args=more)
    return _choice("hf", args, label, model=model, served_name=label)


def _choice(name: str, args: argparse.Namespace, label: str, **settings: Any) -> Choice:
    """An engine of the registry, imported here and not before; vLLM is borrowed where a study lends it."""
    engine = engine_class(name)
    config = _settings(args, engine.Config, **settings)
    here = (settings["model"], name)
    if name == "openai":
        return Choice(label, lambda lock: engine(config))
    if name == "vllm":
        from agentark.engines.lent import borrowed

        return Choice(label, lambda lock: borrowed(config) or engine(config, lock.engine_start), *here)
    return Choice(label, lambda lock: engine(config), *here)


def _launched(args: argparse.Namespace, model_name: str, flag: str) -> Choice:
    """The openai engine over servers in Modal or Ray."""
    asked = "--use_modal_batch" if args.use_modal_batch else f"--launch {args.launch}"
    if args.use_modal_batch and args.launch is not None:
        raise UserError(f"--use_modal_batch: does not go together with --launch {args.launch}")
    if not args.chat_template:
        raise UserError(f"--no-apply_chat_template: {asked} serves with a chat API; use --use_vllm")
    if args.lora_path is not None:
        raise UserError(f"--lora_path {args.lora_path}: {asked} serves no adapters; use --use_vllm, or merge it")
    if args.use_modal_batch and args.extra_body:
        raise UserError(f"--extra_body {args.extra_body[0]}: does not go together with --use_modal_batch")
    if args.data_parallel_size > 1:
        raise UserError(f"--data_parallel_size {args.data_parallel_size}: with {asked}, use --num_replicas")

    from agentark.engines.launchers.base import EngineConfig, LaunchedEngine
    from agentark.engines.openai import OpenAIConfig
    from agentark.engines.request import extra_body

    more = extra_body(args.extra_body)

    def talking(label: str) -> EngineConfig:
        return lambda endpoints: _settings(args, OpenAIConfig, model=label, endpoints=endpoints, extra_body=more)

    if args.use_modal_batch:
        from agentark.engines.launchers.modal import ModalLauncher, read_config

        modal = read_config()
        return Choice(model_name, lambda lock: LaunchedEngine(ModalLauncher(modal, model_name, talking(model_name))))
    from agentark.engines.launchers.ray import RayConfig, RayLauncher

    model, label = resolve_model(model_name, flag)
    ray = _settings(args, RayConfig, model=model, served_name=label)
    return Choice(label, lambda lock: LaunchedEngine(RayLauncher(ray, talking(label), lock)), model)


def other_engine_args(args: argparse.Namespace, model_name: str) -> argparse.Namespace:
    """The flags for a further model of a run: its endpoints where the endpoint file names it, else the engine of the
    generator, without the generator's adapter."""
    file = args.model_api_config or DEFAULT_FILE
    served = file.is_file() and model_name in read_endpoints(file)
    elsewhere = {"use_vllm": False, "use_modal_batch": False, "launch": None, "num_replicas": 1, "ray_address": None}
    changed: dict[str, Any] = (
        {**elsewhere, "engine_args": []} if served else {"model_api_config": None, "extra_body": []}
    )
    return argparse.Namespace(**{**vars(args), "lora_path": None, **changed})


def _settings(args: argparse.Namespace, cls: type[ConfigT], **values: Any) -> ConfigT:
    """An engine's config, from those given flags that it has fields for."""
    flags = {ENGINE_FIELDS.get(name, name): value for name, value in vars(args).items() if value is not None}
    return build(cls, {name: value for name, value in flags.items() if name in cls.model_fields} | values, "flags")
