"""Knocks at every path of a server, as somebody without the key."""

import urllib.error
import urllib.request

PATHS = ("/v1/models", "/v1/chat/completions", "/tokenize", "/invocations", "/metrics", "/ping", "/version", "/docs")
PATHS += ("/openapi.json", "/load", "/", "/health/", "//health", "/health/../tokenize", "/v1/../tokenize")


def closed_without_key(url: str, key: str) -> bool:
    """Whether each path refuses everybody but the one with the key, and only /health tells that the server is up."""
    wrong = (None, "", "Bearer", "Bearer ", f"Bearer {key[:-1]}", f"Bearer {key}x", key, f"Basic {key}")
    refused = {status(url + path, method, given) for path in PATHS for method in METHODS for given in wrong}
    return refused == {401} and status(f"{url}/v1/models", "GET", f"Bearer {key}") == 200 == status(f"{url}/health")


METHODS = ("GET", "POST", "HEAD", "OPTIONS")


def status(url: str, method: str = "GET", authorization: str | None = None) -> int:
    """The HTTP status of one request, without a proxy in between."""
    request = urllib.request.Request(url, method=method, data=b"{}" if method == "POST" else None)
    if authorization is not None:
        request.add_header("Authorization", authorization)
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=20) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as error:
        return error.code
