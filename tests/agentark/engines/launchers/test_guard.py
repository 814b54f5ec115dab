"""The guard on vLLM's own application: its parser takes our flags, and every route that vLLM registers is closed."""

import asyncio
import itertools
from typing import Any

import pytest

from agentark.engines.launchers.command import GUARD, Serving, server_command
from agentark.engines.launchers.guard import KEY_ENV

pytestmark = pytest.mark.slow  # vLLM takes a while to import
pytest.importorskip("vllm")
KEY = "sk-guarded-123456"


def parsed() -> Any:
    """The arguments of a server's command, as vLLM's own parser reads them."""
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    serving = Serving(model="org/model", served_name="org/model", tensor_parallel_size=2, max_model_len=4096)
    command = server_command(serving, python="python", host="127.0.0.1", port="8000", max_num_seqs=8, on_cpu=False)
    return make_arg_parser(FlexibleArgumentParser()).parse_args(command[3:])


async def status(app: Any, path: str, method: str, headers: list[tuple[bytes, bytes]], kind: str = "http") -> Any:
    """What the application answers first: an HTTP status, or the type of its event."""
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request" if kind == "http" else "websocket.connect", "body": b"{}", "more_body": False}

    async def send(event: Any) -> None:
        sent.append(event)

    scope = {"type": kind, "path": path, "raw_path": path.encode(), "query_string": b"", "headers": headers}
    scope |= {"method": method, "http_version": "1.1", "scheme": "http", "server": ("127.0.0.1", 80), "root_path": ""}
    await app(scope | {"client": ("127.0.0.1", 9), "subprotocols": []}, receive, send)
    return sent[0].get("status", sent[0]["type"])


def test_every_route_of_vllm_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.entrypoints.launchers.app import build_app

    monkeypatch.setenv(KEY_ENV, KEY)
    args = parsed()
    assert (args.middleware, args.host, args.api_key) == ([GUARD], "127.0.0.1", None)
    app = build_app(args, ("generate",))
    paths = sorted({str(getattr(route, "path", "")) for route in app.routes} - {"/health", ""})
    assert {"/tokenize", "/invocations", "/v1/chat/completions", "/metrics", "/ping"} <= set(paths)

    async def knock() -> None:
        wrong = ([], [(b"authorization", b"Bearer other")], [(b"x-amzn-sagemaker-session-id", b"NEW_SESSION")])
        for path, method, headers in itertools.product(paths, ("GET", "POST", "OPTIONS"), wrong):
            assert await status(app, path, method, headers) == 401, path
            assert await status(app, path, method, headers, "websocket") == "websocket.close", path
        assert await status(app, "/openapi.json", "GET", [(b"authorization", f"Bearer {KEY}".encode())]) == 200

    asyncio.run(knock())


def test_vllm_does_not_serve_without_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.entrypoints.launchers.app import build_app

    monkeypatch.delenv(KEY_ENV, raising=False)
    with pytest.raises(RuntimeError, match="refusing to serve without a key"):
        build_app(parsed(), ("generate",))
