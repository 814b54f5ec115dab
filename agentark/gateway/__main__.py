"""Record any multi-agent system: serve an OpenAI-compatible API, and write what passes as trajectories.

    python -m agentark.gateway --output results/GSM8K/MODEL/my_team_infer.jsonl --dataset_name GSM8K \
        --model_name MODEL --use_vllm --replay

The team keeps its code and changes its base_url. A gateway that was stopped in any way goes on with the same command.
"""

import asyncio
import os
import secrets
import socket
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from agentark import answers, cli, contamination, job
from agentark.engines.choose import Choice, add_engine_flags, choose_engine
from agentark.engines.endpoints import read_endpoints
from agentark.files import check_file, write_atomically
from agentark.gateway.client import KEY_ENV
from agentark.gateway.desk import Desk, Limits
from agentark.gateway.server import application
from agentark.lock import RunLock
from agentark.progress import Progress
from agentark.records import Store, now
from agentark.sampling import add_sampling_flags, saying
from agentark.tasks import get_task
from agentark.types import GATEWAY, Engine, MethodInfo, UserError

MAX_PORT = 65535
MIN_KEY = 32
"""Characters of a key that is made, at least."""
SHUTDOWN_SECONDS = 2.0
"""That replies under way have to end when the server ends."""


def parse(argv: Sequence[str] | None = None) -> Namespace:
    parser = cli.Parser(prog="agentark.gateway", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--output", type=cli.output_file, required=True, help="results file")
    parser.add_argument("--dataset_name", required=True, help="dataset whose samples, or whose kind of question, it is")
    parser.add_argument("--model_name", help="hub id, local folder, embedded or served model (default: the one that "
                        "--model_api_config names)")  # fmt: skip
    parser.add_argument("--variant", help="name of the team in the records (default: as the results file has it)")
    add_sampling_flags(parser, "--model_temperature")
    parser.add_argument(
        "--model_max_tokens", type=cli.integer(1), default=4096, help="new tokens of a call that sets no limit, at most"
    )
    parser.add_argument("--seed", type=cli.integer(0), default=0, help="seed of the run")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=cli.integer(1, MAX_PORT), default=8100, help="port to listen on")
    parser.add_argument("--replay", action="store_true", help="a call that is made again gets the reply it has")
    parser.add_argument(
        "--idle_timeout", type=cli.number(0.1), default=600.0, help="seconds after which a silent sample is closed"
    )
    parser.add_argument("--max_body", type=cli.integer(1024), default=1 << 24, help="bytes of a request, at most")
    parser.add_argument("--max_open_samples", type=cli.integer(1), default=1024, help="samples open at once")
    parser.add_argument("--max_calls", type=cli.integer(1), default=1024, help="calls in flight or waiting at once")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing results file")
    parser.add_argument("--debug", action="store_true", help="verbose engine log")
    job.add_sample_flags(parser)
    add_engine_flags(parser)
    args: Namespace = parser.parse_args(argv)
    if not args.host.strip():
        raise UserError("--host: empty; 0.0.0.0 stands for every address of this machine")
    if args.variant is not None and not args.variant.strip():
        raise UserError("--variant: empty")
    args.model_name = args.model_name or _only_model(args.model_api_config)
    return args


def _only_model(endpoints: Path | None) -> str:
    """The one model that an endpoint file names."""
    if endpoints is None:
        raise UserError("--model_name: is missing")
    names = list(read_endpoints(endpoints))
    if len(names) != 1:
        raise UserError(f"--model_name: is missing, and {endpoints} names {len(names)} models: {', '.join(names)}")
    return names[0]


def bound(host: str, port: int) -> list[socket.socket]:
    """Sockets that will listen there, so that a port in use is known before the engine starts.

    Raises:
        UserError: nobody can listen there.
    """
    sockets: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in dict.fromkeys(found):
            sockets.append(socket.socket(family, kind, protocol))
            sockets[-1].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sockets[-1].setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sockets[-1].bind(address)
    except UnicodeError:
        raise UserError(f"--host {host}: is not a name of a machine") from None
    except OSError as error:
        for one in sockets:
            one.close()
        raise unlistenable(host, port, error) from None
    return sockets


def unlistenable(host: str, port: int, error: OSError) -> UserError:
    flags = f"--host {host}" + ("" if isinstance(error, socket.gaierror) else f" --port {port}")
    return UserError(f"{flags}: cannot be listened on ({error.strerror})")


