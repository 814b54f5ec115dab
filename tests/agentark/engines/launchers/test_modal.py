"""--use_modal_batch against stand-ins for a deployed app: absent, another model, failing, stalling, reordering."""

import asyncio
import logging
import random
import re
import ssl
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from aiohttp import web
from stub_server import StubServer

import modal
from agentark.engines.launchers import modal as launcher
from agentark.engines.launchers.base import LaunchedEngine
from agentark.engines.launchers.guard import KEY_ENV, Guard
from agentark.engines.launchers.modal import CONFIG_FILE, ModalConfig, ModalLauncher, read_config
from agentark.engines.openai import OpenAIConfig
from agentark.types import (
    Completion,
    EngineFault,
    Part,
    RunError,
    SampleError,
    SamplingParams,
    UserError,
    message,
)

KEY = "a-long-random-text"
PARAMS = SamplingParams(temperature=0.5, max_tokens=64, seed=7)
CONTEXT = 512
Behaviour = BaseException | str | float


@pytest.fixture(autouse=True)
def _loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setenv(KEY_ENV, KEY)
    monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", lambda *_, **__: None)
    monkeypatch.setattr(launcher, "WAKE_SECONDS", 0.01)
    monkeypatch.setattr(launcher, "COUNT_SECONDS", 0.02)


class Remote:
    """What the SDK gives for a function: `.remote.aio(...)`, `.hydrate.aio()`, ..."""

    def __init__(self, answer: Callable[..., Awaitable[Any]], url: str | None = None, running: int = 2) -> None:
        async def web_url() -> str | None:
            return url

        async def stats() -> Any:
            return SimpleNamespace(num_total_runners=running)

        async def hydrate() -> None:
            """It is there."""

        self.remote = SimpleNamespace(aio=answer)
        self.hydrate = SimpleNamespace(aio=hydrate)
        self.get_web_url = SimpleNamespace(aio=web_url)
        self.get_current_stats = SimpleNamespace(aio=stats)


@dataclass
class App:
    """A stand-in for the deployed app. Replies are a pure function of the messages."""

    model: str = "org/model"
    url: str | None = None
    at_lookup: BaseException | None = None
    behaviours: list[Behaviour] = field(default_factory=list)
    """One per call of `chat` until the list ends: what to raise, `junk`, or seconds to wait."""
    latencies: random.Random | None = None
    calls: list[tuple[Any, Any]] = field(default_factory=list)
    peak: int = 0
    in_flight: int = 0

    def install(self, monkeypatch: pytest.MonkeyPatch) -> "App":
        def function(app: str, name: str) -> Remote:
            assert app == "agentark"
            if name == "serve" and self.url is None:
                raise modal.exception.NotFoundError("no such function")
            return Remote({"describe": self.describe, "serve": self.describe}[name], self.url)

        def cls(app: str, name: str) -> Any:
            assert (app, name) == ("agentark", "Model")
            return lambda: SimpleNamespace(chat=Remote(self.chat), measure=Remote(self.measure))

        monkeypatch.setattr(modal.Function, "from_name", function)
        monkeypatch.setattr(modal.Cls, "from_name", cls)
        return self

    async def describe(self) -> Any:
        if self.at_lookup is not None:
            raise self.at_lookup
        return {"model": self.model, "gpu": "H100", "gpu_count": 2, "max_containers": 3, "max_inputs": 8}

    async def measure(self, messages: Any) -> Any:
        return {"tokens": sum(len(one["text"].split()) + 4 for one in messages), "context_length": CONTEXT}

    async def chat(self, messages: Any, params: Any) -> Any:
        self.calls.append((messages, params))
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)
        try:
            if self.latencies is not None:
                await asyncio.sleep(self.latencies.uniform(0, 0.05))
            behaviour = self.behaviours.pop(0) if self.behaviours else None
            if isinstance(behaviour, BaseException):
                raise behaviour
            if behaviour == "junk":
                return {"txt": "?"}
            if isinstance(behaviour, float):
                await asyncio.sleep(behaviour)
        finally:
            self.in_flight -= 1
        tokens = (await self.measure(messages))["tokens"]
        if tokens + 64 > CONTEXT:
            raise SampleError(f"prompt of {tokens} tokens leaves {CONTEXT - tokens} of the context of {CONTEXT}")
        choices = params.get("choices")
        text = choices[1] if choices else f"reply to {messages[-1]['text'][:40]}"
        logprobs = dict.fromkeys(choices, -0.7) if choices and params.get("choice_logprobs") else None
        completion = Completion(text, "stop", tokens, 5, "m", 0.1, cached_tokens=2, choice_logprobs=logprobs)
        return msgspec.to_builtins(completion)


