"""The openai engine against a real vLLM server process on the CPU, with the untrained model."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from vllm_server import vllm_server

from agentark.cuts import apply_cuts
from agentark.engines.endpoints import Endpoint
from agentark.engines.openai import OpenAIConfig, OpenAIEngine
from agentark.episode import Defaults
from agentark.progress import Progress
from agentark.records import Store, read_records
from agentark.runner import Runner
from agentark.types import Part, Sample, SampleError, SamplingParams, message
from methods import load_method

pytestmark = pytest.mark.slow

CONTEXT = 1024


@pytest.fixture(scope="module")
def url(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with vllm_server(small_model, tmp_path_factory.mktemp("server") / "log", context=CONTEXT) as server:
        yield server.url


def run(url: str, scenario: Callable[[OpenAIEngine], Awaitable[Any]], **options: Any) -> Any:
    endpoint = Endpoint(model_name="small", model_url=url, max_workers=8)

    async def all_of_it() -> Any:
        async with OpenAIEngine(OpenAIConfig(model="small-llama", endpoints=(endpoint,), **options)) as engine:
            return await scenario(engine)

    return asyncio.run(all_of_it())


def test_chat_choice_and_context(url: str, caplog: pytest.LogCaptureFixture) -> None:
    words = " ".join(f"word{k}" for k in range(2000))
    document = [message("system", "Read."), message("user", Part(words, "middle", "document"), "\n\nWho spoke first?")]
    short = [message("user", "What is 2 + 2?")]

    async def scenario(engine: OpenAIEngine) -> list[Any]:
        assert engine.context_length == CONTEXT
        assert engine.servers[0].tokenizes
        plain = SamplingParams(temperature=0.0, max_tokens=16, seed=1)
        choice = SamplingParams(temperature=1.0, max_tokens=8, choices=("True", "False"))
        ask = [
            (short, plain),
            (short, choice),
            (document, plain),
            (short, SamplingParams(temperature=0.7, max_tokens=5000, seed=3)),
        ]
        replies = [await engine.chat(messages, params, session="s", priority=0) for messages, params in ask]
        with pytest.raises(SampleError, match=r"prompt of \d{4} tokens leaves -\d+ of the context of 1024"):
            await engine.chat([message("user", words)], plain, session="s", priority=0)
        return replies

    plain, choice, cut, clipped = run(url, scenario, reproducible=True)
    assert (plain.model, plain.completion_tokens) == ("small-llama", 16)
    assert plain.finish_reason == "length"
    assert choice.text in ("True", "False")
    assert caplog.text == ""
    assert cut.truncation is not None
    sent = apply_cuts(document, cut.truncation)[1].text
    assert sent.startswith("word0 ")
    assert sent.endswith("word1999\n\nWho spoke first?")
    assert 0.95 * (CONTEXT - 64) <= cut.prompt_tokens <= CONTEXT - 64
    assert clipped.max_tokens == CONTEXT - clipped.prompt_tokens
    assert plain.cached_tokens is not None
    print(f"document: {cut.prompt_tokens} of {CONTEXT - 64} tokens used; cuts {cut.truncation}")


def test_a_debate_over_four_samples(url: str, tmp_path: Path) -> None:
    method, info = load_method("llm_debate")
    path = tmp_path / "a.jsonl"
    samples = [
        Sample(id=f"T/test/{k}", source="T", query=f"What is {k} + 2?", gt=str(k + 2), answer_type="number")
        for k in range(4)
    ]

    async def scenario(engine: OpenAIEngine) -> None:
        store = Store(path, {"seed": 0})
        store.start({"engine": engine.name})
        try:
            runner = Runner(
                method=method,
                info=info,
                model="small-llama",
                engines={"main": engine},
                defaults=Defaults(0.7, 24, 0),
                store=store,
                progress=Progress(len(samples), quiet=True),
            )
            await runner.run(samples)
        finally:
            store.close({sample.id: place for place, sample in enumerate(samples)})

    run(url, scenario)
    records = list(read_records(path))
    assert [record.id for record in records] == [sample.id for sample in samples]
    assert [record.error for record in records] == [None] * 4
    for record in records:
        assert len(record.trajectory) == 3 * 2 + 1
        assert len(record.solutions) == 3 + 1
        assert record.token_stats["small-llama"].num_llm_calls == 7
        assert all(turn.completion.completion_tokens for turn in record.trajectory)
