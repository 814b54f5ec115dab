"""study/engine.py with a stand-in for vLLM, which is ready at once; `PROGRAM` in the place of study/lending.py's.

The stand-in has a child, as vLLM has its engine. A model folder may hold files that say how it fares: `broken` (it
never starts), `slow` (it starts for that many seconds), `dies` (it kills itself at a call, once: the file is removed),
`deaf` (it does not notice that the study has ended), `dead` (its model has died while nobody asked).
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from fakes import ScriptedEngine

from agentark import cli
from agentark.engines.choose import Choice, choose_engine
from agentark.lock import RunLock
from agentark.types import Completion, SamplingParams, UserError
from study import engine

TESTS = Path(__file__).parent
PROGRAM = [
    "-c",
    f"import sys; sys.path[:0] = [{str(TESTS)!r}, {str(TESTS.parent)!r}]; import stub_engine as s; s.main()",
]


class Stub(ScriptedEngine):
    """Replies as a script, with the settings of the engine that the flags ask for."""

    def __init__(self, config: Any) -> None:
        super().__init__(name="vllm", guarantee="engine", capacity=4, context_length=4096)
        self.config = config
        self._folder = Path(config.model)

    async def __aenter__(self) -> "Stub":
        if (self._folder / "broken").exists():
            raise UserError(f"vLLM cannot serve {self.config.model}: no layers")
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)  # child of stub_engine"])
        if (self._folder / "slow").exists():
            time.sleep(float((self._folder / "slow").read_text()))
        return self

    @property
    def dead(self) -> bool:
        return (self._folder / "dead").exists()

    async def chat(self, messages: Any, params: SamplingParams, *, session: str, priority: int) -> Completion:
        if (self._folder / "dies").exists():
            (self._folder / "dies").unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return await super().chat(messages, params, session=session, priority=priority)


def choose_stub(args: Any, model_name: str) -> Choice:
    """The stand-in for the engine that the flags ask for."""
    chosen = choose_engine(args, model_name)

    def make_stub(lock: RunLock) -> Stub:
        vllm: Any = chosen.make(lock)
        return Stub(vllm.config)

    return chosen._replace(make=make_stub)


def main() -> None:
    engine.choose_engine = choose_stub
    if (Path(sys.argv[sys.argv.index("--model_name") + 1]) / "deaf").exists():
        engine.end_with_the_study = lambda *_: None
    cli.entry(engine.main)
