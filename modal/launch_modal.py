"""The Modal app that serves a model to runs with --use_modal_batch.

    modal secret create agentark-endpoint AGENTARK_ENDPOINT_KEY=<a long random text>
    modal deploy modal/launch_modal.py
    export AGENTARK_ENDPOINT_KEY=<the same text>
    python inference.py --method_name llm_debate --test_dataset_name QMSum --use_modal_batch --model_name Qwen/Qwen3-8B

Settings: configs/modal.yaml, or AGENTARK_MODAL_<KEY>=value. Three parts: `serve`, vLLM's OpenAI server behind a key;
`Model`, the same model as a class whose `chat` answers one of our calls; `describe`, which says what is deployed and
needs no GPU. `serve` and `Model` scale by themselves, each for its own load; a run uses one of them.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import modal

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = "AGENTARK_DEPLOYED"
"""The settings as they were deployed, inside a container."""

if modal.is_local():
    sys.path.insert(0, str(ROOT))

import msgspec  # noqa: E402 -- needs the path above

from agentark.config import build  # noqa: E402
from agentark.engines.launchers.command import Serving, server_command  # noqa: E402
from agentark.engines.launchers.modal import ModalConfig, read_config  # noqa: E402
from agentark.types import Message, Part, RunError, SamplingParams  # noqa: E402

PORT = 8000
WEIGHTS = "/weights"
LIGHT = ("msgspec", "pydantic", "pyyaml", "psutil", "openai")
"""Packages that importing agentark needs."""
SERVING = ("vllm", "transformers", "huggingface_hub")


def settings() -> ModalConfig:
    """Inside a container, the settings as deployed; else from configs/modal.yaml and the environment."""
    if deployed := os.environ.get(SETTINGS):
        return build(ModalConfig, json.loads(deployed), f"${SETTINGS}")
    return read_config()


def pins(*names: str) -> list[str]:
    """These packages with the versions of requirements.txt."""
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines() if modal.is_local() else []
    pinned = {re.split(r"[=\[]", line)[0]: line for line in lines if "==" in line}
    return [pinned.get(name, name) for name in names]


CONFIG = settings()
_ENVIRONMENT = {
    SETTINGS: json.dumps(CONFIG.model_dump()),
    "HF_HOME": f"{WEIGHTS}/huggingface",
    "VLLM_CACHE_ROOT": f"{WEIGHTS}/vllm",
    "VLLM_NO_USAGE_STATS": "1",
}
light_image = (
    modal.Image.debian_slim(python_version="3.12")
    .uv_pip_install(*pins(*LIGHT))
    .env(_ENVIRONMENT)
    .add_local_python_source("agentark")
)
gpu_image = (
    modal.Image.from_registry(CONFIG.image, add_python="3.12")
    .entrypoint([])
    .uv_pip_install(*pins(*LIGHT, *SERVING))
    .env(_ENVIRONMENT)
    .add_local_python_source("agentark")
)
_hub = [modal.Secret.from_name(CONFIG.hub_secret)] if CONFIG.hub_secret else []
_key = modal.Secret.from_name(CONFIG.key_secret)
_gpu: dict[str, Any] = {
    "image": gpu_image,
    "gpu": f"{CONFIG.gpu}:{CONFIG.gpu_count}",
    "max_containers": CONFIG.max_containers,
    "scaledown_window": CONFIG.scaledown_window,
    "timeout": CONFIG.call_seconds,
    "startup_timeout": CONFIG.startup_seconds,
    "volumes": {WEIGHTS: modal.Volume.from_name(CONFIG.weights_volume, create_if_missing=True)},
}

app = modal.App(CONFIG.app)


@app.function(image=light_image)
def describe() -> dict[str, Any]:
    """Says what is deployed, so that a run can check it before a GPU starts."""
    return CONFIG.model_dump(include={"model", "gpu", "gpu_count", "max_containers", "max_inputs"})


@app.cls(**_gpu, secrets=_hub)
@modal.concurrent(max_inputs=CONFIG.max_inputs)
class Model:
    """The model in our own vLLM engine; concurrent inputs of a container become one batch."""

    @modal.enter()
    async def load(self) -> None:
        await self._engine()

    async def _engine(self) -> Any:
        """The engine, started by the first call (`.local()` runs no asynchronous enter)."""
        import asyncio

        from agentark.engines.vllm import VLLMConfig, VLLMEngine

        if not hasattr(self, "starting"):
            config = VLLMConfig(
                model=CONFIG.model,
                served_name=CONFIG.model,
                tensor_parallel_size=CONFIG.gpu_count,
                dtype=CONFIG.dtype,
                max_model_len=CONFIG.max_model_len,
                enable_thinking=CONFIG.enable_thinking,
                reproducible=True,  # a call's seed is used, if it has one
                timeout=float(CONFIG.call_seconds),
                quiet=False,
            )
            self.starting = asyncio.ensure_future(VLLMEngine(config).__aenter__())
        return await self.starting

    @modal.method()
    async def chat(self, messages: list[dict[str, str]], params: dict[str, Any]) -> dict[str, Any]:
        """Answer one call.

        Args:
            messages: {role, text} each.
            params: an agentark SamplingParams as plain data.

        Returns:
            An agentark Completion as plain data.

        Raises:
            SampleError, EngineFault: as `agentark.types.Engine.chat`.
            RunError: the engine died; this container takes no further call.
        """
        engine = await self._engine()
        call = msgspec.convert(params, SamplingParams)
        try:
            completion = await engine.chat(_messages(messages), call, session="", priority=0)
        except RunError:
            if not modal.is_local():
                from modal.experimental import stop_fetching_inputs

                await stop_fetching_inputs.aio()
            raise
        plain: dict[str, Any] = msgspec.to_builtins(completion)
        return plain

    @modal.method()
    async def measure(self, messages: list[dict[str, str]]) -> dict[str, int]:
        """Tokens of a dialogue, template included, and of the context."""
        engine = await self._engine()
        probe = SamplingParams(temperature=0.0, max_tokens=1, choices=("", " "))  # with choices, no length is refused
        prompt = await engine.prompter.build(_messages(messages), probe)
        return {"tokens": len(prompt.token_ids), "context_length": engine.context_length}

    @modal.exit()
    async def stop(self) -> None:
        await self._end()

    @modal.method()
    async def close(self) -> None:
        """End the engine of this container."""
        await self._end()

    async def _end(self) -> None:
        if hasattr(self, "starting"):
            await (await self.starting).__aexit__(None, None, None)


@app.function(**_gpu, secrets=[*_hub, _key])
@modal.concurrent(max_inputs=CONFIG.max_inputs)
@modal.web_server(PORT, startup_timeout=CONFIG.startup_seconds)
def serve() -> None:
    """vLLM's OpenAI server; every path but /health asks for the key."""
    serving = Serving(
        model=CONFIG.model,
        served_name=CONFIG.model,
        tensor_parallel_size=CONFIG.gpu_count,
        dtype=CONFIG.dtype,
        max_model_len=CONFIG.max_model_len,
    )
    command = server_command(
        serving,
        python=sys.executable,
        host="0.0.0.0",
        port=str(PORT),
        max_num_seqs=CONFIG.max_inputs,
        on_cpu=False,
    )
    subprocess.Popen(command)


def _messages(plain: list[dict[str, str]]) -> list[Message]:
    return [msgspec.convert({"role": turn["role"], "parts": [Part(turn["text"])]}, Message) for turn in plain]
