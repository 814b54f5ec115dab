"""vLLM's async engine in this process's care: prefix caching, guided choice, LoRA, tensor and data parallel."""

import asyncio
import difflib
import gc
import importlib.metadata
import importlib.util
import itertools
import os
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from pydantic import Field

from agentark import quiet, scratch
from agentark.engines.prompt import LocalConfig, Prompter
from agentark.hub import check_adapter
from agentark.progress import starting
from agentark.sampling import CONTROLS
from agentark.thinking import Shown
from agentark.threads import SPINS
from agentark.types import Completion, EngineFault, Guarantee, Message, RunError, SampleError, SamplingParams, UserError

CPU_CAPACITY = 128
"""Calls in flight on the CPU build, where throughput levels off (vLLM's own default is meant for GPUs)."""

CPU_BLOCK = 32
"""Tokens per block of the prefix cache on the CPU build; its default of 128 forgets half of a short debate."""

CPU_ENVIRONMENT = {
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_CPU_KVCACHE_SPACE": "4",  # GiB
    # the model in the engine's own process: in one of its own it needs another import and spins on a core between steps
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    **SPINS,
}
"""Defaults of the variables that the CPU build and its libraries read at their import."""

UNUSED = ("scipy", "sklearn")
"""Packages that vLLM and transformers import for audio and for pictures wherever they are installed: a tenth of the
import."""

GUIDANCE: dict[str, Any] = {"backend": "xgrammar", "disable_any_whitespace": True}
"""Small models fill the whitespace that JSON allows until their tokens run out."""

SURE = 100.0
"""Bias on the logits of tokens if one of them must come; the most vLLM takes. Unlike guidance it is added after the
log-probabilities are taken. (`allowed_token_ids` would be, too, but vLLM 0.29 gives one request's to another when it
reorders its batch: `InputBatch.swap_states`.)"""


FLAGGED = {"tensor_parallel_size", "data_parallel_size", "dtype", "max_model_len", "gpu_memory_utilization"}
TUNABLE = {"max_num_seqs", "block_size", "enforce_eager", "enable_prefix_caching"}
"""Arguments of vLLM that have flags, and those we set that `--engine_args` may change."""


class VLLMConfig(LocalConfig):
    """Settings of the vLLM engine; the flags of inference.py."""

    tensor_parallel_size: int = 1
    data_parallel_size: int = 1
    dtype: str = "auto"
    gpu_memory_utilization: float = 0.9
    reproducible: bool = False
    """Per-request seeds: slower (disables fast samplers), and logits may still vary with batch composition."""
    max_concurrency: int | None = None
    """Calls in flight; None: what vLLM schedules at once."""
    quiet: bool = True
    """Keep the engine's own log lines in a file that is shown when it fails."""
    engine_args: dict[str, Any] = Field(default_factory=dict)
    """More arguments of vLLM's, by the names of its `AsyncEngineArgs`."""


