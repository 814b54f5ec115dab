"""One OpenAI-compatible server as seen over HTTP: every request, and what each kind of failure means.

Replies are read strictly, into the structs below: half a body, an HTML page or a reply without choices is a Fault
and never text.
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from email.utils import parsedate_to_datetime
from time import time
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from msgspec import Struct

from agentark.engines.endpoints import Endpoint
from agentark.engines.fitting import Plan, complaint
from agentark.engines.masking import masking, masking_growth
from agentark.engines.pool import Fault, Slot
from agentark.engines.request import NEUTRAL, REMOVED_BY, TOP_LOGPROBS, body_of, plain, refused
from agentark.engines.sse import bounded, folded, streamed
from agentark.thinking import ends_open
from agentark.types import FinishReason, Message, RunError, SampleError, SamplingParams, UserError, message

if TYPE_CHECKING:
    from openai import APIStatusError

T = TypeVar("T")

CONNECT_SECONDS = 10.0
START_SECONDS = 20.0
"""Limit of the small requests at the start."""

FINISHED: dict[str, FinishReason] = {
    "stop": "stop",
    "eos": "stop",
    "end_turn": "stop",
    "length": "length",
    "max_tokens": "length",
}
PROBE_CHOICES = ("zebra", "quartz")
PROBE_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"animal": {"type": "string", "enum": list(PROBE_CHOICES)}},
    "required": ["animal"],
    "additionalProperties": False,
}
MAX_BYTES = 1 << 24
"""Limit of an answer's body; a reply of 100,000 tokens is half a megabyte."""
MAX_PACKED_BYTES = 1 << 18
"""Limit of a compressed body, which may grow a thousandfold."""
MAX_TOKENS_TOLD = 1 << 31
"""A usage figure above this cannot be a count of tokens."""


class _Card(Struct):
    id: str
    max_model_len: int | None = None


class _Cards(Struct):
    data: list[_Card]


class _Tokens(Struct):
    count: int
    token_strs: list[str] | None = None


class _Details(Struct):
    cached_tokens: int | None = None


class _Usage(Struct):
    prompt_tokens: int
    completion_tokens: int
    prompt_tokens_details: _Details | None = None


class _ContentPart(Struct):
    text: str = ""


class _Message(Struct):
    content: str | list[_ContentPart] | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    refusal: str | None = None


class Token(Struct):
    """One way in which a reply could have begun."""

    token: str
    logprob: float


class _Place(Struct):
    top_logprobs: list[Token] = []


class _Logprobs(Struct):
    content: list[_Place] | None = None


class _Choice(Struct):
    message: _Message
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class _ChatCompletion(Struct):
    choices: list[_Choice]
    usage: _Usage | None = None


class Reply(Struct, frozen=True):
    """A server's answer to one call."""

    content: str
    reasoning: str | None
    finish_reason: FinishReason
    prompt_tokens: int | None
    completion_tokens: int | None
    cached_tokens: int | None
    first: tuple[Token, ...] = ()
    """The likeliest first tokens, where they were asked for and told."""


class Nonsense(Fault):
    """The status is good, but no such server would send this body."""


