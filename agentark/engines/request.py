"""A call as the body of a chat request: its parameters under the names that servers know."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from agentark.config import parse_overrides
from agentark.engines.fitting import Plan
from agentark.sampling import CONTROLS
from agentark.types import Message, SamplingParams, UserError

NEUTRAL: dict[str, Any] = {"top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
"""For servers like vLLM, which else take what the model's generation_config.json recommends."""
TOP_LOGPROBS = 20
"""The most that vLLM and OpenAI return."""
REMOVED_BY = {
    "temperature": "--model_temperature 1 (of an evaluation: --temperature 1)",
    "seed": "a run without --reproducible",
    "max_tokens": "another --model_max_tokens (of an evaluation: --max_tokens)",
    "max_completion_tokens": "another --model_max_tokens (of an evaluation: --max_tokens)",
    **{name: f"a run without --{name}" for name in CONTROLS},
}
"""Field of a request -> what a user does where a server refuses it."""
OURS = {
    *("model", "messages", "structured_outputs", "response_format", "chat_template_kwargs", "logprobs", "top_logprobs"),
    *("stream", "stream_options", "n"),
    *REMOVED_BY,
}
"""Fields that `--extra_body` may not set."""


def extra_body(pairs: Sequence[str]) -> dict[str, Any]:
    """Further fields of every request, from `--extra_body KEY=VALUE ...`. Raises UserError for those we set."""
    fields = parse_overrides(pairs, "--extra_body")
    for name in fields:
        if name in CONTROLS:
            raise UserError(f"--extra_body {name}: has a flag of its own, --{name}")
        if name in OURS:
            raise UserError(f"--extra_body {name}: is set by this project")
    return fields


def body_of(
    model: str, plan: Plan, params: SamplingParams, thinking: bool | None, neutral: bool, extra: Mapping[str, Any]
) -> dict[str, Any]:
    """A request without its limit and its wish for log-probabilities.

    Args:
        model: its name on the server.
        neutral: send `NEUTRAL` where the call gives no value.
        extra: further fields.
    """
    given = {name: value for name in CONTROLS if (value := getattr(params, name)) is not None}
    body = {
        **extra,
        "model": model,
        "messages": plain(plan.messages),
        "temperature": params.temperature,
        **(NEUTRAL if neutral else {}),
        **given,
    }
    if params.seed is not None:
        body["seed"] = params.seed
    if params.choices is not None:
        body["structured_outputs"] = {"choice": list(params.choices)}
    if params.schema is not None:
        schema = {"name": "reply", "schema": params.schema}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    if thinking is not None:
        body["chat_template_kwargs"] = {"enable_thinking": thinking}
    return body


def refused(text: str, sent: Mapping[str, Any]) -> str | None:
    """The field of a request that a server refuses by name."""
    if not re.search(r"unsupported|not support|unknown|unrecogni[sz]ed|not permitted|not allowed|extra", text, re.I):
        return None
    return next((name for name in REMOVED_BY if name in sent and re.search(rf"\b{name}\b", text)), None)


def plain(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [{"role": one.role, "content": one.text} for one in messages]
