"""The gateway with a scripted engine, as a process that tests can kill.

Environment: CALLS, a file that gets one line (`sample seed`) per call sent; LATENCY, mean seconds a call takes.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

from gateway_cases import StreamingEngine

from agentark import cli
from agentark.engines.choose import Choice
from agentark.gateway import __main__ as gateway
from agentark.types import Completion, Message, SamplingParams


class LoggingEngine(StreamingEngine):
    async def chat(self, messages: Sequence[Message], params: SamplingParams, **address: Any) -> Completion:
        with Path(os.environ["CALLS"]).open("a") as log:
            log.write(f"{address['session']} {params.seed}\n")
        return await super().chat(messages, params, **address)


def choose(args: Any, model_name: str) -> Choice:
    engine = LoggingEngine(latency=float(os.environ.get("LATENCY", "0")), capacity=args.max_concurrency or 8)
    return Choice("org/model", lambda lock: engine)


if __name__ == "__main__":
    cli.entry(lambda: gateway.main(choose_engine=choose))
