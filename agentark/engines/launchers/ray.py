"""vLLM servers as plain Ray actors, on this machine or a cluster.

One placement-group bundle a replica: its tensor-parallel GPUs lie on one node. Each actor owns one server process;
a server that dies is started again on the same port, an actor whose node is lost is placed again, and everything ends
with the run. The results are written by the one runner that asked for the servers.
"""

import asyncio
import importlib.util
import inspect
import logging
import os
import secrets
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from pydantic import Field, SecretStr

from agentark import scratch
from agentark.engines.endpoints import Endpoint
from agentark.engines.launchers import guard
from agentark.engines.launchers import replica as replica_module
from agentark.engines.launchers.base import EngineConfig, finished
from agentark.engines.launchers.command import Serving, server_command
from agentark.engines.openai import OpenAIEngine
from agentark.engines.server import Server
from agentark.engines.vllm import CPU_CAPACITY, CPU_ENVIRONMENT
from agentark.lock import RunLock
from agentark.progress import starting
from agentark.types import RunError, UserError

logger = logging.getLogger(__name__)

GPU_CAPACITY = 256
"""Calls in one batch of a replica on GPUs."""
POLL_SECONDS = 1.0
ASK_SECONDS = 30.0
"""An actor that has not answered after this time counts as lost."""
OBJECT_STORE = 80 << 20
"""Bytes; nothing large travels through Ray here."""


class RayConfig(Serving):
    """Settings of the Ray launcher; the flags of `--launch ray`."""

    num_replicas: int = Field(1, ge=1)
    ray_address: str | None = None
    """Address of a running cluster (`auto`, host:port or ray://...); None: Ray is started on this machine."""
    start_seconds: float = Field(1800.0, gt=0)
    """Seconds to wait for room in the cluster, and for a server to be healthy."""
    max_restarts: int = Field(5, ge=0)
    """Restarts of one replica, over the run."""


@dataclass
class _Replica:
    """The run's side of a replica.

    Attributes:
        pid: its server's process on its node.
        since: loop time of its last start.
    """

    number: int
    actor: Any
    endpoint: Endpoint
    pid: int = 0
    since: float = 0.0
    restarts: int = 0