class VLLMEngine:
    """See `agentark.types.Engine`.

    Args:
        config: settings.
        on_start: called around the start of the engine process, so that the lock file can name it.
    """

    name = "vllm"
    Config = VLLMConfig
    _may_fork = False
    """Whether torch was imported for engines only, and none has been asked: then there are no OpenMP threads yet, which
    a fork would lose. Forked, each engine of a team is spared an import of its own."""

    def __init__(self, config: VLLMConfig, on_start: Callable[[], Any] | None = None) -> None:
        if importlib.util.find_spec("vllm") is None:
            raise UserError("--use_vllm: the package vllm is not installed (make .venv, or pip install vllm)")
        self.config = config
        self.guarantee: Guarantee = "seeded" if config.reproducible else "engine"
        self.on_start = on_start
        self.capacity = config.max_concurrency or CPU_CAPACITY
        self.context_length = 0
        self.dtype: str | None = None
        self._ids = itertools.count()

    async def __aenter__(self) -> "VLLMEngine":
        with starting("vLLM") as phase:
            self._start(phase)
            try:
                await self._load_adapters()
            except BaseException:
                await self.__aexit__(*sys.exc_info())
                raise
        return self

    async def _load_adapters(self) -> None:
        """vLLM would load an adapter at its first call, and fail all calls if it is one of another model."""
        for request in self._loras.values():
            try:
                await self._llm.add_lora(request)
            except Exception as error:  # whatever the engine process tells, as a plain Exception
                cause = " ".join(str(error).split())
                raise UserError(
                    f"vLLM cannot serve {self.config.model} with {request.lora_path}: {cause:.300}"
                ) from error

    def _start(self, phase: Callable[[str], None]) -> None:
        phase("importing")
        VLLMEngine._may_fork = VLLMEngine._may_fork or "torch" not in sys.modules
        on_cpu = _prepare_environment("ERROR" if self.config.quiet else "INFO")
        with left_out(UNUSED):
            from vllm.config import StructuredOutputsConfig
            from vllm.engine.arg_utils import AsyncEngineArgs
            from vllm.lora.request import LoRARequest
            from vllm.usage.usage_lib import UsageContext
            from vllm.v1.engine.async_llm import AsyncLLM

        config = self.config
        arguments: dict[str, Any] = {
            "model": config.model,
            "tensor_parallel_size": config.tensor_parallel_size,
            "data_parallel_size": config.data_parallel_size,
            "dtype": cpu_dtype() if on_cpu and config.dtype == "auto" else config.dtype,
            "max_model_len": config.max_model_len,
            "gpu_memory_utilization": config.gpu_memory_utilization / config.sharing,
            "enable_prefix_caching": True,
            "scheduling_policy": "priority",
            "enforce_eager": on_cpu,
            "seed": 0,
            "structured_outputs_config": StructuredOutputsConfig(**GUIDANCE),
        }
        if on_cpu:
            arguments |= {"max_num_seqs": max(CPU_CAPACITY, self.capacity), "block_size": CPU_BLOCK}
        adapters: dict[str | None, Path] = {None: config.lora_path} if config.lora_path is not None else {}
        adapters.update(config.adapters.items())
        if adapters:
            rank = max(map(check_adapter, adapters.values()))  # vLLM must be told an upper bound, 16 by default
            arguments |= {"enable_lora": True, "max_lora_rank": max(8, 1 << (rank - 1).bit_length())}
            arguments["max_loras"] = len(adapters)
        self._loras = {
            name: LoRARequest(name or "adapter", number, str(folder))
            for number, (name, folder) in enumerate(adapters.items(), 1)
        }
        check_more(config.engine_args, known=AsyncEngineArgs.__dataclass_fields__, ours=arguments)
        arguments |= config.engine_args
        phase("loading")
        with engine_log(config.quiet) as self._log:
            try:
                args = AsyncEngineArgs(**{key: value for key, value in arguments.items() if value is not None})
                # as `vllm.LLM` has it: on GPUs the largest batches, where a server's default is an eighth of them
                vllm_config = args.create_engine_config(UsageContext.LLM_CLASS)
                if on_cpu and vllm_config.cache_config.kv_cache_memory_bytes:
                    vllm_config.cache_config.kv_cache_memory_bytes //= config.sharing
                if on_cpu and VLLMEngine._may_fork:  # else the platform has chosen spawn
                    os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "fork"
                gc.freeze()  # what is imported stays: no collection looks through it again, here or after the fork
                with self.on_start() if self.on_start else nullcontext():
                    self._llm = AsyncLLM.from_vllm_config(vllm_config, usage_context=UsageContext.LLM_CLASS)
            except (RuntimeError, ValueError, OSError, TypeError, NotImplementedError) as error:
                raise UserError(f"vLLM cannot serve {config.model}: {root_cause(self._log, error)}") from error
        self.context_length = self._llm.model_config.max_model_len
        self.dtype = str(self._llm.model_config.dtype).removeprefix("torch.")
        if config.max_concurrency is None and (not on_cpu or "max_num_seqs" in config.engine_args):
            self.capacity = self._llm.vllm_config.scheduler_config.max_num_seqs * config.data_parallel_size
        self.prompter = Prompter(
            self._llm.get_tokenizer(), self.context_length, config.enable_thinking, config.chat_template
        )

    @property
    def dead(self) -> bool:
        """Whether its process has died."""
        return bool(self._llm.errored)

    async def __aexit__(self, *exc: object) -> None:
        VLLMEngine._may_fork = False  # nobody knows what this process computes from here on
        gc.unfreeze()
        self.prompter.close()
        self._llm.shutdown(timeout=0)  # nothing is left to finish
        if self._log and exc[0] is None:
            self._log.unlink(missing_ok=True)

    async def chat(
        self, messages: Sequence[Message], params: SamplingParams, *, session: str, priority: int
    ) -> Completion:
        return await self._reply(messages, params, session, priority, None)

    async def stream(
        self,
        messages: Sequence[Message],
        params: SamplingParams,
        on_text: Callable[[str], None],
        *,
        session: str,
        priority: int,
    ) -> Completion:
        """See `agentark.episode.Streaming`."""
        return await self._reply(messages, params, session, priority, on_text)

    async def _reply(
        self,
        messages: Sequence[Message],
        params: SamplingParams,
        session: str,
        priority: int,
        on_text: Callable[[str], None] | None,
    ) -> Completion:
        from vllm import SamplingParams as VLLMSamplingParams
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        start = time.perf_counter()
        VLLMEngine._may_fork = False
        prompt = await self.prompter.build(messages, params)
        first = list(prompt.choice_ids or ())  # decides alone
        shown = Shown(on_text, prompt.thinking) if on_text is not None else None
        structured = None
        if params.choices and not first:
            structured = StructuredOutputsParams(choice=list(params.choices))
        elif params.schema is not None:
            structured = StructuredOutputsParams(json=params.schema)
        sampling = VLLMSamplingParams(
            temperature=params.temperature,
            max_tokens=1 if first else prompt.max_tokens,
            seed=params.seed if self.config.reproducible else None,
            output_kind=RequestOutputKind.CUMULATIVE if shown else RequestOutputKind.FINAL_ONLY,
            structured_outputs=structured,
            logit_bias=dict.fromkeys(first, SURE) if first else None,
            logprob_token_ids=first or None,
            **controls_of(params),
        )
        growing = shown if not params.choices else None  # a choice is told once it is known to be one
        result = await self._generate(prompt.token_ids, sampling, session, priority, params.adapter, growing)
        reply = result.outputs[0]
        text, logprobs = reply.text, None
        if first and params.choices and reply.logprobs:
            if reply.token_ids[0] not in first:
                raise EngineFault(f"vLLM answered {text!r}, not one of {list(params.choices)}")
            text = params.choices[first.index(reply.token_ids[0])]
            logprobs = {
                choice: reply.logprobs[0][token].logprob for choice, token in zip(params.choices, first, strict=True)
            }
        completion = self.prompter.completion(
            text,
            prompt,
            params,
            finish_reason="length" if reply.finish_reason == "length" else "stop",
            completion_tokens=len(reply.token_ids),
            cached_tokens=result.num_cached_tokens,
            choice_logprobs=logprobs,
            model=self.config.answering(params.adapter),
            seconds=time.perf_counter() - start,
        )
        if shown is not None:
            shown.end(completion.text)
        return completion

    async def _generate(
        self,
        token_ids: list[int],
        sampling: Any,
        session: str,
        priority: int,
        adapter: str | None,
        shown: Shown | None,
    ) -> Any:
        """vLLM's finished reply, its errors as ours. A session sticks to one data-parallel rank (prefix cache)."""
        from vllm.exceptions import VLLMValidationError
        from vllm.v1.engine.exceptions import EngineDeadError

        rank = zlib.crc32(session.encode()) % self.config.data_parallel_size
        try:
            result = None
            async with asyncio.timeout(self.config.timeout):
                async for output in self._llm.generate(
                    {"prompt_token_ids": token_ids},
                    sampling,
                    request_id=f"{session}-{next(self._ids)}",
                    lora_request=self._loras[adapter] if adapter is not None else self._loras.get(None),
                    priority=priority,
                    data_parallel_rank=rank if self.config.data_parallel_size > 1 else None,
                ):
                    result = output
                    if shown is not None:
                        shown(output.outputs[0].text)
        except TimeoutError:
            raise EngineFault(f"no reply within --model_timeout {self.config.timeout:g} s") from None
        except EngineDeadError:
            raise RunError(
                "the vLLM engine process died (out of memory, or killed); its last words are above"
            ) from None
        except VLLMValidationError as error:
            raise SampleError(f"vLLM refuses this call: {error}") from error
        except RuntimeError as error:
            raise EngineFault(f"vLLM failed on this call: {error}") from error
        if result is None or not result.finished:
            raise EngineFault("vLLM ended this call without a reply")
        return result


