"""A stand-in for an OpenAI-compatible server, on loopback, that misbehaves when told to.

Replies are a pure function of the messages. Tokens are words; the template adds four a message.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from agentark.types import digest

Body = dict[str, Any]
Behaviour = str | tuple[str, Any]
TEMPLATE_TOKENS = 4


def boxed(body: Body) -> str:
    """A short reasoning whose answer (0..3) depends on all that was shown."""
    shown = digest([(message["role"], message["content"]) for message in body["messages"]])
    return f"Thought {shown}, so the answer is \\boxed{{{int(shown, 16) % 4}}}."


@dataclass
class StubServer:
    """An async context manager; `url` is the base of its API.

    Behaviours, one taken per chat request until the list ends:
        ok | 500 | 503 (Retry-After in seconds) | 429 (Retry-After or None) | quota | half | stall | slow (seconds)
        | empty | html | html500 | junk | wrong (a JSON value) | text (a reply) | finish (a finish_reason)
        | refuse (an error message, HTTP 400) | redirect (an address) | packed (a body in gzip)
        | broken (off, after some events of a stream) | error (in a stream, after its words)

    Attributes:
        requests: how many came in, by path.
        seen: bodies of chat requests, in order.
        peak: the most chat requests that were in flight at once.
    """

    model: str = "stub"
    key: str | None = None
    context: int | None = 4096
    """Prompt and reply together; enforced. None: no limit."""
    tells_context: bool = True
    tokenizes: bool = True
    lists_models: bool = True
    guided: bool = True
    usage: bool = True
    newer_limit: bool = False
    """Wants max_completion_tokens."""
    nonsense: bool = False
    """Answers every other path with a chat reply, HTTP 200."""
    told_usage: Body | Callable[[Body], Body] | None = None
    """What it reports instead of its real figures; may depend on the request."""
    latency: float = 0.0
    streams: bool = True
    """Whether it streams where that is asked for."""
    pause: float = 0.0
    """Seconds between two events of a stream."""
    reply: Callable[[Body], str | Body] = boxed
    behaviours: list[Behaviour] = field(default_factory=list)
    always: Behaviour | None = None
    opens_thinking: bool = False
    port: int = 0
    requests: Counter[str] = field(default_factory=Counter)
    seen: list[Body] = field(default_factory=list)
    authorizations: set[str | None] = field(default_factory=set)
    in_flight: int = 0
    peak: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def __aenter__(self) -> "StubServer":
        app = web.Application(client_max_size=1 << 26)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post("/tokenize", self._tokenize)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.0, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.kill()

    async def kill(self) -> None:
        """Stop listening and drop every connection."""
        await self._runner.cleanup()

    @property
    def chats(self) -> int:
        return self.requests["/v1/chat/completions"]

    def tokens(self, messages: Iterable[Body]) -> int:
        return sum(len(message["content"].split()) + TEMPLATE_TOKENS for message in messages)

    async def _models(self, request: web.Request) -> web.Response:
        if denied := self._count(request):
            return denied
        if self.nonsense:
            return web.json_response(self._completion({"messages": []}, "hello"))
        if not self.lists_models:
            return web.Response(status=404, text="no such page")
        card: Body = {"id": self.model, "object": "model"}
        if self.tells_context and self.context is not None:
            card["max_model_len"] = self.context
        return web.json_response({"object": "list", "data": [card]})

    async def _tokenize(self, request: web.Request) -> web.Response:
        if denied := self._count(request):
            return denied
        if self.nonsense:
            return web.json_response(self._completion({"messages": []}, "hello"))
        if not self.tokenizes:
            return web.Response(status=404, text="no such page")
        body = await request.json()
        strings = ["<user>", "Hi", "<assistant>", *(["<think>", "\n"] if self.opens_thinking else [])]
        return web.json_response({"count": self.tokens(body["messages"]), "tokens": [], "token_strs": strings})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        if denied := self._count(request):
            return denied
        body = await request.json()
        self.seen.append(body)
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)
        try:
            if self.latency:
                await asyncio.sleep(self.latency)
            behaviour = self.behaviours.pop(0) if self.behaviours else self.always or "ok"
            return await self._behave(request, body, behaviour)
        finally:
            self.in_flight -= 1

    def _count(self, request: web.Request) -> web.Response | None:
        self.requests[request.path] += 1
        self.authorizations.add(request.headers.get("Authorization"))
        if self.key is not None and request.headers.get("Authorization") != f"Bearer {self.key}":
            return _error(401, f"Incorrect API key provided: {request.headers.get('Authorization')}")
        return None

    async def _behave(self, request: web.Request, body: Body, behaviour: Behaviour) -> web.StreamResponse:
        kind, detail = (behaviour, None) if isinstance(behaviour, str) else behaviour
        if body["model"] != self.model:
            return _error(404, f"The model `{body['model']}` does not exist.")
        match kind:
            case "500" | "503" | "429":
                headers = {} if detail is None else {"Retry-After": str(detail)}
                return _error(int(kind), "try later", headers)
            case "quota":
                return _error(429, "You exceeded your current quota", kind="insufficient_quota")
            case "401" | "403":
                return _error(int(kind), f"no access with {request.headers.get('Authorization')}")
            case "refuse":
                return _error(400, str(detail))
            case "html" | "html500":
                page = "<html><body>Bad gateway. The answer is \\boxed{1}.</body></html>"
                return web.Response(status=200 if kind == "html" else 500, text=page, content_type="text/html")
            case "junk":
                return web.Response(
                    text='{"choices": [{"message": {"content": "\\\\boxed{1}', content_type="application/json"
                )
            case "wrong":
                return web.json_response(detail)
            case "redirect":
                return web.Response(status=307, headers={"Location": str(detail)})
            case "packed":
                return web.Response(body=detail, headers={"Content-Encoding": "gzip"}, content_type="application/json")
            case "empty":
                return web.json_response(self._completion(body, "") | {"choices": []})
            case "stall":
                await asyncio.sleep(3600)
            case "slow":
                await asyncio.sleep(float(detail or 0))
            case "half":
                return await self._half(request, body)
        answer = self._answer(body, kind, detail)
        if body.get("stream") and self.streams and answer.status == 200:
            return await self._stream(request, body, kind, json.loads(answer.text or ""))
        return answer

    async def _stream(self, request: web.Request, body: Body, kind: str, whole: Body) -> web.StreamResponse:
        """The answer in events, a word each; `broken` closes the connection after the second, `error` tells of one."""
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        (choice,) = whole["choices"]
        deltas: list[Body] = [{"role": "assistant", "content": ""}]
        for name in ("reasoning_content", "content"):
            words = (choice["message"].get(name) or "").split(" ")
            deltas += [{name: word if index == 0 else f" {word}"} for index, word in enumerate(words)]
        for index, delta in enumerate(deltas):
            await self._event(response, {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
            await asyncio.sleep(self.pause)
            if index > 3 and kind == "broken" and request.transport is not None:
                request.transport.close()
                return response
        if kind == "error":
            await self._event(response, {"error": {"message": "out of memory"}})
        else:
            await self._event(response, {"choices": [{"delta": {}, "finish_reason": choice["finish_reason"]}]})
            if body.get("stream_options", {}).get("include_usage"):
                await self._event(response, {"choices": [], "usage": whole.get("usage")})
            await response.write(b"data: [DONE]\n\n")
        return response

    async def _event(self, response: web.StreamResponse, event: Body) -> None:
        line = b"data: " + json.dumps(event).encode() + b"\n\n"
        for piece in (line[: len(line) // 2], line[len(line) // 2 :]):  # an event need not come in one piece
            await response.write(piece)

    def _answer(self, body: Body, kind: str, detail: Any) -> web.Response:
        limit = body.get("max_completion_tokens" if self.newer_limit else "max_tokens")
        if limit is None:
            return _error(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
        prompt = self.tokens(body["messages"])
        if self.context is not None and prompt + limit > self.context:
            return _error(
                400,
                f"This model's maximum context length is {self.context} tokens. However, you requested {limit} output "
                f"tokens and your prompt contains {prompt} input tokens, for a total of {prompt + limit} tokens.",
            )
        choices = body.get("structured_outputs", {}).get("choice")
        schema = body.get("response_format", {}).get("json_schema", {}).get("schema")
        reply = detail if kind == "text" else choices[0] if choices and self.guided else self.reply(body)
        if schema and self.guided and kind != "text":
            reply = json.dumps(_instance(schema))
        answer = self._completion(body, reply)
        if kind == "finish":
            answer["choices"][0]["finish_reason"] = detail
        return web.json_response(answer)

    def _completion(self, body: Body, reply: str | Body) -> Body:
        message = {"role": "assistant", **({"content": reply} if isinstance(reply, str) else reply)}
        usage: Body = {"prompt_tokens": self.tokens(body["messages"]), "completion_tokens": 7, "total_tokens": 0}
        usage["prompt_tokens_details"] = {"cached_tokens": 3}
        if self.told_usage is not None:
            usage = self.told_usage(body) if callable(self.told_usage) else self.told_usage
        return {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 0,
            "model": self.model,
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            **({"usage": usage} if self.usage else {}),
        }

    async def _half(self, request: web.Request, body: Body) -> web.StreamResponse:
        whole = json.dumps(self._completion(body, self.reply(body))).encode()
        response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": str(len(whole))})
        await response.prepare(request)
        await response.write(whole[: len(whole) // 2])
        if request.transport is not None:
            request.transport.close()
        return response


def _error(status: int, text: str, headers: dict[str, str] | None = None, kind: str = "error") -> web.Response:
    error = {"message": text, "type": kind, "code": kind if kind != "error" else status}
    return web.json_response({"error": error}, status=status, headers=headers)


def _instance(schema: Body) -> Any:
    """Something that follows a JSON schema."""
    if "enum" in schema:
        return schema["enum"][0]
    if schema["type"] == "object":
        return {key: _instance(part) for key, part in schema["properties"].items()}
    if schema["type"] == "array":
        return [_instance(schema["items"])] * schema.get("minItems", 0)
    return {"string": "text", "integer": schema.get("minimum", 0), "number": 0.0, "boolean": True}[schema["type"]]
