"""The reward model as GRPO calls it: in this process, as replicas in Ray, or over HTTP (prm/serve.py)."""

import asyncio
import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agentark.types import RunError
from distill.grpo.config import GRPOConfig
from distill.grpo.reward import StepScores, distinct

REPLICA = "agentark_prm"
"""Prefix of the replicas' names in Ray; a number follows."""
NAMESPACE = "agentark"
TRIES = 5


def step_scores(scores: Sequence[float] | None, steps: Sequence[str], ends: Sequence[int]) -> StepScores:
    """The scores of a response; 0 at every step if it does not fit the reward model."""
    return distinct(StepScores(list(steps), list(ends), list(scores) if scores is not None else [0.0] * len(steps)))


class LocalScorer:
    """A prm.score.Scorer in this process; solutions of similar length are scored together."""

    def __init__(self, scorer: Any) -> None:
        self.scorer = scorer

    @classmethod
    def load(cls, folder: Path, device: str, bf16: bool, max_tokens: int) -> "LocalScorer":
        from prm.score import Scorer

        dtype = "bfloat16" if bf16 and device.startswith("cuda") else "auto"
        return cls(Scorer.load(folder, device, dtype, max_tokens))

    def __call__(self, questions: Sequence[str], responses: Sequence[Sequence[int]]) -> list[StepScores]:
        scored = self.scorer.score_responses(questions, responses)
        return [step_scores(scores, steps.steps, steps.ends) for scores, steps in scored]


class HttpScorer:
    """Sends one response at a time to a `python -m prm.serve`, which batches what arrives together."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._session: Any = None

    async def score(self, question: str, response: Sequence[int]) -> StepScores:
        """Raises RunError when the server cannot be reached or refuses, after several tries."""
        import aiohttp

        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=600))
        body = {"prompts": [question], "responses": [list(response)]}
        for attempt in range(TRIES):
            try:
                async with self._session.post(f"{self.url}/score", json=body) as answer:
                    if answer.status == 200:
                        scored = await answer.json()
                        return step_scores(scored["scores"][0], scored["steps"][0], scored["ends"][0])
                    problem = f"status {answer.status}: {await answer.text():.200}"
                    if answer.status < 500:
                        break
            except (aiohttp.ClientError, TimeoutError) as error:
                problem = repr(error)
            await asyncio.sleep(2**attempt / 2)
        raise RunError(f"--scorer {self.url}: {problem}")

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()


class ReplicaScorer:
    """Sends one response at a time to the replicas in Ray, in turn."""

    def __init__(self, handles: Sequence[Any]) -> None:
        self._turn = itertools.cycle(handles)

    async def score(self, question: str, response: Sequence[int]) -> StepScores:
        scored: StepScores = await next(self._turn).score.remote(question, list(response))
        return scored


def remote_scorer(config: GRPOConfig) -> HttpScorer | ReplicaScorer:
    """The scorer for an agent in a rollout worker."""
    if config.scorer != "actors":
        return HttpScorer(config.scorer)
    import ray

    names = [f"{REPLICA}_{number}" for number in range(config.scorer_replicas)]
    return ReplicaScorer([ray.get_actor(name, namespace=NAMESPACE) for name in names])


class Replica:
    """A reward model in a separate process; `start_replicas` makes it a Ray actor.

    Upstream's placement group reserves every GPU as a whole, so a replica asks Ray for none and shares a GPU with the
    policy; `gpu` says which.
    """

    def __init__(self, folder: str, gpu: int | None, bf16: bool, max_tokens: int) -> None:
        if gpu is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = str(gpu)
        from prm.serve import Batcher

        self._scorer = LocalScorer.load(Path(folder), "cpu" if gpu is None else "cuda:0", bf16, max_tokens)
        self._batcher = Batcher(self._scorer)

    async def score(self, question: str, response: Sequence[int]) -> StepScores:
        scored: StepScores = await self._batcher.submit(question, response)
        return scored


def start_replicas(config: GRPOConfig, gpus: int) -> list[Any]:
    """Start and load the replicas; they live as long as the returned handles.

    Args:
        gpus: GPUs of this machine.
    """
    import ray

    made: Any = ray.remote(Replica)
    assert config.reward_pretrain is not None
    folder = str(Path(config.reward_pretrain).resolve())
    handles = [
        made.options(name=f"{REPLICA}_{number}", namespace=NAMESPACE, max_concurrency=1000).remote(
            folder, number % gpus if gpus else None, config.bf16, config.scorer_batch_tokens
        )
        for number in range(config.scorer_replicas)
    ]
    ray.get([handle.__ray_ready__.remote() for handle in handles])
    return handles
