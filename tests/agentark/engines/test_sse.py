"""Streams of served models: told as they come, recorded as they would be without streaming."""

import asyncio
import ssl
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from stub_server import StubServer

from agentark.engines.endpoints import Endpoint
from agentark.engines.openai import OpenAIConfig, OpenAIEngine
from agentark.types import Completion, EngineFault, SampleError, SamplingParams, message

SECRET = "sk-do-not-show-me-123"
QUESTION = [message("user", "What is 2 + 2?")]


@pytest.fixture(autouse=True)
def _loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", lambda *_, **__: None)


def streamed(server: StubServer, tries: int = 6, **params: Any) -> tuple[list[str], Completion, Completion]:
    """(the pieces told, the completion, the completion of the same call without streaming)."""

    async def both() -> tuple[list[str], Completion, Completion]:
        told: list[str] = []
        sampling = SamplingParams(temperature=0.0, max_tokens=64, **params)
        async with server:
            endpoint = Endpoint(model_name=server.model, model_url=server.url, api_key=SecretStr(SECRET))
            config = OpenAIConfig(model="m", endpoints=(endpoint,), rest=0.01, max_rest=0.05, timeout=5.0, tries=tries)
            async with OpenAIEngine(config) as engine:
                try:
                    one = await engine.stream(QUESTION, sampling, told.append, session="s", priority=0)
                except (EngineFault, SampleError) as error:
                    error.add_note("".join(told))
                    raise
                return told, one, await engine.chat(QUESTION, sampling, session="s", priority=0)

    return asyncio.run(both())


def facts(completion: Completion) -> Any:
    return {name: getattr(completion, name) for name in completion.__struct_fields__ if name != "seconds"}


def test_a_stream_is_told_by_words_and_recorded_as_a_whole() -> None:
    server = StubServer()
    told, one, other = streamed(server)
    assert "".join(told) == one.text
    assert len(told) == len(one.text.split())
    assert facts(one) == facts(other)
    assert [body.get("stream") for body in server.seen] == [True, None]


@pytest.mark.parametrize("streams", [True, False])
def test_thinking_is_recorded_and_not_told(streams: bool) -> None:
    for reply in ("<think>It may be 5.</think>It is 4.", {"content": "It is 4.", "reasoning_content": "It may be 5."}):
        told, one, other = streamed(StubServer(reply=lambda body, reply=reply: reply, streams=streams))
        assert ("".join(told), one.text, one.reasoning) == ("It is 4.", "It is 4.", "It may be 5.")
        assert facts(one) == facts(other)


def test_a_choice_is_told_as_a_whole() -> None:
    told, one, _ = streamed(StubServer(), choices=("yes", "no"))
    assert told == [one.text] == ["yes"]


def test_before_the_first_word_a_call_is_tried_again() -> None:
    server = StubServer(behaviours=["503", "half", "html"])
    told, one, other = streamed(server)
    assert "".join(told) == one.text == other.text


@pytest.mark.parametrize(("behaviour", "says"), [("broken", "told already"), ("error", "out of memory")])
def test_after_it_the_call_fails(behaviour: str, says: str) -> None:
    server = StubServer(always=behaviour)
    with pytest.raises(EngineFault, match=says) as caught:
        streamed(server)
    assert server.chats == 1
    assert caught.value.__notes__[0].startswith("Thought")


def test_a_key_is_masked_also_where_it_comes_in_pieces() -> None:
    told, one, _ = streamed(StubServer(reply=lambda body: f"It is {SECRET[:9]} 4, {SECRET} and 5."))
    assert "".join(told) == one.text == f"It is {SECRET[:9]} 4, [key] and 5."


def test_the_gateway_streams_a_served_model(tmp_path: Path) -> None:
    import json

    from gateway_cases import gateway

    server = StubServer(pause=0.01)

    async def run() -> list[str]:
        async with server:
            endpoint = Endpoint(model_name=server.model, model_url=server.url)
            async with (
                OpenAIEngine(OpenAIConfig(model="m", endpoints=(endpoint,))) as engine,
                gateway(tmp_path, engine) as served,
            ):
                body = {"model": "org/model", "messages": [{"role": "user", "content": "?"}], "stream": True}
                async with served.http.post(
                    f"{served.url}/v1/chat/completions", json={**body, "user": "GSM8K/test/1"}
                ) as answer:
                    lines = (await answer.text()).split("\n\n")[:-2]
                return [json.loads(line[6:])["choices"][0]["delta"].get("content", "") for line in lines]

    assert len([piece for piece in asyncio.run(run()) if piece]) > 5
