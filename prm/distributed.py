"""Several processes on a machine without a GPU.

accelerate makes a process group on the CPU only where it is told to use the CPU, and being told so switches DeepSpeed
off without a word. With neither, every process would train alone. So plain runs are told, and for DeepSpeed the state
that accelerate would find is set up here, on DeepSpeed's own process group.
"""

import os
import socket
from typing import Any


def settings(deepspeed: bool) -> dict[str, Any]:
    """TrainingArguments that this launch needs beside those of the command line; none on a GPU or in one process.

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
    """What a launcher tells a process, for one that has none: it is the only one, at a port of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    for name, value in alone.items():
        os.environ.setdefault(name, value)