async def serve(args: Namespace, desk: Desk, key: str, sockets: Sequence[socket.socket], said: str) -> None:
    """Listen until cancelled, or until the run must end."""
    from aiohttp import web

    await desk.begin()
    served = application(desk, key, args.max_body)
    runner = web.AppRunner(
        served, access_log=None, handler_cancellation=True, shutdown_timeout=SHUTDOWN_SECONDS, handle_signals=False
    )
    await runner.setup()
    watching = asyncio.create_task(desk.watch())
    try:
        try:
            for one in sockets:
                await web.SockSite(runner, one).start()
        except OSError as error:  # another server has begun since
            raise unlistenable(args.host, args.port, error) from None
        sys.stdout.write(f"{said}\n")
        sys.stdout.flush()
        await asyncio.wait([desk.broken, watching], return_when=asyncio.FIRST_COMPLETED)
        await (desk.broken if desk.broken.done() else watching)
    finally:
        watching.cancel()
        for site in list(runner.sites):
            await site.stop()
        await desk.stop()
        await runner.cleanup()


@contextmanager
def known_key(output: Path) -> Iterator[tuple[str, str]]:
    """(the key that clients must bear, where it stands).

    A key that is made is kept in a file, for this user alone, until a clean end, so that clients outlive a gateway
    that is killed.
    """
    if key := os.environ.get(KEY_ENV, "").strip():
        yield key, f"${KEY_ENV}"
        return
    path = output.with_name(output.name + ".key")
    check_file(path)
    with suppress(OSError, UnicodeDecodeError):
        key = path.read_text("ascii").strip()
    if len(key) < MIN_KEY:
        key = secrets.token_urlsafe(MIN_KEY)
        before = os.umask(0o177)
        try:
            write_atomically(path, f"{key}\n".encode())
        finally:
            os.umask(before)
    yield key, str(path)
    path.unlink(missing_ok=True)


async def session(args: Namespace, store: Store, engine: Engine, desk_parts: dict[str, Any], about: dict[str, Any],
                  order: dict[str, int], sockets: Sequence[socket.socket]) -> int:  # fmt: skip
    """Serve until stopped; the store is closed in any case. Returns how many samples failed."""
    async with engine:
        facts = {"engine": engine.name, "guarantee": engine.guarantee, "capacity": engine.capacity}
        store.start({**about, **facts, "dtype": engine.dtype})
        ended = False
        with known_key(args.output) as (key, where), Progress(0) as progress, progress.ticking():
            desk = Desk(store=store, engine=engine, progress=progress, **desk_parts)
            url = f"http://{args.host}:{args.port}/v1"
            said = f"recording {desk.model} on {url}; the key stands in {where}"
            try:
                await serve(args, desk, key, sockets, said)
            except asyncio.CancelledError:
                ended = True  # stopped by its user: open samples stay in the journal
            finally:
                store.close(order if ended else None, finished=now(), done=progress.done, failed=progress.failed)
        sys.stdout.write(f"{progress.done} samples written, {progress.failed} failed, {len(desk.open)} left open\n")
        return progress.failed


def main(argv: Sequence[str] | None = None, choose_engine: Callable[..., Choice] = choose_engine) -> int:
    args = parse(argv)
    task = get_task(args.dataset_name)
    loaded, samples = job.select(args, task)
    choice = choose_engine(args, args.model_name)
    defaults = job.defaults_of(args, args.model_max_tokens, choice.label, choice.model)
    runs = {"temperature": defaults.temperature, **defaults.controls}
    make = saying(choice.make, choice.label, choice.model, runs)
    variant = args.variant or args.output.name.removesuffix(".jsonl").removesuffix("_infer")
    info = MethodInfo(GATEWAY, variant, {})
    identity = {
        **{"method": info.name, "variant": info.variant, "method_config": info.config},
        **job.identity(args, task, loaded, choice.label, defaults),
    }
    limits = Limits(open_samples=args.max_open_samples, calls=args.max_calls, idle=args.idle_timeout)
    parts: dict[str, Any] = {"samples": samples, "info": info, "model": choice.label, "defaults": defaults}
    parts |= {"limits": limits, "replay": args.replay}
    with RunLock(args.output) as lock:
        store = Store(args.output, identity, overwrite=args.overwrite)
        about = {"started": now(), "command": cli.command_line(), "versions": cli.provenance()}
        about |= job.origin(loaded, contamination.of_model(args.model_name, args.lora_path))
        order = {sample.id: rank for rank, sample in enumerate(loaded.samples)}
        sockets = bound(args.host, args.port)
        failed = cli.run_async(session(args, store, make(lock), parts, about, order, sockets))
    answers.close_pool()
    return 1 if failed else 0


if __name__ == "__main__":
    cli.entry(main)
