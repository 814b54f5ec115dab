"""Engines without a model: replies are a pure function of messages, parameters and seed; latencies are not."""

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec

from agentark.sandbox_engine import Ran, RunProgram, RunTests, Tested
from agentark.types import SANDBOX, Completion, Engine, Guarantee, Message, SamplingParams, digest

Script = Callable[[Sequence[Message], SamplingParams], str]
Logprobs = Callable[[Sequence[Message], SamplingParams], dict[str, float] | None]


def boxed(messages: Sequence[Message], params: SamplingParams) -> str:
    """A short reasoning whose answer (0..3) depends on the seed and on all that was shown."""
    if params.choices:
        return params.choices[int(digest((messages, params)), 16) % len(params.choices)]
    return (
        f"Thought {digest((messages, params))}, so the answer is \\boxed{{{int(digest((messages, params)), 16) % 4}}}."
    )


@dataclass
class ScriptedEngine(Engine):
    """`agentark.types.Engine` driven by a script.

    Attributes:
        seen: every call in order of arrival: (session, messages, params).
        peak: the most calls that were in flight at once.
    """

    script: Script = boxed
    logprobs: Logprobs = lambda messages, params: None
    """Log-probabilities of the choices, where a call asks for them."""
    capacity: int = 8
    latency: float = 0.0
    """Mean seconds a call takes; each call draws its own, unseeded."""
    name: str = "scripted"
    guarantee: Guarantee = "exact"
    context_length: int = 1 << 20
    seen: list[tuple[str, tuple[Message, ...], SamplingParams]] = field(default_factory=list)
    in_flight: int = 0
    peak: int = 0

    async def chat(
        self, messages: Sequence[Message], params: SamplingParams, *, session: str, priority: int
    ) -> Completion:
        self.seen.append((session, tuple(messages), params))
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)
        try:
            await asyncio.sleep(random.expovariate(1 / self.latency) if self.latency else 0)
            text = self.script(messages, params)
        finally:
            self.in_flight -= 1
        prompt = sum(len(message.text.split()) for message in messages)
        return Completion(
            text=text,
            finish_reason="stop",
            prompt_tokens=prompt,
            completion_tokens=len(text.split()),
            cached_tokens=0,
            choice_logprobs=self.logprobs(messages, params) if params.choice_logprobs else None,
            model="scripted",
            seconds=0.0,
        )


@dataclass
class FakeSandbox(Engine):
    """`agentark.sandbox_engine.SandboxEngine` that runs nothing: it replies what it is told to.

    Attributes:
        seen: every request, in order of arrival.
    """

    program: Callable[[RunProgram], Ran] = lambda request: Ran("ok", 0, "", "", "namespaces")
    tests: Callable[[RunTests], list[bool]] = lambda request: [True] * len(request.tests)
    name: str = SANDBOX
    guarantee: Guarantee = "engine"
    capacity: int = 2
    context_length: int = 1 << 30
    seen: list[RunProgram | RunTests] = field(default_factory=list)

    async def chat(
        self, messages: Sequence[Message], params: SamplingParams, *, session: str, priority: int
    ) -> Completion:
        request = msgspec.json.decode(messages[-1].text, type=RunProgram | RunTests)
        self.seen.append(request)
        reply: Ran | Tested
        if isinstance(request, RunProgram):
            reply = self.program(request)
        else:
            passed = self.tests(request)
            reply = Tested(passed, [None if one else "AssertionError" for one in passed], "namespaces")
        text = msgspec.json.encode(reply).decode()
        return Completion(
            text=text, finish_reason="stop", prompt_tokens=0, completion_tokens=0, cached_tokens=0, model=SANDBOX,
            seconds=0.0,
        )  # fmt: skip
