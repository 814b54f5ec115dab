"""Any server that speaks the OpenAI chat API, on one endpoint or several, through the official client.

Only this engine retries (the client's own retries are off). What becomes of a try that fails:

    cannot connect, 5xx, half a body, not JSON, no choices   again after full-jitter backoff, `tries` times in all
    no reply within `timeout`                                once more
    429                                                      again, 2 x `tries` times; that endpoint gets half the calls
    401, 402, 403, 404, quota used up                        RunError at once
    400 about length                                         cut or clipped and sent again, SHRINKS times
    any other 4xx, a content filter                          SampleError

and then EngineFault naming endpoint and tries, or RunError where every endpoint failed DEAD_AFTER times in a row
with rests between. Retry-After is honoured (agentark/engines/pool.py has the endpoints' side of this).

Guided choice is asked for with `structured_outputs`, which servers other than vLLM may ignore or refuse; a probe
before an endpoint's first choice call finds out. Where it is not honoured, CHOICE_REQUEST stands after the last message
(so the text sent is that of the record plus this constant), and the reply must be one of the choices, apart from case
and punctuation around it. Any other reply is a SampleError, never a guess. A JSON schema is asked for with
`response_format`, after a probe of its own; where that is not honoured it is left out, and the caller reads the reply.

A server with `/tokenize` counts prompts that might not fit. Elsewhere their length is estimated, by a ratio learned
from usage figures and refusals: where a document is cut is then recorded, but need not be the same in a second run.
"""

import asyncio
import importlib.util
import logging
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from msgspec import structs
from pydantic import Field

from agentark.config import Config
from agentark.engines.endpoints import Endpoint
from agentark.engines.fitting import Fitter, Plan, TooLong
from agentark.engines.pool import Fault, Pool
from agentark.engines.prompt import MIN_NEW_TOKENS
from agentark.engines.server import Reply, Server, Token
from agentark.engines.sse import Told, telling
from agentark.progress import starting
from agentark.thinking import Shown, split_thinking
from agentark.types import (
    Completion,
    EngineFault,
    Guarantee,
    Message,
    Part,
    RunError,
    SampleError,
    SamplingParams,
    UserError,
)

logger = logging.getLogger(__name__)

UNKNOWN_CONTEXT = 1 << 20
"""Context length until a server tells: nothing is clipped or cut before one refuses something."""

START_TRIES = 3
SLOW_SECONDS = 1.0
"""A start that takes longer is named."""
STALLED_TRIES = 2
SHRINKS = 4
DEAD_AFTER = 3

WORDED_TOKENS = 16
"""New tokens at least, for a choice that is asked for in words."""

CHOICE_REQUEST = "\n\nAnswer with exactly one of the following, and nothing else: {choices}"


class OpenAIConfig(Config):
    """Settings of the openai engine; the flags of inference.py."""

    model: str
    """The model's name in the endpoint file and in records."""
    endpoints: tuple[Endpoint, ...] = Field(min_length=1)
    max_model_len: int | None = Field(None, ge=2 * MIN_NEW_TOKENS)
    """Tokens of context to use at most; None: what the servers have."""
    enable_thinking: bool | None = None
    """None: the template's own default (nothing is sent)."""
    reproducible: bool = False
    """Send a seed with each call. Not every server honours it; `seeded` is claimed only for those like vLLM."""
    max_concurrency: int | None = Field(None, ge=1)
    """Calls in flight; None: the sum of the endpoints' max_workers."""
    timeout: float = Field(600.0, gt=0)
    """Seconds one try of a call may take."""
    tries: int = Field(6, ge=1)
    """Tries of one call, all endpoints together: half a minute to a minute for an endpoint that refuses at once."""
    rest: float = Field(1.0, ge=0)
    """Seconds: first rest of a failing endpoint, and bound of the first backoff of a call; doubles each time."""
    max_rest: float = Field(30.0, ge=0)
    """Seconds: upper bound of both."""
    extra_body: dict[str, Any] = Field(default_factory=dict)
    """Further fields of every request."""