def controls_of(params: SamplingParams) -> dict[str, Any]:
    """The call's own sampling controls, for vLLM's SamplingParams; those it lacks are neutral there."""
    controls = {name: value for name in CONTROLS if (value := getattr(params, name)) is not None}
    return controls | ({"stop": list(params.stop)} if params.stop else {})


def check_more(more: Mapping[str, Any], known: Iterable[str], ours: Iterable[str]) -> None:
    """Raises UserError where `--engine_args` has what vLLM does not know, or what is not for it to decide.

    Args:
        known: names of vLLM's arguments.
        ours: names of those that this engine sets.
    """
    for name in more:
        if name not in known:
            close = difflib.get_close_matches(name, known, cutoff=0.5)
            raise UserError(f"--engine_args {name}: unknown to vLLM; the nearest: {', '.join(close) or 'none'}")
        if name in FLAGGED:
            raise UserError(f"--engine_args {name}: has a flag of its own, --{name}")
        if name == "trust_remote_code" or name in {*ours} - TUNABLE:
            raise UserError(f"--engine_args {name}: may not be changed")


def cpu_dtype() -> str:
    """What this processor is fastest in: bfloat16 if it has instructions for it, which others would only convert."""
    import torch

    able = torch.cpu.get_capabilities()
    return "bfloat16" if able.get("avx512_bf16") or able.get("amx_bf16") else "float32"


