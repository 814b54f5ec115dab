"""The app of modal/launch_modal.py as seen from a run: `--use_modal_batch`.

The deployed app is asked what it serves (no GPU is needed for that); its web endpoint then goes to the openai engine
like any other. Where there is no web endpoint, the same engine speaks to the app's class instead (`RemoteServer`).
"""

import asyncio
import importlib.util
import logging
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct
from pydantic import Field

from agentark.config import ROOT, Config, build, parse_overrides, read_yaml
from agentark.engines.endpoints import Endpoint
from agentark.engines.fitting import Plan, TooLong
from agentark.engines.launchers.base import EngineConfig
from agentark.engines.launchers.guard import KEY_ENV
from agentark.engines.openai import OpenAIConfig, OpenAIEngine
from agentark.engines.pool import Fault
from agentark.engines.server import Denied, Reply, Server, Token
from agentark.progress import starting
from agentark.types import Completion, EngineFault, Message, RunError, SampleError, SamplingParams, UserError, message

logger = logging.getLogger(__name__)

CONFIG_FILE = ROOT / "configs" / "modal.yaml"
PREFIX = "AGENTARK_MODAL_"
FLAG = "--use_modal_batch"
DEPLOY = "modal deploy modal/launch_modal.py"
HEALTH_SECONDS = 60.0
WAKE_SECONDS = 5.0
"""Seconds between two checks of an endpoint that is waking up."""
COUNT_SECONDS = 15.0
"""Seconds between two counts of the running containers."""

CLASS, CHAT, MEASURE = "Model", "chat", "measure"
SERVE, DESCRIBE = "serve", "describe"
"""Names of the parts of modal/launch_modal.py."""


class ModalConfig(Config):
    """configs/modal.yaml."""

    app: str = Field(min_length=1)
    """Name of the app in Modal."""
    model: str = Field(min_length=1)
    """Hub id that is served."""
    gpu: str = Field(min_length=1)
    """Modal's name of a GPU type."""
    gpu_count: int = Field(1, ge=1, le=8)
    """GPUs per container."""
    max_containers: int = Field(4, ge=1)
    max_inputs: int = Field(128, ge=1)
    """Calls in one container at once."""
    scaledown_window: int = Field(300, ge=2, le=1200)
    """Seconds that an idle container stays."""
    startup_seconds: int = Field(1800, ge=60)
    """Seconds in which a container must be ready, download of the weights included."""
    call_seconds: int = Field(1800, ge=10)
    """Seconds that one call may take."""
    weights_volume: str = Field(min_length=1)
    """Modal volume that keeps the weights between containers."""
    key_secret: str = Field(min_length=1)
    """Modal secret that holds the endpoint's key."""
    hub_secret: str | None = None
    """Modal secret that holds HF_TOKEN, for gated models."""
    transport: Literal["auto", "web", "remote"] = "auto"
    """How calls travel: the web endpoint, the class's methods, or the first that is there."""
    max_model_len: int | None = Field(None, ge=128)
    """Tokens of context; None: the model's own."""
    dtype: str = "auto"
    enable_thinking: bool | None = None
    """For calls to the class (a web call says it itself); None: the template's default."""
    image: str = "nvidia/cuda:13.0.1-devel-ubuntu24.04"
    """Base image of the container; vLLM compiles kernels with the CUDA compiler in it."""
    prices: dict[str, float] = Field(default_factory=dict)
    """US dollars per GPU-hour, by GPU type."""
    prices_date: str = ""
    """Date of these prices."""

    def dollars(self, container_seconds: float) -> float | None:
        """Cost of container time; None where the price of the GPU is not in the file."""
        price = self.prices.get(self.gpu)
        return None if price is None else container_seconds / 3600 * self.gpu_count * price


def read_config(path: Path = CONFIG_FILE, environment: Mapping[str, str] = os.environ) -> ModalConfig:
    """The settings of the file; variables of the environment come first.

    Raises:
        UserError: naming file or variable, and key.
    """
    pairs = [
        f"{name.removeprefix(PREFIX).lower()}={value}" for name, value in environment.items() if name.startswith(PREFIX)
    ]
    base = build(ModalConfig, read_yaml(path), str(path))
    if not pairs:
        return base
    return build(ModalConfig, {**base.model_dump(), **parse_overrides(pairs, PREFIX)}, f"${PREFIX}...")


class Description(Struct, frozen=True):
    """The deployed app's description of itself."""

    model: str
    gpu: str
    gpu_count: int
    max_containers: int
    max_inputs: int