class OpenAIEngine:
    """See `agentark.types.Engine`.

    Args:
        servers: None: those behind the endpoints, over HTTP.

    Raises:
        UserError: the client is not installed, or the variable of a key is not set.
    """

    name = "openai"
    Config = OpenAIConfig

    def __init__(self, config: OpenAIConfig, servers: Sequence[Server] | None = None) -> None:
        if importlib.util.find_spec("openai") is None:
            raise UserError("served models need the package openai, which is not installed (pip install openai)")
        self.config = config
        self.guarantee: Guarantee = "engine"
        self.dtype: str | None = None
        total = sum(endpoint.max_workers for endpoint in config.endpoints)
        self.capacity = min(total, config.max_concurrency or total)
        self.context_length = config.max_model_len or UNKNOWN_CONTEXT
        self.servers = servers or [
            Server(endpoint, config.timeout, config.rest, config.max_rest, config.extra_body)
            for endpoint in config.endpoints
        ]
        self._pool = Pool(self.servers)
        self._fitter = Fitter()
        self._said: set[str] = set()

    async def __aenter__(self) -> "OpenAIEngine":
        for server in self.servers:
            server.open()
        try:
            wrongs = [wrong for wrong in await self._start_all() if wrong is not None]
            for wrong in wrongs:
                if not isinstance(wrong, Fault):
                    raise wrong
            away = "; ".join(map(str, wrongs))
            if len(wrongs) == len(self.servers):
                raise UserError(f"no endpoint of {self.config.model} after {START_TRIES} tries: {away}")
            if away:
                self._say(f"going on without, until it answers, after {START_TRIES} tries: {away}")
            if self.config.reproducible and all(server.tokenizes for server in self.servers):
                self.guarantee = "seeded"
            elif self.config.reproducible:
                self._say("--reproducible: seeds are sent, but not every server is known to honour them")
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        for server in self.servers:
            await server.close()

    async def _start_all(self) -> list[Fault | UserError | RunError | None]:
        """Get to know all endpoints; says what is waited for when it takes long."""
        count = len(self.servers)
        waited = f"waiting for {self.servers[0].label if count == 1 else f'{count} endpoints'}"
        with starting(self.config.model) as phase:
            slow = asyncio.get_running_loop().call_later(SLOW_SECONDS, phase, waited)
            try:
                return await asyncio.gather(*map(self._start, self.servers))
            finally:
                slow.cancel()

    async def _start(self, server: Server) -> Fault | UserError | RunError | None:
        """Get to know an endpoint. Returns what is wrong, if anything."""
        for tries in range(1, START_TRIES + 1):
            now = asyncio.get_running_loop().time()
            try:
                await self._introduce(server)
            except (UserError, RunError) as error:
                return error
            except Fault as fault:
                server.failed(fault, now, now)
                if tries == START_TRIES:
                    return fault
                await asyncio.sleep(random.uniform(0, self.config.rest * 2**tries))
            else:
                break
        server.succeeded()
        return None

    async def _introduce(self, server: Server) -> None:
        await server.introduce(self.config.enable_thinking)
        self.context_length = min(self.context_length, server.context_length or UNKNOWN_CONTEXT)
        if self.context_length < 2 * MIN_NEW_TOKENS:
            raise UserError(f"{server.label}: a context of {self.context_length} tokens is too small for any call")

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
        """See `agentark.episode.Streaming`. A choice is told once it is known to be one."""
        if params.choices is None:
            return await self._reply(messages, params, session, priority, on_text)
        completion = await self._reply(messages, params, session, priority, None)
        on_text(completion.text)
        return completion

    async def _reply(
        self,
        messages: Sequence[Message],
        params: SamplingParams,
        session: str,
        priority: int,
        on_text: Callable[[str], None] | None,
    ) -> Completion:
        start = time.perf_counter()
        tries: Counter[str] = Counter()
        bounds = {"broken": self.config.tries, "limited": 2 * self.config.tries, "stalled": STALLED_TRIES}
        told: Told | None = None
        while True:
            try:
                async with self._pool.lease(session, priority) as server:
                    shown = None if on_text is None else Shown(on_text, server.opens_thinking)
                    told = None if shown is None else Told(shown, server.masked_growth)
                    completion = await self._attempt(server, messages, params, start, told)
                    if shown is not None:
                        shown.end(completion.text)
                    return completion
            except Fault as fault:
                if told is not None and told.begun:
                    raise EngineFault(f"{fault}; a part of the reply was told already") from None
                tries[fault.kind] += 1
                if server.failures == DEAD_AFTER:
                    self._say(f"{server.label} failed {DEAD_AFTER} times in a row and is tried less often: {fault}")
                if tries[fault.kind] >= bounds[fault.kind]:
                    text = f"{fault}; given up after {tries.total()} tries"
                    if all(server.failures >= DEAD_AFTER for server in self.servers):
                        raise RunError(f"no endpoint of {self.config.model} works any more: {text}") from None
                    raise EngineFault(text) from None
                backoff = min(self.config.max_rest, self.config.rest * 2 ** (tries.total() - 1))
            await asyncio.sleep(random.uniform(0, backoff))

    async def _attempt(
        self, server: Server, messages: Sequence[Message], params: SamplingParams, start: float, told: Told | None
    ) -> Completion:
        if not server.introduced:  # it was away at the start
            try:
                await self._introduce(server)
            except UserError as error:
                raise RunError(str(error)) from None
        guided = params.choices is not None and await server.honours_choices()
        if params.choices and not guided:
            self._say(
                f"{server.label} does not honour guided choice (structured_outputs): choices are asked for in words, "
                "and a reply that is none of them is an error of its sample"
            )
            messages = _asking(messages, params.choices)
            # words for a choice may be more tokens than the choice
            params = structs.replace(params, max_tokens=max(params.max_tokens, WORDED_TOKENS))
        schema = params.schema if params.schema is not None and await server.honours_schemas() else None
        if params.schema is not None and schema is None:
            self._say(f"{server.label} does not honour JSON schemas (response_format): replies are free text there")
        unthinking = guided or (schema is not None and server.tokenizes)  # others might not know the field for it
        wanted = self.config.enable_thinking if params.enable_thinking is None else params.enable_thinking
        thinking = False if unthinking else wanted
        count = partial(server.count, thinking=thinking) if server.tokenizes else None
        sent = structs.replace(
            params,
            seed=params.seed if self.config.reproducible else None,
            choices=params.choices if guided else None,
            schema=schema,
        )
        refused: tuple[Plan, TooLong] | None = None
        for _ in range(1 + SHRINKS):
            plan = await self._fitter.plan(messages, params, self.context_length, count, refused)
            try:
                with telling(told):
                    reply = await server.chat(plan, sent, thinking)
            except TooLong as refusal:
                refused = plan, refusal
                self.context_length = min(self.context_length, refusal.context or self.context_length)
            else:
                return self._completion(server, reply, plan, params, sent, start)
        raise SampleError(f"the prompt could not be made to fit: {refused[1] if refused else None}")

    def _completion(
        self, server: Server, reply: Reply, plan: Plan, params: SamplingParams, sent: SamplingParams, start: float
    ) -> Completion:
        """The reply as a Completion; one that was decoded under guidance holds no thinking.

        Args:
            params: of the call.
            sent: those of them that the server was sent.
        """
        guided = sent.choices is not None
        text, reasoning = reply.content.strip(), reply.reasoning
        if reasoning is None and not guided and sent.schema is None:
            text, reasoning = split_thinking(reply.content, server.opens_thinking)
        if params.choices:
            choice = _match(text, params.choices, exactly=guided, begun=guided and params.choice_logprobs)
            if choice is None and guided:
                raise Fault(f"{server.label}: guided choice gave {text[:80]!r}, not one of {list(params.choices)}")
            if choice is None:
                raise SampleError(f"{server.label}: the reply {text[:80]!r} is not one of {list(params.choices)}")
            text = choice
        logprobs = None
        if params.choices and params.choice_logprobs and reasoning is None:
            logprobs = _first_logprobs(reply.first, params.choices)
        if reply.prompt_tokens is None:
            self._say(f"{server.label} reports no usage: its token counts are recorded as 0")
        else:
            self._fitter.learn(plan, reply.prompt_tokens)
        return Completion(
            text=text,
            reasoning=reasoning,
            finish_reason=reply.finish_reason,
            prompt_tokens=reply.prompt_tokens or 0,
            completion_tokens=reply.completion_tokens or 0,
            cached_tokens=reply.cached_tokens,
            max_tokens=plan.max_tokens if plan.max_tokens < params.max_tokens else None,
            truncation=plan.truncation,
            choice_logprobs=logprobs,
            model=self.config.model,
            seconds=time.perf_counter() - start,
        )

    def _say(self, text: str) -> None:
        """A warning, once."""
        if text not in self._said:
            self._said.add(text)
            logger.warning(text)