class RayLauncher:
    """See `agentark.engines.launchers.base.Launcher`.

    Args:
        engine_config: settings of the openai engine.
        lock: notes the processes that this run has started.

    Raises:
        UserError: Ray is not installed.
    """

    name = "ray"

    def __init__(self, config: RayConfig, engine_config: EngineConfig, lock: RunLock) -> None:
        if importlib.util.find_spec("ray") is None:
            raise UserError("--launch ray: the package ray is not installed (pip install 'ray[default]')")
        self.config = config
        self.replicas: list[_Replica] = []
        self._engine_config = engine_config
        self._lock = lock
        self._key = secrets.token_urlsafe(24)
        self._owns_ray = False
        self._group: Any = None
        self._ray: Any = None

    async def start(self) -> OpenAIEngine:
        count = self.config.num_replicas
        with self._lock.engine_start(), starting("Ray") as phase:
            phase(f"placing {count} replica{'s' * (count != 1)}")
            await finished(self._place)
            phase("loading")
            numbers = range(1, count + 1)
            for outcome in await asyncio.gather(*map(self._first_start, numbers), return_exceptions=True):
                if isinstance(outcome, BaseException):
                    raise outcome
        self.replicas.sort(key=lambda one: one.number)
        return OpenAIEngine(self._engine_config(tuple(one.endpoint for one in self.replicas)))

    async def watch(self, engine: OpenAIEngine) -> None:
        pairs = list(zip(self.replicas, engine.servers, strict=True))
        await asyncio.gather(*(self._mind(one, server) for one, server in pairs))
        raise RunError(f"--launch ray: no replica of {self.config.served_name} could be kept running")

    async def stop(self) -> None:
        await finished(self._end)

    # ------------------------------------------------------------ placing

    def _place(self) -> None:
        """Connect to Ray and reserve the room for all replicas."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        logging.getLogger("ray").setLevel(logging.ERROR)  # it warns that it leaves our signal handlers alone
        address = self.config.ray_address
        if address is None and "RAY_AUTH_MODE" not in os.environ:  # Ray runs whatever it is sent
            os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_urlsafe(24)}
        ray = self._ray = import_module("ray")
        cloudpickle: Any = import_module("ray.cloudpickle")
        send_by_value(cloudpickle)
        if not ray.is_initialized():
            here: dict[str, Any] = {"include_dashboard": False, "object_store_memory": OBJECT_STORE}
            here["num_cpus"] = max(os.cpu_count() or 1, self.config.num_replicas)
            quiet = {"logging_level": logging.ERROR, "log_to_driver": False, "configure_logging": False}
            try:
                ray.init(address=address or "local", **quiet, **({} if address else here))
            except (ConnectionError, RuntimeError, ValueError) as error:
                where = f"--ray_address {address}" if address else "--launch ray"
                raise UserError(f"{where}: Ray cannot be reached ({' '.join(str(error).split())[:300]})") from None
            self._owns_ray = True
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        self._on_cpu = not any(node.get("GPU") for node in nodes)
        bundle = {"CPU": 1.0} if self._on_cpu else {"CPU": 1.0, "GPU": float(self.config.tensor_parallel_size)}
        self._check_room(nodes, bundle)
        groups: Any = import_module("ray.util.placement_group")
        self._group = groups.placement_group([bundle] * self.config.num_replicas, strategy="PACK")
        if not self._group.wait(self.config.start_seconds):
            raise UserError(
                f"--num_replicas {self.config.num_replicas}: the cluster had no room within "
                f"{self.config.start_seconds:g} s (others are using it)"
            )
        self._bundle = bundle

    def _check_room(self, nodes: list[dict[str, float]], bundle: dict[str, float]) -> None:
        """Raises UserError where even the empty cluster could not hold the replicas."""
        config = self.config
        if self._on_cpu and config.tensor_parallel_size > 1:
            raise UserError(
                f"--tensor_parallel_size {config.tensor_parallel_size}: there is no GPU in this Ray cluster"
            )
        room = sum(min(int(node.get(name, 0) // need) for name, need in bundle.items()) for node in nodes)
        if room < config.num_replicas:
            needs = " and ".join(f"{need:g} {name}" for name, need in bundle.items())
            has = "; ".join(", ".join(f"{node.get(name, 0):g} {name}" for name in bundle) for node in nodes)
            raise UserError(
                f"--num_replicas {config.num_replicas}: a replica needs {needs} on one node; the cluster holds {room} "
                f"of them (nodes: {has})"
            )

    def _actor(self, number: int) -> Any:
        """A new actor in the replica's bundle."""
        strategies: Any = import_module("ray.util.scheduling_strategies")
        command = server_command(
            self.config,
            python="{python}",
            host="{host}",
            port="{port}",
            max_num_seqs=self._capacity,
            on_cpu=self._on_cpu,
            middleware=f"{replica_module.GUARD_MODULE}.{guard.Guard.__name__}",
        )
        placed = strategies.PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=number - 1)
        wants = {"num_cpus": self._bundle["CPU"], "num_gpus": self._bundle.get("GPU", 0.0)}
        actor = self._ray.remote(replica_module.Replica).options(scheduling_strategy=placed, **wants)
        reachable = self.config.ray_address is not None
        return actor.remote(command, self._environment(), reachable, inspect.getsource(guard))

    @property
    def _capacity(self) -> int:
        return CPU_CAPACITY if self._on_cpu else GPU_CAPACITY

    def _environment(self) -> dict[str, str]:
        shared = {guard.KEY_ENV: self._key, "VLLM_API_KEY": self._key, "VLLM_NO_USAGE_STATS": "1"}
        if not self._on_cpu:
            return shared
        threads = max(1, (os.cpu_count() or 1) // self.config.num_replicas)
        cpu = {**CPU_ENVIRONMENT, "VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": str(threads)}
        return shared | {name: os.environ.get(name, value) for name, value in cpu.items()}

    # ------------------------------------------------------------ starting, minding, ending

    async def _first_start(self, number: int) -> None:
        """Start a replica and wait for its first health. Raises UserError when it never comes."""
        from ray.exceptions import RayError

        where = f"--launch ray: replica {number} of {self.config.num_replicas}"
        try:
            actor = self._actor(number)
            endpoint, pid = await self._launch(actor)
        except (RayError, TimeoutError) as error:
            raise UserError(f"{where} could not be placed ({type(error).__name__})") from None
        one = _Replica(number, actor, endpoint, pid, _now())
        self.replicas.append(one)
        while (found := await self._state(one))[0] != "healthy":
            if found[0] != "starting":
                raise UserError(f"{where} cannot serve {self.config.model}: {found[1]}")
            if _now() - one.since > self.config.start_seconds:
                raise UserError(f"{where} is not healthy after {self.config.start_seconds:g} s")
            await asyncio.sleep(POLL_SECONDS)

    async def _launch(self, actor: Any) -> tuple[Endpoint, int]:
        address, port, pid = await self._ask(actor.start, self.config.start_seconds)
        return Endpoint(
            model_name=self.config.served_name,
            model_url=f"http://{address}:{port}/v1",
            max_workers=self._capacity,
            api_key=SecretStr(self._key),
        ), pid

    async def _ask(self, method: Any, seconds: float = ASK_SECONDS) -> Any:
        """The result of an actor's method. Raises RayError or TimeoutError."""
        async with asyncio.timeout(seconds):
            return await asyncio.wrap_future(method.remote().future())

    async def _state(self, one: _Replica) -> tuple[str, str]:
        """State and last words; `lost` when the actor itself is gone."""
        from ray.exceptions import RayError

        try:
            state, words = await self._ask(one.actor.state)
        except (RayError, TimeoutError) as error:
            return "lost", type(error).__name__
        return str(state), str(words)

    async def _mind(self, one: _Replica, server: Server) -> None:
        """Keep one replica running. Returns when its restarts are used up."""
        down = False
        while True:
            await asyncio.sleep(POLL_SECONDS)
            state, words = await self._state(one)
            late = state == "starting" and _now() - one.since > self.config.start_seconds
            if state == "healthy" and not late:
                if down:
                    server.failures, server.rest_until = 0, _now()
                    logger.warning("replica %d is back at %s", one.number, server.label)
                    self._lock.note_engine()
                down = False
                continue
            down = True
            # its calls wait instead of using up their tries; the pool looks again when the rest ends
            server.rest_until = max(server.rest_until, _now() + 3 * POLL_SECONDS)
            if state == "starting" and not late:
                continue
            if one.restarts == self.config.max_restarts:
                logger.warning("replica %d is given up after %d restarts (%s)", one.number, one.restarts, words)
                return
            one.restarts += 1
            logger.warning("replica %d at %s is %s (%s): restarting it", one.number, server.label, state, words)
            await self._restart(one, server, lost=state == "lost")

    async def _restart(self, one: _Replica, server: Server, lost: bool) -> None:
        from ray.exceptions import RayError

        one.since = _now()
        try:
            if lost:
                self._ray.kill(one.actor)
                one.actor = self._actor(one.number)
            endpoint, one.pid = await self._launch(one.actor)
        except (RayError, TimeoutError) as error:
            logger.warning("replica %d could not be started (%s)", one.number, type(error).__name__)
            return
        if endpoint.model_url != one.endpoint.model_url:
            await server.close()
            server.endpoint, server.label, server.introduced = endpoint, endpoint.label, False
            server.open()
        one.endpoint = endpoint

    def _end(self) -> None:
        if self._ray is None:
            return
        from ray.exceptions import RayError

        if self._ray.is_initialized():
            stopping = [one.actor.stop.remote() for one in self.replicas]
            for one, reference in zip(self.replicas, stopping, strict=True):
                with suppress(RayError):  # a lost actor has nothing left to end
                    self._ray.get(reference, timeout=ASK_SECONDS)
                self._ray.kill(one.actor)
            if self._group is not None:
                import_module("ray.util.placement_group").remove_placement_group(self._group)
            if self._owns_ray:
                self._ray.shutdown()
        self.replicas, self._group, self._owns_ray = [], None, False


def _now() -> float:
    return asyncio.get_running_loop().time()


def send_by_value(cloudpickle: Any) -> None:
    """Make Ray's pickles hold what a replica is made of, which its nodes cannot import."""
    for module in (replica_module, scratch):
        cloudpickle.register_pickle_by_value(module)
