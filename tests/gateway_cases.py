"""A gateway over an engine without a model, and teams that use it."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from fakes import ScriptedEngine

from agentark.episode import Defaults
from agentark.gateway.desk import Desk, Limits
from agentark.gateway.server import application
from agentark.progress import Progress
from agentark.records import Store
from agentark.tasks.base import BOXED_NUMBER_INSTRUCTION
from agentark.types import Completion, Engine, Message, MethodInfo, Sample, SamplingParams

KEY = "secret"
MODEL = "org/model"
LIMITS = {"open_samples": 100, "calls": 100, "idle": 60.0}
SAMPLES = [
    Sample(id=f"GSM8K/test/{index}", source="GSM8K", query=f"How much is {index} times 1?", gt=str(index),
           answer_type="number", instruction=BOXED_NUMBER_INSTRUCTION)
    for index in range(20)
]  # fmt: skip


class StreamingEngine(ScriptedEngine):
    """Tells a reply word by word, with pauses."""

    pause: float = 0.0

    async def stream(
        self,
        messages: Sequence[Message],
        params: SamplingParams,
        on_text: Callable[[str], None],
        *,
        session: str,
        priority: int,
    ) -> Completion:
        completion = await self.chat(messages, params, session=session, priority=priority)
        words = completion.text.split(" ")
        for index, word in enumerate(words):
            await asyncio.sleep(self.pause)
            on_text(word if index == 0 else f" {word}")
        return completion


@dataclass
class Served:
    """A gateway that runs in this process."""

    url: str
    desk: Desk
    http: aiohttp.ClientSession

    async def post(self, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """(status, JSON body) of a request."""
        async with self.http.post(self.url + path, json=body, headers=headers) as answer:
            return answer.status, await answer.json()

    async def chat(self, sample: str, *texts: str, **fields: Any) -> tuple[int, Any]:
        """A call whose messages are the user's and the assistant's in turn."""
        roles = ("user", "assistant")
        messages = [{"role": roles[index % 2], "content": text} for index, text in enumerate(texts)]
        headers = {f"X-AgentArk-{name}": fields.pop(name) for name in ("Agent", "Round") if name in fields}
        body = {"model": MODEL, "messages": messages, **fields}
        return await self.post("/v1/chat/completions", body, **{"X-AgentArk-Sample": sample}, **headers)

    async def said(self, sample: str, *texts: str, **fields: Any) -> str:
        """The reply to such a call."""
        status, body = await self.chat(sample, *texts, **fields)
        assert status == 200, body
        return str(body["choices"][0]["message"]["content"])


@asynccontextmanager
async def gateway(
    folder: Path, engine: Engine, *, replay: bool = False, max_body: int = 1 << 20, **limits: Any
) -> AsyncIterator[Served]:
    """A gateway whose rows go to `folder/team_infer.jsonl`; what is there already is continued."""
    store = Store(folder / "team_infer.jsonl", {"method": "gateway"})
    store.start({})
    desk = Desk(
        store=store,
        samples=SAMPLES,
        engine=engine,
        info=MethodInfo("gateway", "team", {}),
        model=MODEL,
        defaults=Defaults(0.5, 256, 0),
        progress=Progress(0, quiet=True),
        limits=Limits(**{**LIMITS, **limits}),
        replay=replay,
    )
    await desk.begin()
    runner = web.AppRunner(application(desk, KEY, max_body), access_log=None, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    watching = asyncio.create_task(desk.watch())
    headers = {"Authorization": f"Bearer {KEY}"}
    try:
        async with aiohttp.ClientSession(headers=headers) as http:
            yield Served(f"http://127.0.0.1:{runner.addresses[0][1]}", desk, http)
    finally:
        watching.cancel()
        await desk.stop()
        await runner.cleanup()
        store.close({sample.id: rank for rank, sample in enumerate(SAMPLES)})


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def rows(folder: Path) -> list[dict[str, Any]]:
    """The rows as they stand in the file."""
    return [json.loads(line) for line in (folder / "team_infer.jsonl").read_text().splitlines()]


def timeless(value: Any) -> Any:
    """Without what may differ between two runs."""
    if isinstance(value, dict):
        return {name: timeless(one) for name, one in value.items() if name not in ("seconds", "started")}
    return [timeless(one) for one in value] if isinstance(value, list) else value
