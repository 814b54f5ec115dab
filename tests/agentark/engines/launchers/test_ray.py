"""The Ray launcher with light stand-ins for vLLM: placed, used, killed, restarted, ended."""

import asyncio
import os
import ssl
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import psutil
import pytest
from guarded import closed_without_key
from lora_cases import bare

from agentark import cli
from agentark.engines.choose import add_engine_flags, choose_engine
from agentark.engines.launchers import ray as launcher
from agentark.engines.launchers import replica
from agentark.engines.launchers.base import LaunchedEngine
from agentark.engines.launchers.ray import RayConfig, RayLauncher
from agentark.engines.launchers.replica import Replica
from agentark.engines.openai import OpenAIConfig
from agentark.engines.vllm import CPU_CAPACITY
from agentark.lock import RunLock
from agentark.types import SamplingParams, UserError, message

STUB = Path(__file__).parents[3] / "stub_replica.py"
PARAMS = SamplingParams(temperature=0.0, max_tokens=16)


@pytest.fixture(autouse=True)
def _stub(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in instead of vLLM; no proxy in between, no reading of certificates."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", lambda *_, **__: None)

    def command(serving: RayConfig, *, python: str, host: str, port: str, middleware: str, **_: Any) -> list[str]:
        return [python, str(STUB), serving.served_name, host, port, "0.05", middleware]

    monkeypatch.setattr(launcher, "server_command", command)


def engine_on(lock: RunLock, replicas: int, name: str = "small", **options: Any) -> LaunchedEngine:
    config = RayConfig(model="anything", served_name=name, num_replicas=replicas, **options)

    def settings(endpoints: Any) -> OpenAIConfig:
        return OpenAIConfig(model=name, endpoints=endpoints, rest=0.05, max_rest=0.5, timeout=20.0)

    return LaunchedEngine(RayLauncher(config, settings, lock))


def run(
    tmp_path: Path, scenario: Callable[[LaunchedEngine, RunLock], Awaitable[Any]], *args: Any, **options: Any
) -> Any:
    async def all_of_it(lock: RunLock) -> Any:
        async with engine_on(lock, *args, **options) as engine:
            return await scenario(engine, lock)

    with RunLock(tmp_path / "results.jsonl") as lock:
        return asyncio.run(all_of_it(lock))


def engines_of(port: str) -> list[psutil.Process]:
    """The stand-in's children that are still there."""
    return [
        one for one in psutil.process_iter(["cmdline"]) if f"# engine of {port}" in " ".join(one.info["cmdline"] or [])
    ]


async def ask(engine: LaunchedEngine, number: int) -> str:
    call = engine.chat([message("user", f"call {number}")], PARAMS, session=f"s{number}", priority=number)
    return (await call).text


def test_a_killed_replica_is_restarted_and_no_call_is_lost(tmp_path: Path) -> None:
    async def scenario(engine: LaunchedEngine, lock: RunLock) -> tuple[list[str], list[str], list[str]]:
        launched = engine.launcher
        assert isinstance(launched, RayLauncher)
        assert (engine.name, engine.capacity, engine.context_length) == ("openai/ray", 2 * CPU_CAPACITY, 4096)
        victim = launched.replicas[0]
        assert str(victim.pid).encode() in lock.path.read_bytes()  # a killed run leaves nothing behind
        ports = [one.endpoint.model_url.rsplit(":", 1)[1].removesuffix("/v1") for one in launched.replicas]
        assert [len(engines_of(port)) for port in ports] == [1, 1]
        first = asyncio.gather(*(ask(engine, number) for number in range(200)))
        await asyncio.sleep(0.1)
        os.kill(victim.pid, 9)  # the server only; its engine is left behind
        texts = await first
        deadline = time.monotonic() + 60
        while victim.restarts == 0 or (await launched._state(victim))[0] != "healthy":
            assert time.monotonic() < deadline, "the replica was not restarted"
            await asyncio.sleep(0.1)
        await asyncio.sleep(3.5)  # until the pool looks at it again
        again = await asyncio.gather(*(ask(engine, number) for number in range(1000, 1064)))
        assert [len(engines_of(port)) for port in ports] == [1, 1]  # the old engine is gone
        return texts, list(again), ports

    texts, again, ports = run(tmp_path, scenario, 2)
    assert [text.split(" from ")[0] for text in texts] == [f"call {number}" for number in range(200)]
    used = Counter(text.rsplit(" ", 1)[1] for text in again)
    assert set(used) == set(ports), "the restarted replica, on its old port, gets calls again"
    assert [engines_of(port) for port in ports] == [[], []], "nothing outlives the run"


