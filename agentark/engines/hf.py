"""transformers in this process, with its own continuous batching: on the GPU where there is one, else on the CPU.

A request joins and leaves the batch between two forward passes, prompts are prefilled in pieces, and prompts that begin
alike share cache blocks. Each row attends and samples for itself (`hf_batching`), so this engine is always `seeded`.
"""

import asyncio
import importlib.util
import itertools
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from agentark.engines.hf_batching import Row, RowSampler, attend, before_stop
from agentark.engines.prompt import LocalConfig, Prompt, Prompter
from agentark.hub import check_adapter, pretrained
from agentark.progress import starting
from agentark.sampling import CONTROLS
from agentark.types import Completion, EngineFault, Guarantee, Message, RunError, SampleError, SamplingParams, UserError

CAPACITY = {"cpu": 32, "cuda": 128}
"""Calls in flight, unless told."""

CACHE_SHARE = {"cpu": 0.1, "cuda": 0.8}
"""Share of the memory left beside the weights that keys and values get."""

STEP_TOKENS = {"cpu": 512, "cuda": 4096}
"""Tokens of one forward pass, at most."""

BLOCK = 32
"""Tokens per cache block; a prefix is shared in whole blocks."""

SMALLEST = 1 / 8
"""If less than this share of batch and cache would be left, running out of memory ends the run."""

WATCH_SECONDS = 1.0
"""A waiting call checks this often that the model's thread still lives."""

T = TypeVar("T")


class HFConfig(LocalConfig):
    """Settings of the transformers engine; the flags of inference.py."""

    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """auto: bfloat16 on the GPU, float32 on the CPU."""
    max_concurrency: int | None = None
    """Calls in flight, rows of a batch; None: `CAPACITY`."""


