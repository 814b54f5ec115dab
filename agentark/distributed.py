"""Several processes on a machine without a GPU.

accelerate makes a process group on the CPU only if it is told to use the CPU, but then it silently switches DeepSpeed
off. Without either, every process would train alone. So plain runs tell it, and for DeepSpeed this module prepares the
state that accelerate looks for, on DeepSpeed's own process group.
"""

import os
import socket
from typing import Any


def settings(deepspeed: bool) -> dict[str, Any]:
    """TrainingArguments that this launch needs besides those of the command line; none on a GPU or in a single process.

    Args:
        deepspeed: whether `--deepspeed` is given.
    """
    import torch

    if torch.cuda.is_available() or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return {}
    if not deepspeed:
        return {"use_cpu": True}
    from accelerate.state import AcceleratorState, PartialState

    AcceleratorState._reset_state(reset_partial_state=True)
    os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"
    try:
        state = PartialState()
    finally:
        del os.environ["ACCELERATE_USE_DEEPSPEED"]
    state.backend = "gloo"
    state.num_processes = torch.distributed.get_world_size()
    state.process_index = torch.distributed.get_rank()
    state.local_process_index = int(os.environ["LOCAL_RANK"])
    return {"accelerator_config": {"use_configured_state": True}}


def launch_alone() -> None:
    """Set the variables of a launcher in a process without one: it is the only process and takes a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    for name, value in alone.items():
        os.environ.setdefault(name, value)
