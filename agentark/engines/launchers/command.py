"""The command line of a vLLM OpenAI server, the same wherever one is started."""

import json

from pydantic import Field

from agentark.config import Config
from agentark.engines.launchers import guard
from agentark.engines.vllm import CPU_BLOCK, GUIDANCE, cpu_dtype

MODULE = "vllm.entrypoints.openai.api_server"
"""Not `vllm serve`, which the CPU build does not have."""
GUARD = f"{guard.__name__}.{guard.Guard.__name__}"
"""Import path of the guard, where this project is installed."""


class Serving(Config):
    """The settings that all servers of a model share."""

    model: str
    """Hub id, or a folder that every node sees."""
    served_name: str
    tensor_parallel_size: int = Field(1, ge=1)
    """GPUs per server, all on one node."""
    dtype: str = "auto"
    max_model_len: int | None = None
    gpu_memory_utilization: float = 0.9


def server_command(
    serving: Serving, *, python: str, host: str, port: str, max_num_seqs: int, on_cpu: bool, middleware: str = GUARD
) -> list[str]:
    """The command that serves a model, to those who have the key in the server's $AGENTARK_ENDPOINT_KEY.

    Args:
        port: a number, or a placeholder that the caller fills in.
        max_num_seqs: calls in one batch at most.
        on_cpu: the vLLM installed is the CPU build.
        middleware: import path of the guard on the machine that serves.
    """
    dtype = cpu_dtype() if on_cpu and serving.dtype == "auto" else serving.dtype
    command = [
        *(python, "-m", MODULE, "--model", serving.model, "--served-model-name", serving.served_name),
        *("--host", host, "--port", port, "--dtype", dtype, "--max-num-seqs", str(max_num_seqs)),
        *("--middleware", middleware, "--structured-outputs-config", json.dumps(GUIDANCE)),
        "--enable-prompt-tokens-details",
    ]
    if serving.max_model_len is not None:
        command += ["--max-model-len", str(serving.max_model_len)]
    if on_cpu:
        command += ["--enforce-eager", "--block-size", str(CPU_BLOCK)]
    else:
        command += ["--tensor-parallel-size", str(serving.tensor_parallel_size)]
        command += ["--gpu-memory-utilization", str(serving.gpu_memory_utilization)]
    return command