def config(**options: Any) -> ModalConfig:
    return read_config(environment={}).model_copy(update=options)


def engine_for(settings: ModalConfig, model: str = "org/model", **options: Any) -> LaunchedEngine:
    fast = {"rest": 0.01, "max_rest": 0.05, "timeout": 5.0, **options}
    return LaunchedEngine(
        ModalLauncher(settings, model, lambda ends: OpenAIConfig(model=model, endpoints=ends, **fast))
    )


def run(scenario: Callable[[LaunchedEngine], Awaitable[Any]], *servers: Any, **options: Any) -> Any:
    settings = config(**{name: options.pop(name) for name in ("transport", "prices") if name in options})

    async def all_of_it() -> Any:
        async with AsyncExitStack() as stack:
            for server in servers:
                await stack.enter_async_context(server)
            return await scenario(await stack.enter_async_context(engine_for(settings, **options)))

    return asyncio.run(all_of_it())


async def ask(engine: LaunchedEngine, text: str = "Hello", params: SamplingParams = PARAMS, session: str = "s") -> Any:
    return await engine.chat([message("user", text)], params, session=session, priority=0)


# ---------------------------------------------------------------- what is said before anything is paid


@pytest.mark.parametrize(
    ("app", "options", "expected"),
    [
        (
            App(at_lookup=modal.exception.AuthError("Token missing")),
            {},
            "not logged in to Modal; run `modal token new`",
        ),
        (
            App(at_lookup=modal.exception.NotFoundError("no app")),
            {},
            "no app 'agentark' is deployed; run `modal deploy",
        ),
        (App(at_lookup=modal.exception.ServiceError("down")), {}, r"Modal does not answer \(ServiceError: down\)"),
        (
            App(model="org/other"),
            {},
            r"serves 'org/other', not 'org/model'; .*AGENTARK_MODAL_MODEL=org/model modal dep",
        ),
        (App(), {"transport": "web"}, "has no web endpoint"),
    ],
)
def test_what_is_missing_is_one_line(
    app: App, options: dict[str, Any], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    app.install(monkeypatch)
    with pytest.raises(UserError, match=expected) as raised:
        run(ask, **options)
    assert "\n" not in str(raised.value)
    assert str(raised.value).startswith("--use_modal_batch: ")


def test_the_real_sdk_without_a_login() -> None:
    if modal.config.config["token_id"]:
        pytest.skip("this machine is logged in to Modal")
    with pytest.raises(UserError, match="not logged in to Modal"):
        run(ask)


def test_without_the_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    """`import modal` then finds the folder of that name."""
    monkeypatch.setattr(launcher, "import_module", lambda name: SimpleNamespace())
    with pytest.raises(UserError, match="the package modal is not installed"):
        engine_for(config())


def test_the_key_is_asked_for_before_a_gpu_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_ENV)
    App(url="http://127.0.0.1:9").install(monkeypatch)
    with pytest.raises(UserError, match=f"its key is expected in \\${KEY_ENV}"):
        run(ask)


# ---------------------------------------------------------------- over the web endpoint