class Denied(RunError):
    """No call of this kind can succeed here: bad credentials, no credit, no such model."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


class Server(Slot):
    """An endpoint, its client and what it told about itself.

    Args:
        timeout: seconds one call may take.
        rest, max_rest: see Slot.
        extra_body: further fields of every request.

    Attributes:
        introduced: the attributes below are known.
        context_length: tokens, where the server or the endpoint file tells.
        tokenizes: it counts tokens for us.
        opens_thinking: the template ends in an open thought.
        guided: it honours `structured_outputs`; None before the probe.
        schemas: it honours `response_format` with a JSON schema; None before the probe.
        tells_logprobs: it has not yet refused to.
        masked_growth: hides its key in a reply that is not yet whole.
    """

    def __init__(
        self, endpoint: Endpoint, timeout: float, rest: float, max_rest: float, extra_body: Mapping[str, Any] = {}
    ) -> None:
        super().__init__(endpoint, rest, max_rest)
        self.introduced = self.tokenizes = self.opens_thinking = False
        self.context_length: int | None = endpoint.context_length
        self.guided: bool | None = None
        self.schemas: bool | None = None
        self.tells_logprobs = self._takes_neutral = True
        self._extra = extra_body
        self._key = endpoint.key() or "none"
        self._masked = masking(self._key)
        self.masked_growth = masking_growth(self._key)
        self._timeout = timeout
        self._limit_field = "max_tokens"
        self._probing = asyncio.Lock()

    def open(self) -> None:
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient

        client = DefaultAsyncHttpxClient(event_hooks={"response": [self._look_at]})
        self._client = AsyncOpenAI(
            api_key=self._key, base_url=self.endpoint.model_url, max_retries=0, http_client=client
        )

    async def close(self) -> None:
        await self._client.close()

    async def introduce(self, thinking: bool | None) -> None:
        """Ask what is served, how long its context is, and whether it counts tokens for us.

        Raises:
            UserError: it does not serve the model.
        """
        name, served = self.endpoint.model_name, {}
        try:
            cards = await self._request("get", "/models", None, _Cards, START_SECONDS)
            served = {card.id: card.max_model_len for card in cards.data}
        except Denied as denied:
            if denied.status == 401:
                raise
        except (SampleError, Nonsense):
            pass  # some servers have no list
        if name not in served:  # an alias, perhaps: ask it for a token
            try:
                await self.chat(Plan([message("user", "Hi")], 1, 1), SamplingParams(0.0, 1))
            except (SampleError, Denied) as error:
                if isinstance(error, Denied) and error.status != 404:
                    raise
                names = self._clean(", ".join(sorted(served))) or "it gives no list"
                raise UserError(f"{self.label} does not serve {name!r} (served there: {names})") from None
        if (context := served.get(name)) is not None:
            self.context_length = min(context, self.context_length or context)
            tokens = await self._tokenize([message("user", "Hi")], thinking, strings=True)
            self.tokenizes = tokens is not None
            tail = "".join((tokens.token_strs or [])[-8:]) if tokens else ""
            self.opens_thinking = ends_open(tail)
        self.introduced = True

    async def count(self, messages: Sequence[Message], thinking: bool | None) -> int:
        """Tokens of a dialogue, template included; only where `tokenizes`."""
        tokens = await self._tokenize(messages, thinking)
        if tokens is None:
            raise Fault(f"{self.label}: /tokenize is gone")
        return tokens.count

    async def honours_choices(self) -> bool:
        """Whether guided choice works here; the first call asks a question that none of the choices answers."""
        async with self._probing:
            if self.guided is None:
                reply = await self._probe(SamplingParams(0.0, 16, choices=PROBE_CHOICES), thinking=False)
                self.guided = reply.strip() in PROBE_CHOICES
        return self.guided

    async def honours_schemas(self) -> bool:
        """Whether replies follow a JSON schema here; asked as `honours_choices` asks."""
        async with self._probing:
            if self.schemas is None:
                thinking = False if self.tokenizes else None  # a field of vLLM's like
                reply = await self._probe(SamplingParams(0.0, 32, schema=PROBE_SCHEMA), thinking)
                try:
                    self.schemas = msgspec.json.decode(reply)["animal"] in PROBE_CHOICES
                except (msgspec.DecodeError, TypeError, KeyError):
                    self.schemas = False
        return self.schemas

    async def _probe(self, params: SamplingParams, thinking: bool | None) -> str:
        """A reply; nothing where the server refuses."""
        question = message("user", "What is 2 + 2? Answer with the number.")
        try:
            return (await self.chat(Plan([question], params.max_tokens, 16), params, thinking)).content
        except SampleError:
            return ""

    async def chat(self, plan: Plan, params: SamplingParams, thinking: bool | None = None) -> Reply:
        """One try of one call.

        Args:
            plan: what is sent, and how long the reply may be (`params` says what was asked for).
            params: `choice_logprobs` asks for the likeliest first tokens.

        Raises:
            Fault: it may be tried again.
            TooLong: the server says that prompt and reply do not fit.
            SampleError: the server refuses this call.
            Denied: the server refuses all calls.
        """
        logprobs = {"logprobs": True, "top_logprobs": TOP_LOGPROBS} if params.choice_logprobs else {}
        while True:
            asked = logprobs if self.tells_logprobs else {}
            neutral = self.tokenizes and self._takes_neutral
            body = body_of(self.endpoint.model_name, plan, params, thinking, neutral, self._extra)
            stream = {"stream": True, "stream_options": {"include_usage": True}} if streamed() else {}
            sent = body | asked | stream | {self._limit_field: plan.max_tokens}
            try:
                answer = await self._request("post", "/chat/completions", sent, _ChatCompletion, self._timeout)
            except SampleError as refusal:
                if self._limit_field == "max_tokens" and "max_completion_tokens" in str(refusal):
                    self._limit_field = "max_completion_tokens"  # newer OpenAI models; older servers do not know it
                elif asked and "logprobs" in str(refusal):
                    self.tells_logprobs = False  # reasoning models, some servers
                elif neutral and (name := refused(str(refusal), sent)) in NEUTRAL and getattr(params, name) is None:
                    self._takes_neutral = False
                elif name := refused(str(refusal), sent):
                    text = f"{self.label} takes no such {name}; use {REMOVED_BY[name]} ({refusal})"
                    raise Denied(text, 400) from None
                else:
                    raise
            else:
                return self._read(answer)

    def _read(self, answer: _ChatCompletion) -> Reply:
        if not answer.choices:
            raise Fault(f"{self.label} answered without choices")
        choice, usage = answer.choices[0], answer.usage
        reasoning = choice.message.reasoning or choice.message.reasoning_content or None
        content = choice.message.content if choice.message.content is not None else choice.message.refusal
        if isinstance(content, list):
            content = "".join(part.text for part in content)
        if choice.finish_reason == "content_filter":
            raise SampleError(f"the content filter of {self.label} stopped this reply")
        if choice.finish_reason not in FINISHED:
            raise Fault(f"{self.label} ended a reply with finish_reason {self._clean(str(choice.finish_reason))!r}")
        if content is None and reasoning is None:
            raise Fault(f"{self.label} answered without content")
        return Reply(
            content=self._masked(content or ""),
            reasoning=reasoning and self._masked(reasoning),
            finish_reason=FINISHED[choice.finish_reason],
            prompt_tokens=_count(usage.prompt_tokens) if usage else None,
            completion_tokens=_count(usage.completion_tokens) if usage else None,
            cached_tokens=_count(usage.prompt_tokens_details.cached_tokens)
            if usage and usage.prompt_tokens_details
            else None,
            first=tuple(choice.logprobs.content[0].top_logprobs) if choice.logprobs and choice.logprobs.content else (),
        )

    async def _tokenize(
        self, messages: Sequence[Message], thinking: bool | None, strings: bool = False
    ) -> _Tokens | None:
        """vLLM's `/tokenize`, beside the API; None where there is none."""
        url = self.label.removesuffix("/v1") + "/tokenize"
        body: dict[str, Any] = {"model": self.endpoint.model_name, "messages": plain(messages)}
        if strings:
            body["return_token_strs"] = True
        if thinking is not None:
            body["chat_template_kwargs"] = {"enable_thinking": thinking}
        try:
            return await self._request("post", url, body, _Tokens, START_SECONDS)
        except (Denied, SampleError, Nonsense):
            return None

    async def _look_at(self, response: Any) -> None:
        """Bound the body of an answer.

        Raises:
            Denied: the server sends the request, prompt and all, to another host.
        """
        packed = response.headers.get("content-encoding", "identity") != "identity"
        response.stream = bounded(response.stream, MAX_PACKED_BYTES if packed else MAX_BYTES)
        if not response.has_redirect_location:
            return
        there = response.url.join(response.headers["location"])
        if (there.scheme, there.host, there.port) != (response.url.scheme, response.url.host, response.url.port):
            where = f"{there.scheme}://{there.netloc.decode('ascii', 'replace')}"
            raise Denied(f"{self.label} redirects to {where}; if that is meant, name it as model_url", 307)

    async def _request(self, method: str, path: str, body: dict[str, Any] | None, kind: type[T], seconds: float) -> T:
        """Send, and read the answer's body as `kind`. `cast_to=str`: the client's own models accept anything."""
        from openai import APIConnectionError, APIStatusError, APITimeoutError, Timeout

        options: Any = {"timeout": Timeout(seconds, connect=min(CONNECT_SECONDS, seconds))}
        try:
            async with asyncio.timeout(seconds):
                if method == "get":
                    text = await self._client.get(path, cast_to=str, options=options)
                else:
                    text = await self._client.post(path, cast_to=str, body=body, options=options)
            return msgspec.json.decode(folded(text), type=kind)
        except (TimeoutError, APIConnectionError) as error:
            if isinstance(error.__cause__, Denied):
                raise error.__cause__ from None
            cause = type(error.__cause__).__name__
            if cause != "ConnectTimeout" and isinstance(error, TimeoutError | APITimeoutError):
                raise Fault(f"{self.label} gave no reply within {seconds:g} s", "stalled") from None
            cause = self._clean(str(error.__cause__ or "")) or cause
            raise Fault(f"{self.label} cannot be reached or broke off ({cause})") from None
        except OverflowError as error:
            raise Nonsense(f"{self.label} is not to be read: {error}") from None
        except APIStatusError as error:
            raise self._meaning(error) from None
        except (msgspec.DecodeError, UnicodeError) as error:
            start = self._clean(text)[:80]
            raise Nonsense(f"{self.label} sent something else than a chat API would: {start!r} ({error})") from None

    def _meaning(self, error: "APIStatusError") -> Exception:
        """The meaning of an HTTP error status for this call and the others."""
        status, text = error.status_code, self._clean(error.message)
        text = text.removeprefix(f"Error code: {status}").removeprefix(" - ") or "no message"
        if status == 429 and "insufficient_quota" not in (error.code, error.type):
            return Fault(f"{self.label} limits the rate ({text})", "limited", _retry_after(error))
        if status in (401, 402, 403, 429):
            variable = f", key from ${self.endpoint.api_key_env}" if self.endpoint.api_key_env else ""
            return Denied(f"{self.label} refuses access: HTTP {status}{variable} ({text})", status)
        if status == 404:
            return Denied(f"{self.label}: not found there, the model {self.endpoint.model_name!r}? ({text})", status)
        if status < 400 or status in (408, 409, 425) or status >= 500:
            return Fault(f"{self.label} failed with HTTP {status} ({text})", "broken", _retry_after(error))
        return complaint(text) or SampleError(f"{self.label} refuses this call: HTTP {status} ({text})")

    def _clean(self, text: str) -> str:
        """One short line without the key."""
        return " ".join(self._masked(text).split())[:500]


def _count(told: int | None) -> int | None:
    """A usage figure; None where it cannot be one."""
    return told if told is not None and 0 <= told <= MAX_TOKENS_TOLD else None


def _retry_after(error: "APIStatusError") -> float | None:
    """Seconds, from the header's number or date."""
    value = error.response.headers.get("retry-after", "").strip()
    with suppress(ValueError):
        return max(0.0, float(value))
    with suppress(ValueError):
        return max(0.0, parsedate_to_datetime(value).timestamp() - time())
    return None