def test_every_door_asks_for_the_key(tmp_path: Path) -> None:
    async def scenario(engine: LaunchedEngine, lock: RunLock) -> str:
        launched = engine.launcher
        assert isinstance(launched, RayLauncher)
        url = launched.replicas[0].endpoint.model_url.removesuffix("/v1")
        assert await asyncio.to_thread(closed_without_key, url, launched._key)
        below = psutil.Process().children(recursive=True)
        assert not any(launched._key in " ".join(process.cmdline()) for process in below)
        for process in below:
            if process.pid == launched.replicas[0].pid:
                assert {one.laddr.ip for one in process.net_connections("inet") if one.status == "LISTEN"} == {
                    "127.0.0.1"
                }
        assert launched._key not in lock.path.read_text()
        address = str(import_module("ray").get_runtime_context().gcs_address)
        return await asyncio.to_thread(stranger, address)

    assert "ConnectionError: Failed to connect to Ray cluster" in run(tmp_path, scenario, 1)


def stranger(address: str) -> str:
    """The last line of a process that joins this Ray cluster without the key."""
    code = f"import ray; ray.init(address={address!r}, log_to_driver=False); print('IN')"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).strip().splitlines()[-1]


def test_a_replica_listens_on_the_address_of_its_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replica, "_own_address", lambda: "127.0.0.2")
    for reachable, address in ((False, "127.0.0.1"), (True, "127.0.0.2")):
        one = Replica([sys.executable, "-c", "import sys, time; time.sleep(60)", "{host}"], {}, reachable)
        told, _, pid = one.start()
        assert (told, psutil.Process(pid).cmdline()[-1]) == (address, address)
        one.stop(0.0)


def test_a_lost_actor_is_placed_anew(tmp_path: Path) -> None:
    async def scenario(engine: LaunchedEngine, lock: RunLock) -> tuple[str, str, int]:
        launched = engine.launcher
        assert isinstance(launched, RayLauncher)
        before = await ask(engine, 1)
        server = psutil.Process(launched.replicas[0].pid)
        os.kill(server.ppid(), 9)  # the actor; its server ends with it
        while server.is_running() and server.status() != psutil.STATUS_ZOMBIE:
            await asyncio.sleep(0.05)
        after = await ask(engine, 2)
        return before, after, launched.replicas[0].restarts

    before, after, restarts = run(tmp_path, scenario, 1)
    assert (before.split(" from ")[0], after.split(" from ")[0]) == ("call 1", "call 2")
    assert before.rsplit(" ", 1)[1] != after.rsplit(" ", 1)[1]
    assert restarts == 1


def test_what_cannot_start_is_one_line(tmp_path: Path) -> None:
    async def never(engine: LaunchedEngine, lock: RunLock) -> None:
        raise AssertionError("it started")

    with pytest.raises(UserError, match=r"replica 1 of 1 cannot serve anything: ValueError: this model has no layers"):
        run(tmp_path, never, 1, name="broken")


@pytest.mark.parametrize(
    ("nodes", "options", "expected"),
    [
        ([{"CPU": 8.0, "GPU": 4.0}] * 2, {"num_replicas": 4, "tensor_parallel_size": 2}, None),
        (
            [{"CPU": 8.0, "GPU": 3.0}] * 2,
            {"num_replicas": 3, "tensor_parallel_size": 2},
            "--num_replicas 3: .* holds 2",
        ),
        ([{"CPU": 1.0}], {"num_replicas": 1, "tensor_parallel_size": 2}, "--tensor_parallel_size 2: there is no GPU"),
    ],
)
def test_room(nodes: list[dict[str, float]], options: dict[str, int], expected: str | None, tmp_path: Path) -> None:
    config = RayConfig(model="m", served_name="m", **options)
    one = RayLauncher(config, lambda endpoints: OpenAIConfig(model="m", endpoints=endpoints), RunLock(tmp_path / "r"))
    one._on_cpu = not any("GPU" in node for node in nodes)
    bundle = {"CPU": 1.0} if one._on_cpu else {"CPU": 1.0, "GPU": float(options["tensor_parallel_size"])}
    if expected is None:
        one._check_room(nodes, bundle)
        return
    with pytest.raises(UserError, match=expected):
        one._check_room(nodes, bundle)


