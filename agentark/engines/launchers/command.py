"""The command line of a vLLM OpenAI server, the same wherever one is started."""

import json
from collections.abc import Sequence

from agentark.engines.vllm import CPU_BLOCK, GUIDANCE

MODULE = "vllm.entrypoints.openai.api_server"
"""Not `vllm serve`, which the CPU build does not have."""


def server_command(
    *,
    python: str,
    model: str,
    served_name: str,
    host: str,
    port: str,
    tensor_parallel_size: int,
    dtype: str,
    max_model_len: int | None,
    gpu_memory_utilization: float,
    max_num_seqs: int,
    on_cpu: bool,
    more: Sequence[str] = (),
) -> list[str]:
    """The command that serves `model` under `served_name`.

    Args:
        port: a number, or what the one who starts it will put there.
        max_num_seqs: calls in one batch at most.
        on_cpu: it is the CPU build.
    """
    command = [
        *(python, "-m", MODULE, "--model", model, "--served-model-name", served_name, "--host", host, "--port", port),
        *("--dtype", "float32" if on_cpu and dtype == "auto" else dtype, "--max-num-seqs", str(max_num_seqs)),
        *("--structured-outputs-config", json.dumps(GUIDANCE), "--enable-prompt-tokens-details"),
    ]
    if max_model_len is not None:
        command += ["--max-model-len", str(max_model_len)]
    if on_cpu:
        command += ["--enforce-eager", "--block-size", str(CPU_BLOCK)]
    else:
        command += ["--tensor-parallel-size", str(tensor_parallel_size)]
        command += ["--gpu-memory-utilization", str(gpu_memory_utilization)]
    return [*command, *more]
