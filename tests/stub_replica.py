"""A light stand-in for a vLLM OpenAI server as a process: `python stub_replica.py MODEL HOST PORT LATENCY GUARD`.

It has a child, as vLLM has its engine, and puts the ASGI middleware GUARD (an import path) before every path, as vLLM
does with `--middleware`. A model named `broken` never serves.
"""

import asyncio
import importlib
import json
import subprocess
import sys
from typing import Any

import uvicorn

MODEL, HOST, PORT, LATENCY = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
MODULE, _, NAME = sys.argv[5].rpartition(".")


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        return
    body = b""
    while (event := await receive()).get("more_body"):
        body += event["body"]
    answer = await answered(scope["path"], json.loads(body + event["body"] or b"{}"))
    data = json.dumps(answer).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": data})


async def answered(path: str, body: Any) -> Any:
    if "messages" not in body:
        return {"object": "list", "data": [{"id": MODEL, "max_model_len": 4096}]}
    words = sum(len(message["content"].split()) + 4 for message in body["messages"])
    if path == "/tokenize":
        return {"count": words, "tokens": [], "token_strs": ["Hi"]}
    await asyncio.sleep(LATENCY)
    text = f"{body['messages'][-1]['content']} from {PORT}"
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": words, "completion_tokens": 3, "total_tokens": words + 3}
    return {"id": "1", "model": MODEL, "choices": [choice], "usage": usage}


if MODEL == "broken":
    sys.exit("ValueError: this model has no layers")
guarded = getattr(importlib.import_module(MODULE), NAME)(app)
subprocess.Popen([sys.executable, "-c", f"import time; time.sleep(3600)  # engine of {PORT}"])
uvicorn.run(guarded, host=HOST, port=PORT, log_level="error", lifespan="off")
