"""The gateway's HTTP side: the OpenAI chat API, and the paths that open and close samples.

    GET  /health                             no key needed
    GET  /v1/models
    POST /v1/chat/completions
    GET  /agentark/samples                   {"left": ids of the dataset without a good row, "open": how many are}
    POST /agentark/samples/<id>              {"query", "gold", "choices"}, or {} for a sample of the dataset
    POST /agentark/samples/<id>/outcome      {"answer": text}, or {"error": text}

Every refusal has the shape of an OpenAI error, and fails alone.
"""

import asyncio
import hmac
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec

from agentark.gateway.calls import BadRequest, Call, call_of, json_object, sample_id
from agentark.gateway.desk import STATEMENT, Desk
from agentark.gateway.sample import Reply
from agentark.gateway.tools import OPENS
from agentark.types import digest

if TYPE_CHECKING:
    from aiohttp import web

OPEN = "/health"
RETRY_SECONDS = "1"

Handler = Callable[["web.Request"], Awaitable["web.StreamResponse"]]


def application(desk: Desk, key: str, max_body: int) -> "web.Application":
    """The aiohttp application in front of a desk.

    Args:
        key: that every request must bear.
        max_body: bytes of a request, at most.
    """
    from aiohttp import web

    expected = f"Bearer {key}".encode()

    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            given = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
            if request.path != OPEN and not hmac.compare_digest(given, expected):
                raise BadRequest("wrong key or none (Authorization: Bearer KEY)", 401, code="invalid_api_key")
            return await handler(request)
        except BadRequest as error:
            return refusal(error)
        except web.HTTPRequestEntityTooLarge:
            return refusal(BadRequest(f"the body is longer than {max_body} bytes (--max_body)", 413, code="too_large"))
        except web.HTTPException as error:
            return refusal(BadRequest(f"{request.method} {request.path:.100}: {error.reason}", error.status))
        except (web.RequestPayloadError, UnicodeError, ValueError) as error:
            return refusal(BadRequest(f"the request cannot be read: {type(error).__name__}: {error}"))

    async def health(request: web.Request) -> web.Response:
        return web.json_response({"model": desk.model, "open": len(desk.open)})

    async def models(request: web.Request) -> web.Response:
        card = {"id": desk.model, "object": "model", "created": 0, "owned_by": "agentark"}
        return web.json_response({"object": "list", "data": [card]})

    async def samples(request: web.Request) -> web.Response:
        return web.json_response({"left": desk.left, "open": len(desk.open)})

    async def state(request: web.Request) -> web.Response:
        id, body = sample_id(request.match_info["id"]), await fields(request, STATEMENT)
        sample, before = await desk.state_sample(id, body)
        return web.json_response({"id": id, "state": before, "query": sample.query, "prompt": sample.prompt})

    async def outcome(request: web.Request) -> web.Response:
        id, body = sample_id(request.match_info["id"]), await fields(request, ("answer", "error"))
        if len(body) != 1 or not all(isinstance(text, str) and text.strip() for text in body.values()):
            raise BadRequest('expected {"answer": text} or {"error": text}', param="answer")
        record = await desk.close(id, body.get("answer"), body.get("error"))
        return web.json_response({"id": id, "final_answer": record.final_answer, "error": record.error})

    async def chat(request: web.Request) -> web.StreamResponse:
        body = json_object(await request.read())
        call = call_of(body, request.headers, desk.model, desk.defaults)
        return await (streamed if call.stream else whole)(desk, request, call)

    served = web.Application(client_max_size=max_body, middlewares=[guarded])
    served.add_routes(
        [
            web.get(OPEN, health),
            web.get("/v1/models", models),
            web.post("/v1/chat/completions", chat),
            web.get("/agentark/samples", samples),
            web.post("/agentark/samples/{id:.+}/outcome", outcome),
            web.post("/agentark/samples/{id:.+}", state),
        ]
    )
    return served


async def fields(request: "web.Request", known: tuple[str, ...]) -> dict[str, Any]:
    """The body of a request, as its known fields that are not null."""
    content = await request.read()
    body = json_object(content) if content.strip() else {}
    for name in body:
        if name not in known:
            raise BadRequest(f"{name:.60}: unknown (known: {', '.join(known)})", param=name[:60])
    return {name: value for name, value in body.items() if value is not None}


def refusal(error: BadRequest) -> "web.Response":
    from aiohttp import web

    headers = {"Retry-After": RETRY_SECONDS} if error.status in (429, 503) else {}
    return web.json_response(error.body, status=error.status, headers=headers)


# ---------------------------------------------------------------- replies


async def whole(desk: Desk, request: "web.Request", call: Call) -> "web.Response":
    """A reply as one body. The call of a client that hangs up is finished all the same, and kept for its next try."""
    from aiohttp import web

    reply = await desk.reply(call, None)
    content, calls = reply.said
    message: dict[str, Any] = {"role": "assistant", "content": content or (None if calls else "")}
    if reply.turn.completion.reasoning is not None:
        message["reasoning_content"] = reply.turn.completion.reasoning
    if calls:
        message["tool_calls"] = tool_calls(call, reply)
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finished(reply)}
    body = {**head(desk, call, reply, "chat.completion"), "choices": [choice], "usage": usage(reply)}
    response = web.json_response(body, headers=marks(reply))
    try:
        await response.prepare(request)
        await response.write_eof()
    except (ConnectionError, asyncio.CancelledError):
        desk.missed(call.sample, reply)
        raise
    return response


