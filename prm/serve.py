"""Serve a reward model over HTTP, for policies that are trained elsewhere.

    python -m prm.serve --prm outputs/prm_gsm8k --port 8300

POST /score {"prompts": [text, ...], "responses": [[token id, ...], ...]}, with the ids of the policy, which has the
reward model's tokenizer; answers {"scores": [[p(right) per step] | null, ...], "steps": [[text, ...], ...],
"ends": [[last token of each step], ...]}; null if a response does not fit the model. GET /health names the
served model. Requests that arrive while a batch is being scored form the next batch.
"""

import asyncio
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from agentark import cli
from agentark.types import UserError

MAX_BODY = 1 << 28
"""The most bytes of a request."""
MAX_PORT = 65535
Request = tuple[str, Sequence[int], "asyncio.Future[Any]"]
"""Prompt, token ids of the response, and who waits for its score."""
Score = Callable[[Sequence[str], Sequence[Sequence[int]]], list[Any]]


class Batcher:
    """Turns single requests into batches of all requests that have arrived when the scorer is free.

    Args:
        score: scores many responses at once, in order; blocks.
        wait: seconds a batch stays open after its first request.
        most: most requests of a batch.
    """

    def __init__(self, score: Score, wait: float = 0.005, most: int = 256) -> None:
        self._score = score
        self._wait = wait
        self._most = most
        self._queue: asyncio.Queue[Request] = asyncio.Queue()
        self._worker: asyncio.Task[None] | None = None

    async def submit(self, prompt: str, response: Sequence[int]) -> Any:
        """The score of one response. Raises what the scorer raised on it alone."""
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        waiting: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        await self._queue.put((prompt, response, waiting))
        return await waiting

    async def _work(self) -> None:
        while True:
            batch = [await self._queue.get()]
            await asyncio.sleep(self._wait)
            while len(batch) < self._most and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            if not await self._answer(batch) and len(batch) > 1:
                for request in batch:  # one of them is at fault; the others must not pay for it
                    await self._answer([request])

    async def _answer(self, batch: Sequence[Request]) -> bool:
        """Score requests together. Returns whether that worked; a request that fails alone is told why."""
        prompts, responses, waiting = zip(*batch, strict=True)
        try:
            scored = await asyncio.to_thread(self._score, prompts, responses)
        except Exception as error:  # noqa: BLE001 - handed to whoever waits for it
            if len(batch) == 1 and not waiting[0].done():
                waiting[0].set_exception(error)
            return False
        for future, value in zip(waiting, scored, strict=True):
            if not future.done():
                future.set_result(value)
        return True


def application(scorer: Any, about: dict[str, Any]) -> Any:
    """The aiohttp application around a prm.score.Scorer."""
    from aiohttp import web

    batcher = Batcher(scorer.score_responses)

    def refusal(status: int, reason: str) -> Any:
        return web.json_response({"error": reason}, status=status)

    async def health(request: Any) -> Any:
        return web.json_response(about)

    async def score(request: Any) -> Any:
        try:
            prompts, responses = check(await request.json(), len(scorer.codec.tokenizer))
        except web.HTTPRequestEntityTooLarge:
            return refusal(400, f"the body is longer than {MAX_BODY} bytes")
        except (ValueError, LookupError, RecursionError, web.RequestPayloadError) as error:  # also a false charset
            return refusal(400, f"{type(error).__name__}: {error}")
        pairs = zip(prompts, responses, strict=True)
        try:
            scored = await asyncio.gather(*(batcher.submit(prompt, ids) for prompt, ids in pairs))
        except Exception as error:  # noqa: BLE001 - told to whoever asked
            return refusal(500, f"{type(error).__name__}: {error}")
        return web.json_response(
            {
                "scores": [scores for scores, _ in scored],
                "steps": [steps.steps for _, steps in scored],
                "ends": [steps.ends for _, steps in scored],
            }
        )

    served = web.Application(client_max_size=MAX_BODY)
    served.add_routes([web.get("/health", health), web.post("/score", score)])
    return served


def check(body: Any, vocabulary: int) -> tuple[list[str], list[list[int]]]:
    """The request's prompts and responses. Raises ValueError for anything else.

    Args:
        vocabulary: how many token ids there are.
    """
    if not isinstance(body, dict) or body.keys() != {"prompts", "responses"}:
        raise ValueError("expected an object with 'prompts' and 'responses'")
    prompts, responses = body["prompts"], body["responses"]
    if not isinstance(prompts, list) or not all(isinstance(prompt, str) for prompt in prompts):
        raise ValueError("'prompts' must be a list of texts")
    if not isinstance(responses, list) or len(responses) != len(prompts):
        raise ValueError("'responses' must be a list as long as 'prompts'")
    if not all(isinstance(ids, list) and ids and all(type(token) is int for token in ids) for ids in responses):
        raise ValueError("each of 'responses' must be a list of token ids, none of them empty")
    if not all(0 <= token < vocabulary for ids in responses for token in ids):
        raise ValueError(f"each of 'responses' must be a list of token ids from 0 to {vocabulary - 1}")
    for prompt in prompts:
        prompt.encode()  # half a surrogate pair is no text
    return prompts, responses


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser(prog="prm.serve", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--prm", type=Path, required=True, help="folder of the reward model")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=cli.integer(1), default=8300, help="port to listen on")
    parser.add_argument("--device", help="device of the model (default: the GPU if there is one)")
    parser.add_argument("--max_tokens", type=cli.integer(1), default=1 << 14, help="most tokens per forward pass")
    args = parser.parse_args(argv)
    if not args.host.strip():
        raise UserError("--host: empty; 0.0.0.0 stands for every address of this machine")
    if not args.prm.is_dir():
        raise UserError(f"--prm {args.prm}: no such folder")
    if args.port > MAX_PORT:
        raise UserError(f"--port {args.port}: is not a port (1 to {MAX_PORT})")
    from aiohttp import web

    from prm.score import Scorer

    scorer = Scorer.load(args.prm, args.device, max_tokens=args.max_tokens)
    about = {"prm": str(args.prm), "step_unit": scorer.codec.settings.step_unit}
    sys.stdout.write(f"serving {args.prm} on http://{args.host}:{args.port}\n")
    sys.stdout.flush()
    try:
        web.run_app(application(scorer, about), host=args.host, port=args.port, print=None)
    except UnicodeError:
        raise UserError(f"--host {args.host}: is not a name of a machine") from None
    except OSError as error:
        flags = f"--host {args.host}" + ("" if isinstance(error, socket.gaierror) else f" --port {args.port}")
        raise UserError(f"{flags}: cannot be listened on ({error.strerror})") from None
    return 0


if __name__ == "__main__":
    cli.entry(main)
