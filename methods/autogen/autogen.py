"""AutoGen's two-agent chat (Wu et al. 2023, arXiv 2308.08155): an assistant and a user proxy.

The assistant works on the task; the user proxy answers each of its messages until one of them says the termination
word. With `code_execute` the proxy runs the Python blocks of a message and replies with their output.

Differs from the published code: code runs in the sandbox and nowhere else (there: a container or this machine); each
block is a script of its own, and the first that fails ends the list. The answer comes from the assistant's last message
that gives one, since its very last is often the termination word alone.
"""

from msgspec import structs
from pydantic import Field

from agentark.code_grading import PYTHON, fenced
from agentark.config import Config, Count
from agentark.team import Agents
from agentark.types import Chat, Message, Outcome, Part, Sample, Turn, message
from methods.autogen import prompts
from methods.common import ALL_TASKS, Configured, run_program, solution, unparsed
from methods.executed import output_of


class AutoGenConfig(Config):
    max_turn: Count = Field(3, ge=1)
    """Messages of the assistant, at most (published README: 3)."""
    is_termination_msg: str = Field("TERMINATE", min_length=1)
    """A message that ends with this word ends the chat."""
    code_execute: bool = False
    """Let the user proxy run the assistant's Python blocks; without `--allow_code_execution` it cannot, goes on as a
    model, and `info` says so."""


class AutoGen(Configured[AutoGenConfig]):
    """calls: 1 to 2T - 1 (T = max_turn); critical path: the same. A reply of program output is not a call."""

    Config = AutoGenConfig
    TASKS = ALL_TASKS

    def without_sandbox(self, kinds: frozenset[str]) -> str | None:
        return "autogen runs no code; the user proxy replies as a model" if self.config.code_execute else None

    def agents(self) -> Agents:
        return {"assistant": ("assistant",), "user_proxy": ("user_proxy",)}

    async def run(self, sample: Sample, chat: Chat) -> Outcome:
        word = self.config.is_termination_msg
        runs = self.config.code_execute and "sandbox" in chat.models
        system = prompts.ASSISTANT.format(word=word) + (prompts.ASSISTANT_CODE if runs else "")
        assisting = [message("system", system), message("user", *sample.parts())]
        proxying: list[Message] = []
        heard: list[str | Part | Turn] = [prompts.PROXY.format(word=word), *sample.parts()]
        said: list[Turn] = []
        for round in range(1, self.config.max_turn + 1):
            said.append(await chat(assisting, agent="assistant", round=round, role="assistant"))
            if round == self.config.max_turn or self._ends(said[-1].text):
                break
            heard += [prompts.MESSAGE, said[-1]]
            output = await _run(chat, said[-1], round) if runs else None
            if output is not None:
                reply = message("user", output)
                heard += [prompts.OUTPUT, output]
            else:
                proxying = [*proxying, message("user", *heard)]
                proxied = await chat(proxying, agent="user_proxy", round=round, role="user_proxy")
                if self._ends(proxied.text):
                    break
                proxying, heard = [*proxying, message("assistant", proxied)], []
                reply = message("user", proxied)
            assisting = [*assisting, message("assistant", said[-1]), reply]
        return self._outcome(sample, said, runs)

    def _ends(self, text: str) -> bool:
        return text.rstrip(" \t\r\n.!*_`\"'").endswith(self.config.is_termination_msg)

    def _outcome(self, sample: Sample, said: list[Turn], runs: bool) -> Outcome:
        """Every message of the assistant; the result is the last one that gives an answer."""
        bare = self.config.is_termination_msg
        messages = [solution(sample, turn, number) for number, turn in enumerate(said, 1)]
        told = [turn.text.strip(" \r\n.!*_`\"'") != bare for turn in said]
        telling = [given for given, tells in zip(messages, told, strict=True) if tells and given.answer is not None]
        settled = structs.replace((telling or messages)[-1], id=len(messages) + 1)
        info: dict[str, object] = {"turns": len(said)}
        if self.config.code_execute and not runs:
            info["off"] = "code_execute: code runs only with --allow_code_execution"
        return Outcome(solutions=[*messages, settled], parse_failures=unparsed([settled]), info=info)


async def _run(chat: Chat, turn: Turn, round: int) -> str | None:
    """Output of a message's blocks, run in order up to the first that fails; None: it has no block."""
    outputs = []
    for language, code in fenced(turn.text):
        if language not in PYTHON:
            outputs.append(prompts.NOT_RUN.format(language=language))
            break
        _, ran = await run_program(chat, code, agent="user_proxy", round=round)
        outputs.append(output_of(ran))
        if ran.status != "ok":
            break
    return "\n\n".join(outputs) or None