async def streamed(desk: Desk, request: "web.Request", call: Call) -> "web.StreamResponse":
    """A reply as server-sent events, from its first words on. What fails before those fails as a whole does."""
    pieces: asyncio.Queue[str | None] = asyncio.Queue()
    task = asyncio.get_running_loop().create_task(desk.reply(call, pieces.put_nowait))
    task.add_done_callback(lambda _: pieces.put_nowait(None))
    events = Events(desk, request, call)
    try:
        while (piece := await pieces.get()) is not None:
            await events.add(piece)
        try:
            reply = await task
        except BadRequest as error:
            if not events.begun:
                raise
            await events.end([error.body])
        else:
            await events.finish(reply)
    except (ConnectionError, asyncio.CancelledError):
        task.cancel()
        with suppress(asyncio.CancelledError, BadRequest):
            reply = await task
            desk.missed(call.sample, reply)
        raise
    assert events.response is not None
    return events.response


class Events:
    """The server-sent events of one reply."""

    def __init__(self, desk: Desk, request: "web.Request", call: Call) -> None:
        self._desk, self._request, self._call = desk, request, call
        self._told = ""
        self._heard = ""
        self._head = {
            "id": f"chatcmpl-{digest((call.sample, call.key, time.time()))}",
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": desk.model,
        }
        self.response: web.StreamResponse | None = None

    @property
    def begun(self) -> bool:
        return self.response is not None

    async def add(self, piece: str) -> None:
        """Tell what is certain of the content: what may be a tool's call is held back."""
        self._heard += piece
        await self._tell(self._certain())

    def _certain(self) -> str:
        if not self._call.tools:
            return self._heard
        before, found, _ = self._heard.partition(OPENS)
        if not found:
            tail = next((size for size in range(len(OPENS) - 1, 0, -1) if before.endswith(OPENS[:size])), 0)
            before = before[: len(before) - tail]
        return before.strip()

    async def _tell(self, content: str) -> None:
        if len(content) > len(self._told) and content.startswith(self._told):
            await self._send([self._chunk({"content": content[len(self._told) :]})])
            self._told = content

    async def finish(self, reply: Reply) -> None:
        content, calls = reply.said
        await self._tell(content)
        last: list[Any] = []
        if reply.turn.completion.reasoning is not None:
            last.append(self._chunk({"reasoning_content": reply.turn.completion.reasoning}))
        if calls:
            numbered = [{"index": index, **call} for index, call in enumerate(tool_calls(self._call, reply))]
            last.append(self._chunk({"tool_calls": numbered}))
        last.append(self._chunk({}, finished(reply)))
        if self._call.include_usage:
            last.append({**self._head, "choices": [], "usage": usage(reply)})
        await self.end([*last, None])

    def _chunk(self, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        return {**self._head, "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]}

    async def _send(self, events: list[Any]) -> None:
        from aiohttp import web

        if self.response is None:
            self.response = web.StreamResponse(
                headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}
            )
            await self.response.prepare(self._request)
            events = [self._chunk({"role": "assistant", "content": ""}), *events]
        lines = (b"[DONE]" if event is None else msgspec.json.encode(event) for event in events)
        await self.response.write(b"".join(b"data: " + line + b"\n\n" for line in lines))

    async def end(self, events: list[Any]) -> None:
        """Send the last events; None stands for the mark of a whole reply."""
        await self._send(events)
        assert self.response is not None
        await self.response.write_eof()


def head(desk: Desk, call: Call, reply: Reply, kind: str) -> dict[str, Any]:
    id = f"chatcmpl-{digest((call.sample, reply.turn.id))}"
    return {"id": id, "object": kind, "created": int(time.time()), "model": desk.model}


def marks(reply: Reply) -> Mapping[str, str]:
    """Headers that say which turn of the record this is."""
    return {"X-AgentArk-Turn": quote(reply.turn.id), "X-AgentArk-Replayed": str(int(reply.replayed))}


def finished(reply: Reply) -> str:
    return "tool_calls" if reply.said[1] else reply.turn.completion.finish_reason


def tool_calls(call: Call, reply: Reply) -> list[dict[str, Any]]:
    return [
        {"id": f"call_{digest((call.sample, reply.turn.id, index))[:24]}", "type": "function", "function": function}
        for index, function in enumerate(reply.said[1])
    ]


def usage(reply: Reply) -> dict[str, Any]:
    done = reply.turn.completion
    figures: dict[str, Any] = {
        "prompt_tokens": done.prompt_tokens,
        "completion_tokens": done.completion_tokens,
        "total_tokens": done.prompt_tokens + done.completion_tokens,
    }
    if done.cached_tokens is not None:
        figures["prompt_tokens_details"] = {"cached_tokens": done.cached_tokens}
    return figures
