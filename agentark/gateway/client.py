"""The team's side: says which sample a call belongs to, and what the team's answer is. Needs nothing but Python.

    team = Team("http://127.0.0.1:8100")
    async with team.sample(query="What is 2 + 3?", gold="5") as sample:
        client = AsyncOpenAI(**sample.client("solver"))
        ...
        sample.answer(text)

`with` does the same for teams without asyncio. A sample of the gateway's dataset needs only its id.
"""

import asyncio
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any, Self
from urllib.parse import quote

KEY_ENV = "AGENTARK_GATEWAY_KEY"
"""Environment variable that holds the key, on both sides."""
WAITS = (0.2, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Seconds between the tries of a request while the gateway is away or full."""
TIMEOUT = 600.0
SAMPLES = "/agentark/samples"


class TeamError(Exception):
    """The gateway refuses a request."""


class Team:
    """A team's way to its gateway.

    Args:
        url: of the gateway, with or without /v1.
        key: None: $AGENTARK_GATEWAY_KEY.
    """

    def __init__(self, url: str = "http://127.0.0.1:8100", key: str | None = None) -> None:
        self.url = url.rstrip("/").removesuffix("/v1")
        self.key = key if key is not None else os.environ.get(KEY_ENV, "").strip()
        if not self.key:
            raise TeamError(f"no key: set {KEY_ENV} to the one that the gateway names at its start")
        self._model: str | None = None

    def left(self) -> list[str]:
        """The dataset's samples without a good row, in order."""
        return list(self.request("GET", SAMPLES)["left"])

    @property
    def model(self) -> str:
        """The name of the model that the gateway serves."""
        if self._model is None:
            self._model = str(self.request("GET", "/v1/models")["data"][0]["id"])
        return self._model

    def sample(
        self,
        query: str | None = None,
        gold: str | float | None = None,
        *,
        id: str | None = None,
        choices: Sequence[str] | None = None,
    ) -> "TeamSample":
        """A sample, to be used in `with` or `async with`.

        Args:
            query: the question; nothing for one of the dataset.
            id: None: made of query and choices, so that the same question is the same sample.
        """
        if id is None and query is None:
            raise TeamError("a sample needs its id or its query")
        stated = {"query": query, "gold": gold, "choices": None if choices is None else list(choices)}
        return TeamSample(
            self, id or _id_of(query, choices), {name: one for name, one in stated.items() if one is not None}
        )

    def request(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """One request, tried again while the gateway is away. Raises TeamError."""
        content = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        url = self.url + path
        for wait in (*WAITS, None):
            request = urllib.request.Request(url, content, headers, method=method)
            try:
                with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
                    return dict(json.load(answer))
            except urllib.error.HTTPError as error:
                if error.code not in (429, 503) or wait is None:
                    raise TeamError(f"{method} {url}: {_reason(error)}") from None
            except OSError as error:
                if wait is None:
                    raise TeamError(f"{method} {url}: {error}") from None
            time.sleep(wait)
        raise AssertionError("the last try has returned or raised")


class TeamSample:
    """One sample of a team.

    Attributes:
        id: its id.
        state: what it was when it was opened: new, open, closed or failed.
        query: the question.
        prompt: the question with the form in which the dataset wants the answer.
    """

    def __init__(self, team: Team, id: str, statement: Mapping[str, Any]) -> None:
        self._team = team
        self._statement = statement
        self._answer: str | None = None
        self.id = id
        self.state = self.query = self.prompt = ""

    @property
    def closed(self) -> bool:
        """Whether its row was written before: with --replay the team may go through it again, at no cost."""
        return self.state == "closed"

    def headers(self, agent: str | None = None, round: int | None = None) -> dict[str, str]:
        """The headers of a call, for any client of the OpenAI API."""
        given = {"Sample": self.id, "Agent": agent, "Round": round}
        return {f"X-AgentArk-{name}": quote(str(one)) for name, one in given.items() if one is not None}

    def client(self, agent: str | None = None, round: int | None = None) -> dict[str, Any]:
        """Settings of an agent's client: `OpenAI(**sample.client("solver", round=1))`, `ChatOpenAI(...)`."""
        base_url = f"{self._team.url}/v1"
        return {"base_url": base_url, "api_key": self._team.key, "default_headers": self.headers(agent, round)}

    def answer(self, text: str) -> None:
        """The team's answer; it is sent, and the sample closed, at the end of `with`."""
        self._answer = text

    def open(self) -> None:
        opened = self._team.request("POST", f"{SAMPLES}/{quote(self.id)}", self._statement)
        self.state, self.query, self.prompt = opened["state"], opened["query"], opened["prompt"]

    def close(self, error: BaseException | None = None) -> None:
        """Send the outcome; a team that fails leaves an error row, and its sample may be done again."""
        if self.closed and (error is not None or self._answer is None):
            return
        outcome = {"answer": self._answer}
        if error is not None or self._answer is None:
            outcome = {"error": f"{type(error).__name__}: {error}" if error else "the team gave no answer"}
        self._team.request("POST", f"{SAMPLES}/{quote(self.id)}/outcome", outcome)

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, Exception):  # an interrupted team comes back
            self.close(error)

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self.open)
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, Exception):
            await asyncio.to_thread(self.close, error)


def _id_of(query: str | None, choices: Sequence[str] | None) -> str:
    words = json.dumps([query, None if choices is None else list(choices)])
    return f"team/{blake2b(words.encode(), digest_size=8).hexdigest()}"


def _reason(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.load(error)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP {error.code}"
