"""A reward model behind HTTP: the same scores, in batches, and refusals that say why."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from agentark.types import RunError
from distill.grpo.scorer import HttpScorer, LocalScorer
from prm.serve import Batcher, application, check
from prm.steps import StepCodec, load_tokenizer

TEXTS = ("We add.\n\nAnswer: 3", "Answer: 4", "One.\n\nTwo.\n\nThree.", "")


@pytest.fixture(scope="module")
def scorer(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> LocalScorer:
    from prm.model import load, save

    folder = tmp_path_factory.mktemp("prm")
    save(load(str(small_model), "--prm"), folder, None, None)
    StepCodec.of(load_tokenizer(str(small_model), "--prm"), "\n", "step", 64).save(folder)
    return LocalScorer.load(folder, "cpu", False, 4096)


def ids_of(scorer: LocalScorer, text: str) -> list[int]:
    return [*scorer.scorer.codec.tokenizer.encode(text, add_special_tokens=False), 2]


async def served(scorer: LocalScorer, work: Any) -> Any:
    """`work(url)` while the server runs on a free port."""
    from aiohttp import web

    runner = web.AppRunner(application(scorer.scorer, {"prm": "small"}))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    try:
        return await work(f"http://127.0.0.1:{port}")
    finally:
        await runner.cleanup()


def test_the_same_scores_over_http(scorer: LocalScorer) -> None:
    async def ask(url: str) -> Any:
        client = HttpScorer(url)
        try:
            return await asyncio.gather(*(client.score("1+2=", ids_of(scorer, text)) for text in TEXTS))
        finally:
            await client.close()

    found = asyncio.run(served(scorer, ask))
    local = scorer(["1+2="] * len(TEXTS), [ids_of(scorer, text) for text in TEXTS])
    for one, other in zip(found, local, strict=True):
        assert (one.steps, one.ends) == (other.steps, other.ends)
        assert one.scores == pytest.approx(other.scores, abs=1e-5)
        assert one.ends[-1] == len(ids_of(scorer, "\n\n".join(one.steps))) - 1 or one.steps == [""]


def test_a_response_that_does_not_fit_scores_nothing(scorer: LocalScorer) -> None:
    (one,) = scorer(["?"], [ids_of(scorer, "word " * 100 + "\n\nAnswer: 3")])
    assert one.scores == [0.0, 0.0]


def test_what_comes_in_together_is_one_batch() -> None:
    sizes: list[int] = []

    def score(prompts: Sequence[str], responses: Sequence[Sequence[int]]) -> list[Any]:
        sizes.append(len(prompts))
        return [(prompt, list(ids)) for prompt, ids in zip(prompts, responses, strict=True)]

    async def ask() -> list[Any]:
        batcher = Batcher(score, wait=0.02, most=5)
        return await asyncio.gather(*(batcher.submit(str(n), [n]) for n in range(12)))

    assert asyncio.run(ask()) == [(str(n), [n]) for n in range(12)]
    assert sizes == [5, 5, 2]


def test_a_failing_scorer_fails_its_batch_and_no_other() -> None:
    def score(prompts: Sequence[str], responses: Sequence[Sequence[int]]) -> list[Any]:
        if "bad" in prompts:
            raise ValueError("out of memory")
        return list(prompts)

    async def ask() -> None:
        batcher = Batcher(score, wait=0)
        with pytest.raises(ValueError, match="out of memory"):
            await batcher.submit("bad", [1])
        assert await batcher.submit("good", [1]) == "good"

    asyncio.run(ask())


@pytest.mark.parametrize(
    "body",
    [
        [],
        {"prompts": ["a"]},
        {"prompts": ["a"], "responses": []},
        {"prompts": [1], "responses": [[1]]},
        {"prompts": ["a"], "responses": [[]]},
        {"prompts": ["a"], "responses": [["1"]]},
        {"prompts": ["a"], "responses": [[True]]},
    ],
)
def test_bad_requests(body: Any) -> None:
    with pytest.raises(ValueError, match=r"must be|expected|each of"):
        check(body)


def test_a_refusal_reaches_the_run(scorer: LocalScorer) -> None:
    async def ask(url: str) -> None:
        client = HttpScorer(url)
        try:
            with pytest.raises(RunError, match=r"--scorer .*status 400: .*none of them empty"):
                await client.score("1+2=", [])
        finally:
            await client.close()

    asyncio.run(served(scorer, ask))