def test_a_replica_ends_with_its_parent(tmp_path: Path) -> None:
    """A parent that is killed cannot clean up."""
    code = (
        "import sys; from agentark.engines.launchers.replica import Replica\n"
        "one = Replica([sys.executable, '-c', 'import time; time.sleep(600)'], {}, False)\n"
        "print(one.start()[2], flush=True); sys.stdin.read()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "env": {**os.environ, "TMPDIR": str(tmp_path)}}
    parent = subprocess.Popen([sys.executable, "-c", code], text=True, **pipes)  # type: ignore[call-overload]
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    assert psutil.wait_procs([child], timeout=10)[1] == []


def test_a_node_needs_nothing_of_this_project(tmp_path: Path) -> None:
    """What Ray's workers get starts a server where this project cannot be imported."""
    code = (
        "import sys; sys.modules['agentark'] = None\n"
        "from ray import cloudpickle\n"
        "one = cloudpickle.loads(sys.stdin.buffer.read())([sys.executable, '-c', 'print(1 / 0)'], {}, False)\n"
        "one.start(); one._process.wait(); print(one.state()); one.stop()"
    )
    sent = [sys.executable, "-c", SEND]
    pickled = subprocess.run(sent, capture_output=True, check=True).stdout
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], input=pickled, capture_output=True, env=environment, check=False
    )
    assert b"ZeroDivisionError" in done.stdout, done.stderr
    assert list(tmp_path.iterdir()) == []


SEND = """
import sys
from ray import cloudpickle
from agentark.engines.launchers import ray, replica
ray.send_by_value(cloudpickle)
sys.stdout.buffer.write(cloudpickle.dumps(replica.Replica))
"""


def test_a_replica_tells_how_it_died() -> None:
    words = "print('loading'); print('OSError: no such folder'); print('bye'); raise SystemExit(3)"
    one = Replica([sys.executable, "-c", words], {}, False)
    one.start()
    deadline = time.monotonic() + 20
    while (state := one.state())[0] == "starting" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert state == ("dead", "OSError: no such folder")
    one.stop()
    assert one.state() == ("dead", "it was stopped")


BASE = ["--launch", "ray"]


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--num_replicas", "2"], "--num_replicas 2: goes with --launch ray"),
        (["--engine_args", "max_num_seqs=2"], "--engine_args max_num_seqs=2: goes with --use_vllm"),
        (["--ray_address", "auto"], "--ray_address auto: goes with --launch ray"),
        ([*BASE, "--use_modal_batch"], "--use_modal_batch: does not go together with --launch ray"),
        ([*BASE, "--lora_path", "adapter"], "--lora_path adapter: --launch ray serves no adapters"),
        ([*BASE, "--data_parallel_size", "2"], "--data_parallel_size 2: with --launch ray, use --num_replicas"),
        (["--launch", "roy"], "--launch: invalid choice: 'roy'"),
    ],
)
def test_flags_that_do_not_go_together(
    argv: list[str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(bare(tmp_path / "adapter").parent)
    parser = cli.Parser()
    add_engine_flags(parser)
    with pytest.raises(UserError, match=expected):
        choose_engine(parser.parse_args(argv), "org/model")


def test_the_flags_reach_the_launcher(tmp_path: Path) -> None:
    parser = cli.Parser()
    add_engine_flags(parser)
    flags = ["--num_replicas", "3", "--tensor_parallel_size", "4", "--max_model_len", "8192", "--max_concurrency", "40"]
    choice = choose_engine(parser.parse_args([*BASE, *flags, "--ray_address", "auto"]), "org/model")
    engine = choice.make(RunLock(tmp_path / "r.jsonl"))
    assert choice.label == "org/model"
    assert isinstance(engine, LaunchedEngine)
    assert isinstance(engine.launcher, RayLauncher)
    config = engine.launcher.config
    assert (config.num_replicas, config.tensor_parallel_size, config.max_model_len) == (3, 4, 8192)
    assert config.ray_address == "auto"
