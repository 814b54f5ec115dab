"""Requests that no client should send: each is refused with a reason, alone, and nothing else is touched."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from gateway_cases import KEY, MODEL, SAMPLES, Served, StreamingEngine, gateway, rows, timeless
from yarl import URL

ASK = {"model": MODEL, "messages": [{"role": "user", "content": "?"}], "user": "GSM8K/test/1"}
CHAT = "/v1/chat/completions"
STATE = "/agentark/samples/"
DEEP = '{"model": ' + "[" * 100_000
BODIES: dict[str, tuple[str, Any, int, str]] = {
    "no JSON": (CHAT, b"{", 400, "not JSON"),
    "not an object": (CHAT, b"[1]", 400, "not a JSON object"),
    "NaN": (CHAT, b'{"temperature": NaN}', 400, "not JSON"),
    "half a surrogate pair": (CHAT, b'{"model": "\\ud800"}', 400, "not JSON"),
    "not UTF-8": (CHAT, b'{"model": "\xff"}', 400, "not JSON"),
    "too deep": (CHAT, DEEP.encode(), 400, "not JSON"),
    "huge": (CHAT, b'{"model": "' + b"x" * (1 << 21) + b'"}', 413, "longer than"),
    "an unknown field": (CHAT, {**ASK, "temprature": 1}, 400, "did you mean temperature?"),
    "an unknown field of a message": (CHAT, {**ASK, "messages": [{"role": "user", "contents": "?"}]}, 400, "contents"),
    "another model": (CHAT, {**ASK, "model": "gpt"}, 404, MODEL),
    "no messages": (CHAT, {**ASK, "messages": []}, 400, "messages"),
    "messages that are none": (CHAT, {**ASK, "messages": [7]}, 400, "messages[0]"),
    "an image": (CHAT, {**ASK, "messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "image_url"),
    "an unknown role": (CHAT, {**ASK, "messages": [{"role": "root", "content": "?"}]}, 400, "root"),
    "a number as a text": (CHAT, {**ASK, "temperature": "1"}, 400, "temperature"),
    "true as a number": (CHAT, {**ASK, "max_tokens": True}, 400, "max_tokens"),
    "an infinite number": (CHAT, b'{"model": "org/model", "messages": [], "temperature": 1e999}', 400, ""),
    "a number beyond all": (CHAT, {**ASK, "max_tokens": 10**30}, 400, "max_tokens"),
    "several replies": (CHAT, {**ASK, "n": 2}, 400, "n: 2"),
    "a stop that is empty": (CHAT, {**ASK, "stop": [""]}, 400, "stop"),
    "a tool without a name": (CHAT, {**ASK, "tools": [{"type": "function"}]}, 400, "tools[0]"),
    "a choice of no tool": (CHAT, {**ASK, "tool_choice": {"type": "function", "function": {"name": "x"}}}, 400, "x"),
    "metadata that is none": (CHAT, {**ASK, "metadata": [1]}, 400, "metadata"),
    "no sample": (CHAT, {**ASK, "user": None}, 400, "which sample?"),
    "a sample above its folder": (CHAT, {**ASK, "user": "../../etc/passwd"}, 400, "not an id"),
    "a sample with a control sign": (CHAT, {**ASK, "user": "a\nb"}, 400, "not a name"),
    "a sample that nobody stated": (CHAT, {**ASK, "user": "nobody"}, 404, "state it"),
    "a round below 0": (CHAT, {**ASK, "metadata": {"round": -1}}, 400, "round"),
    "the team's own name": (CHAT, {**ASK, "metadata": {"agent": "team"}}, 400, "team"),
    "a long agent": (CHAT, {**ASK, "metadata": {"agent": "a" * 1000}}, 400, "agent"),
    "an unknown path": ("/v2/chat", ASK, 404, "/v2/chat"),
    "a path upwards": (STATE + "%2e%2e/%2e%2e/x", {"query": "?"}, 400, "not an id"),
    "a query that is none": (STATE + "mine", {"query": 7}, 400, "query"),
    "an unknown field of a statement": (STATE + "mine", {"query": "?", "golds": 7}, 400, "golds"),
    "a gold that is none": (STATE + "mine", {"query": "?", "gold": {"a": 1}}, 400, "gold"),
    "choices of a number": (STATE + "mine", {"query": "?", "choices": ["a", "b"]}, 400, "choices"),
    "an outcome that is empty": (STATE + "GSM8K/test/1/outcome", {"answer": " "}, 400, "answer"),
    "an outcome twice over": (STATE + "GSM8K/test/1/outcome", {"answer": "1", "error": "2"}, 400, "answer"),
    "an outcome of nobody": (STATE + "nobody/outcome", {"answer": "1"}, 404, "state it"),
}


async def refused(served: Served, path: str, body: Any) -> tuple[int, dict[str, Any]]:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with served.http.post(URL(served.url + path, encoded=True), data=content) as answer:
        return answer.status, (await answer.json())["error"]


async def debates(served: Served) -> None:
    async def work(id: str) -> None:
        for _ in range(3):
            await asyncio.gather(*(served.said(id, "Solve it.", Agent=agent) for agent in ("one", "two")))
        await served.post(f"/agentark/samples/{id}/outcome", {"answer": "1"})

    await asyncio.gather(*(work(sample.id) for sample in SAMPLES[2:6]))


def test_hostile_requests_are_refused_and_touch_nothing(tmp_path: Path) -> None:
    async def run(folder: Path, hostile: bool) -> list[Any]:
        folder.mkdir()
        wrong = []
        async with gateway(folder, StreamingEngine(latency=0.01)) as served:

            async def attack() -> None:
                for name, (path, body, status, reason) in BODIES.items() if hostile else ():
                    found, error = await refused(served, path, body)
                    if found != status or reason not in error["message"] or error.keys() != SHAPE:
                        wrong.append((name, found, error))

            await asyncio.gather(debates(served), attack())
            assert not served.desk.open.keys() - {"GSM8K/test/1"}
        assert not wrong, wrong
        return [timeless(row) for row in rows(folder)]

    quiet = asyncio.run(run(tmp_path / "quiet", False))
    assert quiet == asyncio.run(run(tmp_path / "hostile", True))
    assert len(quiet) == 4


SHAPE = {"message", "type", "param", "code"}


def test_a_wrong_key_opens_nothing(tmp_path: Path) -> None:
    async def run() -> None:
        async with gateway(tmp_path, StreamingEngine()) as served:
            for key in ("", "Bearer", "Bearer ", f"Bearer {KEY}x", f"bearer {KEY}", f"Bearer {KEY}é", KEY):
                for path in (CHAT, STATE + "mine", "/v1/models", "/nowhere"):
                    status, body = await served.post(path, ASK, Authorization=key)
                    assert (status, body["error"]["code"]) == (401, "invalid_api_key"), key
            async with served.http.get(served.url + "/health", headers={"Authorization": ""}) as answer:
                assert answer.status == 200
            async with served.http.get(served.url + CHAT) as answer:
                assert (answer.status, (await answer.json()).keys()) == (405, {"error"})

    asyncio.run(run())


@pytest.mark.parametrize(
    "lines",
    [
        "GET /v1/models HTTP/9.9\r\n\r\n",
        "\x00\x01\x02\r\n\r\n",
        f"POST {CHAT} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {KEY}\r\nContent-Length: -1\r\n\r\n",
        f"POST {CHAT} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {KEY}\r\nContent-Length: 9999999999\r\n\r\n{{",
        f"POST {CHAT} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {KEY}\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        f"GET {STATE}../../etc/passwd HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {KEY}\r\n\r\n",
        "GET " + "/a" * 10_000 + " HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
)
def test_broken_http_is_refused(lines: str, tmp_path: Path) -> None:
    async def run() -> None:
        async with gateway(tmp_path, StreamingEngine()) as served:
            port = int(served.url.rpartition(":")[2])
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(lines.encode())
            writer.write_eof()
            answer = await reader.read()
            assert not answer or answer.split()[1].startswith(b"4"), answer[:200]
            writer.close()
            assert await served.said("GSM8K/test/1", "Still there?")

    asyncio.run(run())


def test_limits_refuse_and_say_which(tmp_path: Path) -> None:
    async def run() -> None:
        async with gateway(tmp_path, StreamingEngine(latency=0.2), open_samples=2, calls=1) as served:
            assert (await served.post(STATE + "GSM8K/test/1"))[0] == 200
            assert (await served.post(STATE + "GSM8K/test/2"))[0] == 200
            status, body = await served.post(STATE + "GSM8K/test/3")
            assert (status, "--max_open_samples" in body["error"]["message"]) == (429, True)
            answers = await asyncio.gather(*(served.chat("GSM8K/test/1", str(index)) for index in range(3)))
            assert sorted(status for status, _ in answers) == [200, 429, 429]

    asyncio.run(run())
