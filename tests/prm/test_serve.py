"""A reward model behind HTTP: the same scores, in batches, and refusals that say why."""

import asyncio
import gzip
import json
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from agentark.types import RunError, UserError
from distill.grpo.scorer import HttpScorer, LocalScorer
from prm.serve import Batcher, application, check, main
from prm.steps import StepCodec, load_tokenizer

TEXTS = ("We add.\n\nAnswer: 3", "Answer: 4", "One.\n\nTwo.\n\nThree.", "")


@pytest.fixture(scope="module")
def reward_model(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from prm.model import load, save

    folder = tmp_path_factory.mktemp("prm")
    save(load(str(small_model), "--prm"), folder, None, None)
    StepCodec.of(load_tokenizer(str(small_model), "--prm"), "\n", "step", 64).save(folder)
    return folder


@pytest.fixture(scope="module")
def scorer(reward_model: Path) -> LocalScorer:
    return LocalScorer.load(reward_model, "cpu", False, 4096)


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


def test_a_request_that_cannot_be_scored_fails_alone() -> None:
    """Also within a batch: the others of it get their scores."""

    def score(prompts: Sequence[str], responses: Sequence[Sequence[int]]) -> list[Any]:
        if "bad" in prompts:
            raise ValueError("out of memory")
        return list(prompts)

    async def ask() -> None:
        batcher = Batcher(score, wait=0.02)
        prompts = ["good", "bad", "fine"]
        found = await asyncio.gather(*(batcher.submit(prompt, [1]) for prompt in prompts), return_exceptions=True)
        assert found[0] == "good"
        assert isinstance(found[1], ValueError)
        assert found[2] == "fine"

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
        {"prompts": ["a"], "responses": [[-1]]},
        {"prompts": ["a"], "responses": [[100]]},
        {"prompts": ["\ud800"], "responses": [[1]]},
    ],
)
def test_bad_requests(body: Any) -> None:
    with pytest.raises(ValueError, match=r"must be|expected|each of|surrogates not allowed"):
        check(body, 100)


def test_bad_requests_fail_with_their_reason_and_leave_the_good_ones_alone(
    scorer: LocalScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = ids_of(scorer, "We add.\n\nAnswer: 3")
    whole = json.dumps({"prompts": ["1+2="], "responses": [good]}).encode()
    plain = {"Content-Type": "application/json"}
    bad: list[tuple[bytes, dict[str, str]]] = [
        (b'{"prompts": ["a"], "responses": [[99999999]]}', plain),
        (b'{"prompts": ["a"], "responses": [[%s]]}' % (b"9" * 5000), plain),
        (b'{"prompts": ["a"], "responses": [[1.0]]}', plain),
        (b'{"prompts": ["a"], "responses": [[NaN]]}', plain),
        (b'{"prompts": [null], "responses": [[1]]}', plain),
        (b'{"prompts": {"a": 1}, "responses": [[1]]}', plain),
        (b'{"prompts": ["\\ud800"], "responses": [[1]]}', plain),
        (b"[" * 200_000, plain),
        (b'{"a":' * 200_000, plain),
        (whole, plain | {"Content-Type": "application/json; charset=nowhere"}),
        (whole, plain | {"Content-Type": "application/json; charset=utf-16"}),
        (whole, plain | {"Content-Type": "application/json; charset=rot13"}),
        (whole, plain | {"Content-Encoding": "gzip"}),
        (gzip.compress(b" " * (3 << 20)), plain | {"Content-Encoding": "gzip"}),
        (b"\xff\xfe", plain),
        (b"", plain),
        (b" " * (2 << 20), plain),
    ]
    monkeypatch.setattr("prm.serve.MAX_BODY", 1 << 20)

    async def ask(url: str) -> None:
        import aiohttp

        async with aiohttp.ClientSession() as session:

            async def post(body: bytes, headers: dict[str, str]) -> tuple[int, Any]:
                async with session.post(f"{url}/score", data=body, headers=headers) as reply:
                    return reply.status, await reply.json()

            alone = await post(whole, plain)
            for start in range(0, len(bad), 3):
                some = bad[start : start + 3]
                replies = await asyncio.gather(
                    *([post(whole, plain) for _ in range(12)] + [post(*one) for one in some])
                )
                assert [status for status, _ in replies] == [200] * 12 + [400] * len(some)
                for _, content in replies[:12]:
                    assert content["scores"][0] == pytest.approx(alone[1]["scores"][0], abs=1e-5)
                assert all(content["error"] for _, content in replies[12:])

    asyncio.run(served(scorer, ask))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--port", "70000"], r"--port 70000: is not a port \(1 to 65535\)"),
        (["--host", "no.such.host.invalid"], r"^--host no\.such\.host\.invalid: cannot be listened on"),
        (["--host", "x" * 100], r"^--host x+: (is not a name|cannot be listened on)"),
        (["--host", "a b"], r"^--host a b: cannot be listened on"),
        (["--host", ""], r"^--host: empty"),
        (["--host", "192.0.2.77"], r"^--host 192\.0\.2\.77 --port 8300: cannot be listened on"),
        (["--port", "0"], r"--port"),
        (["--port", "-1"], r"--port"),
        (["--port", "http"], r"--port"),
    ],
)
def test_an_address_that_cannot_be_listened_on(reward_model: Path, flags: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        main(["--prm", str(reward_model), *flags])


def test_a_scorer_that_fails_says_why(scorer: LocalScorer, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(prompts: Sequence[str], responses: Sequence[Sequence[int]]) -> list[Any]:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(scorer.scorer, "score_responses", fails)

    async def ask(url: str) -> None:
        import aiohttp

        body = {"prompts": ["a"], "responses": [[1]]}
        async with aiohttp.ClientSession() as session, session.post(f"{url}/score", json=body) as reply:
            assert (reply.status, await reply.json()) == (500, {"error": "RuntimeError: out of memory"})

    asyncio.run(served(scorer, ask))


def test_a_port_that_is_taken(reward_model: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"^--host 127.0.0.1 --port {port}: cannot be listened on \(.*in use"):
            main(["--prm", str(reward_model), "--port", str(port)])


def test_a_refusal_reaches_the_run(scorer: LocalScorer) -> None:
    async def ask(url: str) -> None:
        client = HttpScorer(url)
        try:
            with pytest.raises(RunError, match=r"--scorer .*status 400: .*none of them empty"):
                await client.score("1+2=", [])
        finally:
            await client.close()

    asyncio.run(served(scorer, ask))
