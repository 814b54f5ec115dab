"""Asks for a key on every path of a server that others can reach: those of Modal, Ray and Slurm.

vLLM's own `--api-key` guards `/v1` and leaves `/tokenize`, `/invocations` and more open to anybody with the address.
Given to vLLM as `--middleware agentark.engines.launchers.guard.Guard`. Needs nothing but the standard library: nodes
of a Ray cluster, which have vLLM and not this project, get a copy of this file.
"""

import hmac
import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

KEY_ENV = "AGENTARK_ENDPOINT_KEY"
"""Environment variable that holds the key, on both sides."""

Scope = MutableMapping[str, Any]
App = Callable[[Scope, Any, Any], Awaitable[None]]
OPEN = {"/health"}
"""Paths that a load balancer may ask for without a key."""


class Guard:
    """ASGI middleware: `Authorization: Bearer <key>`, or 401.

    Raises:
        RuntimeError: no key is set; the server does not start, as it would serve everybody.
    """

    def __init__(self, app: App) -> None:
        self._app = app
        key = os.environ.get(KEY_ENV, "").strip()
        if not key:
            raise RuntimeError(f"${KEY_ENV} is not set: refusing to serve without a key")
        self._expected = f"Bearer {key}".encode()

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan" or scope["path"] in OPEN or self._welcome(scope):
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            headers = [(b"content-type", b"application/json")]
            await send({"type": "http.response.start", "status": 401, "headers": headers})
            await send({"type": "http.response.body", "body": b'{"error": {"message": "wrong key or none"}}'})
        else:
            await send({"type": "websocket.close", "code": 1008})

    def _welcome(self, scope: Scope) -> bool:
        given = dict(scope["headers"]).get(b"authorization", b"")
        return hmac.compare_digest(given, self._expected)