class Deployment:
    """The SDK's side of one deployed app; every error of the SDK leaves here as one of ours.

    Raises:
        UserError: the SDK is not installed.
    """

    def __init__(self, app: str) -> None:
        # without the SDK our own folder modal/ still imports, as a namespace
        sdk: Any = import_module("modal") if importlib.util.find_spec("modal") else None
        if not hasattr(sdk, "App"):
            raise UserError(f"{FLAG}: the package modal is not installed (pip install modal)")
        self.app = app
        self._sdk = sdk

    async def describe(self) -> Description:
        """Description of the deployed app. Raises UserError: not logged in, or no such app."""
        try:
            found = await self._sdk.Function.from_name(self.app, DESCRIBE).remote.aio()
        except self._sdk.exception.Error as error:
            raise self._at_start(error) from None
        return msgspec.convert(found, Description)

    async def url(self) -> str | None:
        """Address of the web endpoint; None where the app has none."""
        try:
            function = self._sdk.Function.from_name(self.app, SERVE)
            await function.hydrate.aio()
            address = await function.get_web_url.aio()
        except self._sdk.exception.NotFoundError:
            return None
        except self._sdk.exception.Error as error:
            raise self._at_start(error) from None
        return str(address) if address else None

    async def containers(self, web: bool) -> int | None:
        """Containers that run now; None when Modal does not say."""
        try:
            function = (
                self._sdk.Function.from_name(self.app, SERVE)
                if web
                else getattr(self._sdk.Cls.from_name(self.app, CLASS)(), CHAT)
            )
            return int((await function.get_current_stats.aio()).num_total_runners)
        except self._sdk.exception.Error:
            return None

    async def call(self, method: str, *arguments: Any) -> Any:
        """Call a method of the deployed class.

        Raises:
            Fault: it may be tried again.
            SampleError: refused for this call.
            Denied: refused for all calls.
        """
        errors = self._sdk.exception
        where = f"Modal app {self.app}"
        try:
            return await getattr(self._sdk.Cls.from_name(self.app, CLASS)(), method).remote.aio(*arguments)
        except EngineFault as error:  # the engine over there
            raise Fault(f"{where}: {error}") from None
        except RunError as error:
            raise Fault(f"{where}: {error}; that container ends") from None
        except (errors.AuthError, errors.PermissionDeniedError, errors.NotFoundError) as error:
            raise Denied(f"{where} refuses access ({_line(error)})", 401) from None
        except errors.ResourceExhaustedError as error:
            raise Fault(f"{where} limits the rate ({_line(error)})", "limited") from None
        except errors.TimeoutError as error:
            raise Fault(f"{where} gave no reply in time ({_line(error)})", "stalled") from None
        except (errors.Error, OSError) as error:
            raise Fault(f"{where} failed ({type(error).__name__}: {_line(error)})") from None

    def _at_start(self, error: Exception) -> UserError:
        if isinstance(error, self._sdk.exception.AuthError):
            return UserError(f"{FLAG}: not logged in to Modal; run `modal token new` ({_line(error)})")
        if isinstance(error, self._sdk.exception.NotFoundError):
            return UserError(f"{FLAG}: no app {self.app!r} is deployed; run `{DEPLOY}` ({_line(error)})")
        return UserError(f"{FLAG}: Modal does not answer ({type(error).__name__}: {_line(error)})")


class RemoteServer(Server):
    """An endpoint of the openai engine that is a class in Modal instead of an address."""

    def __init__(self, endpoint: Endpoint, config: OpenAIConfig, deployment: Deployment, start_seconds: float) -> None:
        super().__init__(endpoint, config.timeout, config.rest, config.max_rest)
        self.label = f"Modal app {deployment.app}"
        self._deployment = deployment
        self._start_seconds = start_seconds
        self._seconds = config.timeout
        self.guided = self.schemas = True  # it is our own vLLM engine

    def open(self) -> None:
        """There is no connection to open: the SDK keeps its own."""

    async def close(self) -> None:
        """There is no connection to close."""

    async def introduce(self, thinking: bool | None) -> None:
        found = await self._within(self._start_seconds, MEASURE, _plain([message("user", "Hi")]))
        self.context_length = int(found["context_length"])
        self.introduced = self.tokenizes = True

    async def count(self, messages: Sequence[Message], thinking: bool | None) -> int:
        return int((await self._within(self._seconds, MEASURE, _plain(messages)))["tokens"])

    async def chat(self, plan: Plan, params: SamplingParams, thinking: bool | None = None) -> Reply:
        logprobs = params.choice_logprobs and params.choices is not None
        params = msgspec.structs.replace(params, max_tokens=plan.max_tokens, choice_logprobs=logprobs)
        try:
            answer = await self._within(self._seconds, CHAT, _plain(plan.messages), msgspec.to_builtins(params))
        except SampleError as refusal:
            if " tokens leaves " in str(refusal):
                raise TooLong(str(refusal), self.context_length, None) from None
            raise
        try:
            completion = msgspec.convert(answer, Completion)
        except msgspec.ValidationError as error:
            raise Fault(f"{self.label} answered something else than a completion ({error})") from None
        return Reply(
            content=completion.text,
            reasoning=completion.reasoning,
            finish_reason=completion.finish_reason,
            prompt_tokens=completion.prompt_tokens,
            completion_tokens=completion.completion_tokens,
            cached_tokens=completion.cached_tokens,
            first=tuple(Token(choice, value) for choice, value in (completion.choice_logprobs or {}).items()),
        )

    async def _within(self, seconds: float, method: str, *arguments: Any) -> Any:
        try:
            async with asyncio.timeout(seconds):
                return await self._deployment.call(method, *arguments)
        except TimeoutError:
            raise Fault(f"{self.label} gave no reply within {seconds:g} s", "stalled") from None