def _asking(messages: Sequence[Message], choices: Sequence[str]) -> list[Message]:
    """The dialogue with the choices asked for in words."""
    request = Part(CHOICE_REQUEST.format(choices=" | ".join(choices)))
    last = messages[-1]
    return [*messages[:-1], Message(last.role, (*last.parts, request))]


def _match(text: str, choices: Sequence[str], *, exactly: bool, begun: bool = False) -> str | None:
    """The one choice that the reply gives; case and punctuation around it don't count unless `exactly`.

    Args:
        begun: the beginning of a choice counts as well.
    """

    def bare(text: str) -> str:
        return re.sub(r"^[\W_]+|[\W_]+$", "", text).casefold()

    for same in (
        lambda one: one.strip() == text,
        lambda one: not exactly and bare(one) == bare(text) != "",
        lambda one: begun and text != "" and one.startswith(text),
    ):
        if len(found := [one for one in choices if same(one)]) == 1:
            return found[0]
    return None


def _first_logprobs(tokens: Sequence[Token], choices: Sequence[str]) -> dict[str, float] | None:
    """Per choice, the log-probability of the token it begins with; None when no choice begins with any of `tokens`.

    A choice that is not among them is as likely as the last of them, at most: it gets that bound.
    """
    found: dict[str, float] = {}
    for choice in choices:
        begins = [
            (one.token == start, len(start), one.logprob)
            for one in tokens
            if (start := one.token.strip())
            and choice.casefold().startswith(start.casefold())
            and not any(other.casefold().startswith(start.casefold()) for other in choices if other != choice)
        ]
        if begins:
            found[choice] = max(begins)[2]
    if not found:
        return None
    bound = min(one.logprob for one in tokens)
    return {choice: found.get(choice, bound) for choice in choices}