@dataclass
class Web(StubServer):
    """The stand-in for a server, with /health that fails `asleep` times; it says where it is once it listens."""

    app: App = field(default_factory=App)
    asleep: int = 0

    async def __aenter__(self) -> "Web":
        await super().__aenter__()

        async def health(request: web.Request) -> web.Response:
            self.asleep -= 1
            return web.Response(status=503 if self.asleep >= 0 else 200)

        front = web.Application()
        front.router.add_get("/health", health)
        front.router.add_route("*", "/{path:.*}", self.forward)
        self._front = web.AppRunner(front, access_log=None, shutdown_timeout=0.0)
        await self._front.setup()
        site = web.TCPSite(self._front, "127.0.0.1", 0)
        await site.start()
        self.app.url = f"http://127.0.0.1:{self._front.addresses[0][1]}"
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._front.cleanup()
        await super().__aexit__(*exc)

    async def forward(self, request: web.Request) -> web.Response:
        import aiohttp

        async with (
            aiohttp.ClientSession() as session,
            session.request(
                request.method,
                f"http://127.0.0.1:{self.port}{request.path}",
                data=await request.read(),
                headers={
                    name: request.headers[name] for name in ("Authorization", "Content-Type") if name in request.headers
                },
            ) as reply,
        ):
            return web.Response(status=reply.status, body=await reply.read(), content_type="application/json")