class HFEngine:
    """See `agentark.types.Engine`. A worker thread loads, restarts and stops; transformers' own runs the batch.

    The gate decides which call goes first. There are more calls than rows only after running out of memory; they then
    go in order of arrival.
    """

    name = "hf"
    Config = HFConfig
    guarantee: Guarantee = "seeded"

    def __init__(self, config: HFConfig) -> None:
        if missing := [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]:
            raise UserError(f"the hf engine needs {missing[0]}, which is not installed (make .venv)")
        self.config = config
        self.capacity = config.max_concurrency or CAPACITY["cpu"]
        self.context_length = 0
        self.dtype: str | None = None
        self._share = 1.0
        self._manager: Any = None
        self._ids = map(str, itertools.count())
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="hf")

    async def __aenter__(self) -> "HFEngine":
        try:
            with starting("transformers") as phase:
                await self._run(partial(self._open, phase))
        except BaseException:  # a cancellation, too: the worker then stops loading by itself
            self._worker.submit(self._stop)
            self._worker.shutdown(wait=False)
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.prompter.close()
        self._worker.submit(self._stop)
        await asyncio.to_thread(self._worker.shutdown)

    async def chat(
        self, messages: Sequence[Message], params: SamplingParams, *, session: str, priority: int
    ) -> Completion:
        start = time.perf_counter()
        prompt = await self.prompter.build(messages, params)
        if prompt.max_tokens < 1:
            raise SampleError(f"prompt of {len(prompt.token_ids)} tokens fills the context of {self.context_length}")
        try:
            async with asyncio.timeout(self.config.timeout):
                row = self._row(prompt, params)
                tokens = await self._generate(prompt, row)
        except TimeoutError:
            raise EngineFault(f"no reply within --model_timeout {self.config.timeout:g} s") from None
        stopped = tokens[-1] in self._ends
        whole = self._decode(tokens[:-1] if stopped else tokens)
        text = before_stop(whole, row.stop)
        logprobs = None
        if row.first and params.choices:
            text = params.choices[row.first.index(tokens[0])]
            logprobs = {choice: row.logprobs[token] for choice, token in zip(params.choices, row.first, strict=True)}
        return self.prompter.completion(
            text,
            prompt,
            params,
            finish_reason="stop" if stopped or text != whole else "length",
            completion_tokens=len(tokens),
            choice_logprobs=logprobs,
            model=self.config.answering(params.adapter),
            seconds=time.perf_counter() - start,
        )

    def _row(self, prompt: Prompt, params: SamplingParams) -> Row:
        """How this call is sampled."""
        encode = partial(self.prompter.tokenizer.encode, add_special_tokens=False)
        first = prompt.choice_ids or ()
        paths = [(token,) for token in first] or [(*encode(text), self._ends[0]) for text in params.choices or ()]
        seed = time.time_ns() if params.seed is None else params.seed
        controls = {name: value for name in CONTROLS if (value := getattr(params, name)) is not None}
        return Row(params.temperature, seed, len(prompt.token_ids), tuple(paths), first, **controls)

    def _decode(self, tokens: Sequence[int]) -> str:
        text: str = self.prompter.tokenizer.decode(tokens, skip_special_tokens=True)
        return text

    async def _generate(self, prompt: Prompt, row: Row) -> list[int]:
        """The tokens of a reply, its end included. Starts again after running out of memory."""
        while True:
            manager = self._manager
            output = await self._submit(manager, prompt, row)
            if output is not None and output.is_finished():
                return list(output.generated_tokens)
            if output is not None and manager.fatal_error is None:
                raise EngineFault(f"transformers failed on this call: {output.error}")
            await self._run(partial(self._recover, manager))

    async def _submit(self, manager: Any, prompt: Prompt, row: Row) -> Any:
        """One request's output; None when the model's thread ended without it. Leaving early takes it out again."""
        name = next(self._ids)
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def answer(output: Any) -> None:
            if not reply.done():
                reply.set_result(output)

        manager.register_result_handler(name, answer)
        try:
            length = 1 if row.first else prompt.max_tokens
            manager.add_request(prompt.token_ids, name, max_new_tokens=length, row=row)
            alive = True
            while alive and not reply.done():
                alive = manager.is_running()
                await asyncio.wait([reply], timeout=WATCH_SECONDS)
            return reply.result() if reply.done() else None
        finally:
            manager.output_router.result_handlers.pop(name, None)
            if not reply.done():
                manager.cancel_request(name)

    async def _run(self, task: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._worker, task)

    def _open(self, phase: Callable[[str], None]) -> None:
        phase("importing")
        import torch
        from transformers import AttentionInterface

        logging.getLogger("ContinuousBatchingLogger").setLevel(logging.CRITICAL)  # the calls tell of its failures
        AttentionInterface.register("paged|rows", attend)
        config = self.config
        device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = {"cuda": "bfloat16", "cpu": "float32"}[device] if config.dtype == "auto" else config.dtype
        self.dtype, self.capacity = dtype, config.max_concurrency or CAPACITY[device]
        phase("loading")
        try:
            tokenizer = pretrained("AutoTokenizer", config.model)
            model = pretrained(
                "AutoModelForCausalLM",
                config.model,
                dtype=getattr(torch, dtype),
                device_map=None if device == "cpu" else device,
                attn_implementation="paged|rows",
            )
            adapters = [*([config.lora_path] if config.lora_path else []), *config.adapters.values()]
            assert len(adapters) < 2, "a batch of transformers runs one set of weights"
            self._model = _adapted(model, adapters[0]) if adapters else model
            self._ends = _end_tokens(tokenizer, self._model)
            self.context_length = _context(self._model, config.max_model_len)
            self.prompter = Prompter(tokenizer, self.context_length, config.enable_thinking, config.chat_template)
            self._start()
        except (OSError, ValueError, RuntimeError, ImportError, LookupError, TypeError, MemoryError) as error:
            raise UserError(f"transformers cannot serve {config.model}: {_line(error)}") from error

    def _start(self) -> None:
        """Begin batching, with `_share` of the rows and the cache, and try one token."""
        from transformers import ContinuousBatchingConfig, GenerationConfig, LogitsProcessorList
        from transformers.generation.continuous_batching import cb_logits_processors as processors

        device = self._model.device.type
        rows = max(1, int(self.capacity * self._share))
        settings = ContinuousBatchingConfig(
            block_size=BLOCK,
            max_memory_percent=CACHE_SHARE[device] * self._share / self.config.sharing,
            max_batch_tokens=max(rows, int(STEP_TOKENS[device] * self._share)),
            max_requests_per_batch=rows,
            max_blocks_per_request=0,  # block tables need flash-attn,
            use_cuda_graph=False,  # a graph needs a sampler without decisions in Python,
            use_async_batching=False,  # and async batching one that needs no earlier token
        )
        generation = GenerationConfig(do_sample=False, eos_token_id=self._ends)
        self._manager = manager = self._model.init_continuous_batching(generation, settings)
        processors.ContinuousBatchingLogitsProcessor.register(RowSampler)
        sampler = LogitsProcessorList([RowSampler(self._decode, self._ends[0])])
        manager.logit_processor = processors.ContinuousBatchingLogitsProcessorList(sampler)
        manager.logit_processor.tensors_required = 1
        manager.warmup()
        cache = manager.batch_processor.cache
        if (room := cache.num_pages // cache.num_groups) < self.context_length:
            raise UserError(f"--max_model_len {self.context_length}: there is memory for {room} tokens")
        window = self._model.config.get_text_config().sliding_window if cache.num_sliding_attention_groups else None
        if window is not None and window < self.context_length:  # huggingface/transformers#47708
            raise UserError(
                f"--max_model_len {self.context_length}: beyond this model's attention window of {window}, "
                "transformers 5.15 reads the wrong keys; lower it, or use --use_vllm"
            )
        manager.start()
        manager.add_request([self._ends[0]], next(self._ids), max_new_tokens=1, row=Row(0.0, 0, 1))
        manager.get_result()
        if manager.fatal_error is not None:
            raise manager.fatal_error

    def _recover(self, failed: Any) -> None:
        """Begin again after running out of memory, with half of the rows and the cache, as often as it takes.

        Raises:
            RunError: memory was not the reason, or too little is left.
        """
        import torch

        if self._manager is not failed:
            return  # another call was first
        error = failed.fatal_error or RuntimeError("its thread ended")
        while isinstance(error, torch.OutOfMemoryError) and self._share > SMALLEST:
            error.__traceback__ = None  # it holds the batch's tensors
            self._stop()
            self._share /= 2
            try:
                return self._start()
            except (RuntimeError, MemoryError, ValueError, UserError) as again:
                error = again
        raise RunError(f"transformers stopped: {_line(error)}") from error

    def _stop(self) -> None:
        if self._manager is not None:
            self._manager.stop(hard_stop=True)


def _adapted(model: Any, folder: Path) -> Any:
    """The model with a PEFT adapter merged into its weights."""
    check_adapter(folder)
    from peft import PeftModel

    return PeftModel.from_pretrained(model, str(folder)).merge_and_unload()


def _end_tokens(tokenizer: Any, model: Any) -> list[int]:
    """Tokens that end a reply; the template's own comes first."""
    more = model.generation_config.eos_token_id
    ends = [tokenizer.eos_token_id, *(more if isinstance(more, list) else [more])]
    known = [end for end in dict.fromkeys(ends) if end is not None]
    if not known:
        raise ValueError("neither its tokenizer nor its generation_config.json names an end-of-text token")
    return known


def _context(model: Any, asked: int | None) -> int:
    """Tokens of context."""
    own: int | None = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if asked is not None and own is not None and asked > own:
        raise UserError(f"--max_model_len {asked}: the model's own is {own}")
    if (length := asked or own) is None:
        raise UserError("--max_model_len: the model does not say how long its context is")
    return length


def _line(error: BaseException) -> str:
    kind = "" if isinstance(error, OSError) else f"{type(error).__name__}: "
    return " ".join(f"{kind}{error}".split())
