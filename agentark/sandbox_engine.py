"""The sandbox as one more model behind the same door: a request of JSON in, a reply of JSON out.

So an execution is a call like any other: it has an address, is journalled, replayed and shown in the trajectory, and
waits its turn at a gate. It uses no tokens, and token statistics leave it out. What it replies holds no timing.
"""

import asyncio
import os
import time
from collections.abc import Sequence
from typing import ClassVar

import msgspec
from msgspec import Struct

from agentark import sandbox
from agentark.cuts import shortened
from agentark.types import SANDBOX, Completion, Guarantee, Message, SampleError, SamplingParams, UserError

KEPT = 20_000
"""Characters kept of stdout and of stderr: the first half and the last."""


class RunProgram(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True, tag="program", tag_field="run"):
    """Run one program; the reply is a `Ran`."""

    code: str
    stdin: str = ""
    timeout: float = 10.0
    """Seconds of wall time."""
    files: dict[str, str] = {}
    """Texts by relative path, laid out beside it."""


class RunTests(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True, tag="tests", tag_field="run"):
    """Run tests against a solution; the reply is a `Tested`."""

    solution: str
    tests: tuple[str, ...]
    timeout: float = 10.0
    """Seconds for each test."""


class Ran(Struct, frozen=True):
    """A `sandbox.Execution` without its timing."""

    status: sandbox.Status
    returncode: int | None
    stdout: str
    stderr: str
    isolation: sandbox.Isolation


class Tested(Struct, frozen=True):
    """`sandbox.Verdicts` without their timing."""

    __test__: ClassVar = False  # pytest takes names like this one for tests
    passed: list[bool]
    errors: list[str | None]
    isolation: sandbox.Isolation


_request = msgspec.json.Decoder(RunProgram | RunTests)


class SandboxEngine:
    """See `agentark.types.Engine`.

    Args:
        unsafe_no_isolation: run code even where nothing isolates it.

    Raises:
        SandboxUnavailable: when entered where nothing can isolate code, unless that is allowed.
    """

    name = SANDBOX
    guarantee: Guarantee = "engine"
    context_length = 1 << 30
    dtype: str | None = None

    def __init__(self, unsafe_no_isolation: bool = False) -> None:
        self.unsafe_no_isolation = unsafe_no_isolation
        self.capacity = len(os.sched_getaffinity(0))

    async def __aenter__(self) -> "SandboxEngine":
        await sandbox.run_python("", timeout=20, unsafe_no_isolation=self.unsafe_no_isolation)
        return self

    async def __aexit__(self, *exc: object) -> None:
        return None

    async def chat(
        self, messages: Sequence[Message], params: SamplingParams, *, session: str, priority: int
    ) -> Completion:
        start = time.perf_counter()
        try:
            request = _request.decode(messages[-1].text)
        except msgspec.DecodeError as error:
            raise SampleError(f"the sandbox was asked for something else than a run: {error}") from None
        try:
            reply = await self._run(request)
        except sandbox.SandboxUnavailable:
            raise
        except UserError as error:  # a file name that the model chose
            raise SampleError(str(error)) from None
        return Completion(
            text=msgspec.json.encode(reply).decode(),
            finish_reason="stop",
            prompt_tokens=0,
            completion_tokens=0,
            cached_tokens=0,
            model=SANDBOX,
            seconds=time.perf_counter() - start,
        )

    async def _run(self, request: RunProgram | RunTests) -> Ran | Tested:
        unsafe = self.unsafe_no_isolation
        if isinstance(request, RunProgram):
            files, seconds = request.files, request.timeout
            done = await sandbox.run_python(
                request.code, stdin=request.stdin, timeout=seconds, files=files, unsafe_no_isolation=unsafe
            )
            return Ran(
                done.status, done.returncode, shortened(done.stdout, KEPT), shortened(done.stderr, KEPT), done.isolation
            )
        if not request.tests:
            return Tested([], [], await asyncio.to_thread(sandbox.isolation_level))
        found = await sandbox.run_tests(
            request.solution, request.tests, timeout=request.timeout, unsafe_no_isolation=unsafe
        )
        return Tested(found.passed, found.errors, found.isolation)