class ModalLauncher:
    """See `agentark.engines.launchers.base.Launcher`. It finds a deployment; it deploys nothing.

    Args:
        model: what the run asks for.
        engine_config: settings of the openai engine.
    """

    name = "modal"

    def __init__(self, config: ModalConfig, model: str, engine_config: EngineConfig) -> None:
        self.config = config
        self.deployment = Deployment(config.app)
        self._model = model
        self._engine_config = engine_config
        self._web = False
        self._container_seconds = 0.0
        self._since: float | None = None

    async def start(self) -> OpenAIEngine:
        found = await self.deployment.describe()
        if found.model != self._model:
            raise UserError(
                f"{FLAG}: the app {self.config.app!r} serves {found.model!r}, not {self._model!r}; ask for that model, "
                f"or run `{PREFIX}MODEL={self._model} {DEPLOY}`"
            )
        self.config = self.config.model_copy(update={"gpu": found.gpu, "gpu_count": found.gpu_count})
        hourly = self.config.dollars(found.max_containers * 3600)
        said = "its price is not in configs/modal.yaml" if hourly is None else f"at most ${hourly:.2f} an hour"
        dated = f" (prices of {self.config.prices_date})" if hourly is not None else ""
        logger.warning(
            "Modal: up to %d containers of %d x %s, %s%s", found.max_containers, found.gpu_count, found.gpu, said, dated
        )
        self._since = time.monotonic()
        workers = found.max_containers * found.max_inputs
        url = None if self.config.transport == "remote" else await self.deployment.url()
        if url is not None:
            self._web = True
            endpoint = Endpoint(
                model_name=found.model, model_url=f"{url.rstrip('/')}/v1", api_key_env=KEY_ENV, max_workers=workers
            )
            endpoint.key()  # its absence is said before a GPU is started
            with starting("Modal") as phase:
                phase(f"waking {url.rstrip('/')}")
                await self._wake(url.rstrip("/"))
            return OpenAIEngine(self._engine_config((endpoint,)))
        if self.config.transport == "web":
            raise UserError(f"{FLAG}: the app {self.config.app!r} has no web endpoint; run `{DEPLOY}` again")
        # never called: calls go to the class, not to an address
        stand_in = Endpoint(model_name=found.model, model_url="http://modal.invalid", max_workers=workers)
        config = self._engine_config((stand_in,))
        server = RemoteServer(stand_in, config, self.deployment, self.config.startup_seconds)
        return OpenAIEngine(config, [server])

    async def _wake(self, url: str) -> None:
        """Wait until a container answers; the first call of a cold app starts one."""
        deadline = time.monotonic() + self.config.startup_seconds
        said = "nothing"
        while time.monotonic() < deadline:
            said = await asyncio.to_thread(_health, f"{url}/health")
            if said == "HTTP 200":
                return
            await asyncio.sleep(WAKE_SECONDS)
        raise UserError(f"{FLAG}: {url} is not healthy after {self.config.startup_seconds} s (last answer: {said})")

    async def watch(self, engine: OpenAIEngine) -> None:
        """Add up the seconds of containers."""
        while True:
            before = time.monotonic()
            await asyncio.sleep(COUNT_SECONDS)
            running = await self.deployment.containers(self._web)
            self._container_seconds += (1 if running is None else running) * (time.monotonic() - before)

    async def stop(self) -> None:
        """Say what it cost. The containers end by themselves, `scaledown_window` seconds after their last call."""
        if self._since is None:
            return
        seconds = max(self._container_seconds, time.monotonic() - self._since)
        self._since = None
        dollars = self.config.dollars(seconds)
        cost = "" if dollars is None else f", about ${dollars:.2f} at prices of {self.config.prices_date}"
        logger.warning(
            "Modal: about %.2f container-hours of %d x %s%s (an estimate; idle containers add up to %d s each)",
            *(seconds / 3600, self.config.gpu_count, self.config.gpu, cost, self.config.scaledown_window),
        )


def _health(url: str) -> str:
    """The answer of an address, in short."""
    try:
        with urllib.request.urlopen(url, timeout=HEALTH_SECONDS) as reply:
            return f"HTTP {reply.status}"
    except urllib.error.HTTPError as error:
        return f"HTTP {error.code}"
    except OSError as error:
        return type(error).__name__


def _plain(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [{"role": one.role, "text": one.text} for one in messages]


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
