"""Reports to agents on code that ran: the output of a program, the tests that failed."""

from collections.abc import Sequence

import msgspec

from agentark.cuts import shortened
from agentark.sandbox import Execution
from agentark.sandbox_engine import Tested
from agentark.types import Turn

SHOWN = 4000
"""Characters of output that an agent is shown: the first half and the last."""


def output_of(ran: Execution) -> str:
    """Exit code (or why there is none) and output of a program."""
    code = ran.status if ran.returncode is None else ran.returncode
    return f"Exit code: {code}\nOutput:\n{shortened(ran.stdout + ran.stderr, SHOWN) or '(nothing was printed)'}"


def failures_of(tests: Sequence[str], turn: Turn) -> str:
    """The tests that a solution failed, each with its reason; `turn` is that of `run_tests`."""
    errors = msgspec.json.decode(turn.text, type=Tested).errors
    failed = [f"{test}\n-> {error}" for test, error in zip(tests, errors, strict=True) if error is not None]
    return shortened("\n\n".join(failed), SHOWN)