def test_a_run_over_the_web_endpoint(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    app = App().install(monkeypatch)
    server = Web(model="org/model", key=KEY, app=app, asleep=3, behaviours=["500", ("503", 0)])

    async def scenario(engine: LaunchedEngine) -> list[str]:
        assert (engine.name, engine.capacity, engine.context_length) == ("openai/modal", 24, 4096)
        texts = [one.text for one in await asyncio.gather(*(ask(engine, f"Question {k}") for k in range(20)))]
        await asyncio.sleep(0.1)
        return texts

    texts = run(scenario, server, prices={"H100": 4.0})
    assert len(set(texts)) == 20
    assert server.authorizations == {f"Bearer {KEY}"}
    assert server.asleep < 0, "it was woken first"
    assert app.calls == []
    assert "Modal: up to 3 containers of 2 x H100, at most $24.00 an hour (prices of 2026-05-07)" in caplog.messages
    cost = re.compile(r"Modal: about 0\.\d\d container-hours of 2 x H100, about \$0\.\d\d")
    assert any(map(cost.match, caplog.messages))


def test_costs_are_container_seconds_times_price(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings = config(prices={"H100": 4.0})
    assert settings.dollars(1800) == pytest.approx(2.0)
    assert settings.model_copy(update={"gpu": "X1"}).dollars(1800) is None
    one = ModalLauncher(settings, "m", lambda ends: OpenAIConfig(model="m", endpoints=ends))
    one._since, one._container_seconds = launcher.time.monotonic(), 7200.0
    asyncio.run(one.stop())
    assert "about 2.00 container-hours of 1 x H100, about $8.00 at prices of 2026-05-07" in caplog.text


# ---------------------------------------------------------------- over the class


def test_calls_through_the_class_arrive_as_they_were_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    app = App(latencies=random.Random(1)).install(monkeypatch)

    async def scenario(engine: LaunchedEngine) -> list[Completion]:
        assert (engine.capacity, engine.context_length, engine.guarantee) == (24, CONTEXT, "seeded")
        return await asyncio.gather(*(ask(engine, f"Question {k}", session=f"s{k}") for k in range(60)))

    found = run(scenario, reproducible=True)
    assert [one.text for one in found] == [f"reply to Question {k}" for k in range(60)], "whatever order they end in"
    assert (found[0].prompt_tokens, found[0].completion_tokens, found[0].cached_tokens) == (6, 5, 2)
    assert app.peak <= 24
    assert all(params["seed"] == 7 and params["temperature"] == 0.5 for _, params in app.calls)


def test_choices_schemas_and_long_documents_through_the_class(monkeypatch: pytest.MonkeyPatch) -> None:
    app = App().install(monkeypatch)
    choice = SamplingParams(temperature=0.0, max_tokens=1, choices=("yes", "no"), choice_logprobs=True)

    async def scenario(engine: LaunchedEngine) -> None:
        judged = await ask(engine, "Is it?", choice)
        assert (judged.text, judged.choice_logprobs) == ("no", {"yes": -0.7, "no": -0.7})
        await ask(engine, "As JSON", SamplingParams(temperature=0.0, max_tokens=9, schema={"type": "object"}))
        assert app.calls[-1][1]["schema"] == {"type": "object"}
        document = Part("word " * 900, "middle", "document")
        cut = await engine.chat([message("user", document, "Who?")], PARAMS, session="s", priority=0)
        assert cut.truncation is not None
        assert cut.prompt_tokens <= CONTEXT - 64
        with pytest.raises(SampleError, match=r"prompt of 9\d\d tokens"):
            await ask(engine, "word " * 900)

    run(scenario)


def test_faults_of_the_class_are_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    faults: list[Behaviour] = [
        modal.exception.RemoteError("container crashed"),
        modal.exception.ResourceExhaustedError("quota"),
        EngineFault("vLLM ended this call without a reply"),
        RunError("the vLLM engine process died"),
        "junk",
    ]
    app = App(behaviours=list(faults)).install(monkeypatch)
    assert run(ask).text == "reply to Hello"
    assert len(app.calls) == len(faults) + 1


@pytest.mark.parametrize(
    ("behaviours", "raises", "expected", "calls"),
    [
        ([SampleError("prompt is odd")] * 9, SampleError, "prompt is odd", 1),
        ([modal.exception.AuthError("token revoked")] * 9, RunError, "refuses access .*token revoked", 1),
        ([modal.exception.RemoteError("crashed")] * 99, RunError, "no endpoint of org/model works any more", 6),
        ([60.0] * 9, EngineFault, "gave no reply within 0.2 s; given up after 2 tries", 2),
    ],
)
def test_faults_that_stay(
    behaviours: list[Behaviour], raises: type[Exception], expected: str, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = App(behaviours=behaviours).install(monkeypatch)
    with pytest.raises(raises, match=expected):
        run(ask, timeout=0.2)
    assert len(app.calls) == calls


# ---------------------------------------------------------------- settings and the guard


def test_settings_from_file_and_environment() -> None:
    assert CONFIG_FILE.is_file()
    assert config().model == "Qwen/Qwen3-8B"
    environment = {"AGENTARK_MODAL_MODEL": "a/b", "AGENTARK_MODAL_GPU_COUNT": "4", "OTHER": "x"}
    changed = read_config(environment=environment)
    assert (changed.model, changed.gpu_count, changed.gpu) == ("a/b", 4, config().gpu)
    with pytest.raises(UserError, match=r"unknown key 'gpus'.*did you mean gpu"):
        read_config(environment={"AGENTARK_MODAL_GPUS": "4"})
    with pytest.raises(UserError, match=r"gpu_count = 99"):
        read_config(environment={"AGENTARK_MODAL_GPU_COUNT": "99"})


@pytest.mark.parametrize(
    ("path", "given", "status"),
    [
        ("/v1/models", f"Bearer {KEY}", 200),
        ("/v1/models", "Bearer other", 401),
        ("/tokenize", None, 401),
        ("/invocations", None, 401),
        ("/health", None, 200),
    ],
)
def test_the_guard(path: str, given: str | None, status: int) -> None:
    sent: list[Any] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})

    async def send(event: Any) -> None:
        sent.append(event)

    headers = [] if given is None else [(b"authorization", given.encode())]
    asyncio.run(Guard(inner)({"type": "http", "path": path, "headers": headers}, None, send))
    assert sent[0]["status"] == status


def test_the_guard_wants_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_ENV, " ")

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        """Never reached."""

    with pytest.raises(RuntimeError, match="refusing to serve without a key"):
        Guard(inner)


def test_logging_never_shows_the_key(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    app = App().install(monkeypatch)
    run(ask, Web(model="org/model", key=KEY, app=app, behaviours=["500"]))
    assert KEY not in caplog.text
