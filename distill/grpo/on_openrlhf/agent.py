"""The agent file that OpenRLHF's rollout workers load: upstream's single turn, then our score of every step.

It runs inside a Ray worker that has torch, vLLM and the installed OpenRLHF; an environment variable leads to the
settings of the run (see run.py). patch.py reads what the agent writes to `extra_logs`.
"""

import asyncio
from typing import Any

import msgspec
from openrlhf.utils.agent import SingleTurnAgentExecutor

from agentark.types import Sample
from distill.grpo.health import total
from distill.grpo.on_openrlhf.patch import extra_logs
from distill.grpo.on_openrlhf.run import settings
from distill.grpo.reward import Rewarder
from distill.grpo.scorer import remote_scorer


class Label(msgspec.Struct, frozen=True):
    """The data that comes with a prompt."""

    sample: Sample
    question: str
    held_out: bool


class AgentExecutor(SingleTurnAgentExecutor):  # type: ignore[misc]
    """Generates as upstream does, then scores.

    Args:
        scorer: scores a response; None: the scorer that the settings name.
    """

    def __init__(self, scorer: Any = None) -> None:
        super().__init__()
        self.config = settings()
        self._scorer = scorer if scorer is not None or not self.config.mode.process else remote_scorer(self.config)

    async def execute(
        self, prompt: str, label: str, sampling_params: Any, max_length: int, hf_tokenizer: Any, llm_engine: Any,
        images: Any = None,
    ) -> dict[str, Any]:  # fmt: skip
        """A response with its reward: only the verdict for held-out questions, else as in training."""
        out: dict[str, Any] = await super().execute(
            prompt, label, sampling_params, max_length, hf_tokenizer, llm_engine, images
        )
        asked = msgspec.json.decode(label, type=Label)
        first, last = out["action_ranges"][0]
        ids = list(out["observation_tokens"][first:last])
        ends = {hf_tokenizer.eos_token_id}
        if not out["truncated"]:  # vLLM knows more ids that end a response
            ends |= set(ids[-1:])
        rewarder = Rewarder(self.config, None, hf_tokenizer, ends)
        if self._scorer is None or asked.held_out:
            steps = rewarder.steps([asked.question], [ids])
        else:
            steps = [await self._scorer.score(asked.question, ids)]
        scored = (await asyncio.to_thread(rewarder.finish, [asked.sample], [ids], steps))[0]
        out["reward"] = (scored.solved or 0.0) if asked.held_out else total(scored)
        out["scores"] = scored.solved or 0.0
        out["extra_logs"] = extra_logs(scored, len(out["observation_tokens"]), first)
        return out