def _prepare_environment(log_level: str) -> bool:
    """Settings vLLM reads from the environment, before its import. Returns whether this is the CPU build."""
    for name, value in {**quiet.VLLM, "VLLM_LOGGING_LEVEL": log_level}.items():
        os.environ.setdefault(name, value)
    try:
        importlib.metadata.version("vllm-cpu")
    except importlib.metadata.PackageNotFoundError:
        return False
    for name, value in {**CPU_ENVIRONMENT, "OMP_NUM_THREADS": str(len(os.sched_getaffinity(0)))}.items():
        os.environ.setdefault(name, value)
    return True


@contextmanager
def left_out(packages: Sequence[str]) -> Iterator[None]:
    """Imports find these packages not installed in here, and find them again afterwards.

    Nothing is left out once transformers is imported, since it knows by then what is installed.
    """
    absent = {name for name in packages if name not in sys.modules and "transformers" not in sys.modules}
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type]  # None: the import system's "not there"
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]


@contextmanager
def engine_log(quiet: bool) -> Iterator[Path | None]:
    """Send the engine process's output to a log file, so that a failed start can be explained in one line.

    The engine process inherits the redirected stderr and keeps it; this process gets its own back.
    """
    if not quiet:
        yield None
        return
    descriptor, name = scratch.file("vllm")
    sys.stderr.flush()
    saved_err, saved_out = os.dup(2), os.dup(1)
    os.dup2(descriptor, 2)
    os.dup2(descriptor, 1)
    os.close(descriptor)
    try:
        yield Path(name)
    finally:
        os.dup2(saved_err, 2)
        os.dup2(saved_out, 1)
        os.close(saved_err)
        os.close(saved_out)


def root_cause(log: Path | None, error: Exception) -> str:
    """The last error line of the engine's log, or the exception, and what helps."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log else []
    causes = [
        line.split("] ", 1)[-1].strip() for line in lines if "Error: " in line and "initialization failed" not in line
    ]
    cause = causes[-1] if causes else " ".join(str(error).split())
    where = f" (engine log: {log})" if log else ""
    if "memory" in cause.lower() or "KV cache" in cause:
        cause += " -- it does not fit: lower --max_model_len, raise --gpu_memory_utilization or --tensor_parallel_size"
    return cause + where
