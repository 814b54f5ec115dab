"""ChatDev: a software company of agents (Qian et al. 2023, arXiv 2307.07924).

Phases in a row: demand analysis, language choice, coding, completion of placeholders, rounds of review and
modification, rounds of test and fix, requirements, manual. A file that a later reply gives replaces the earlier one;
`info["files"]` is the software as it stands at the end, the solution is the last reply that wrote files (it is asked
for all of them in full).

Differs from the published code: each phase is one instruction and one reply instead of a dialogue of open length, with
one repair call where the reply cannot be read; the program is started in the sandbox only, where it has the standard
library, no network and no display; packages that a model names are never installed. A program that needs more than
the sandbox has is not called wrong: the test phase ends, and `info["off"]` says what it needs. Without a sandbox there
is no test phase.
"""

import re
from typing import Any

from pydantic import Field

from agentark.code_grading import fenced
from agentark.config import Config, Count
from agentark.team import Agents
from agentark.types import SANDBOX, Chat, Outcome, Part, Sample, Turn, message
from methods.chatdev import prompts
from methods.chatdev.files import listing, parse_files, placeholders
from methods.common import Configured, ask, run_program, solution
from methods.executed import output_of

MODALITIES = ("application", "game", "dashboard", "website", "command-line tool", "document")
LANGUAGES = ("Python", "JavaScript", "HTML", "Java", "C++", "C#")
_NEEDS = re.compile(r"ModuleNotFoundError: No module named '([\w.]+)'|TclError: (no display)|(curses)\.error")


class ChatDevConfig(Config):
    gui_design: bool = True
    """Ask for a graphical user interface (published README: true)."""
    completion_rounds: Count = Field(3, ge=0)
    """C, passes over functions that are still placeholders, at most."""
    review_rounds: Count = Field(3, ge=0)
    """R, rounds of review and modification, at most (published: 3)."""
    test_rounds: Count = Field(3, ge=0)
    """T, rounds of test report and fix, at most (published: 3)."""
    run_seconds: float = Field(5.0, gt=0)
    """Seconds after which a program that still runs, without a traceback, has started well."""
    guided: bool = True
    """Form and language by guided choice where the engine can; false: free text."""


class ChatDev(Configured[ChatDevConfig]):
    """calls: 6 (nothing to complete, to change or to fix) to 5 + C + 2R + 2T; critical path: the same.

    A reply that cannot be read costs one repair call. After that, form or language stay open, and a change of the
    software is not made; if no file was ever written, the first reply is the solution.
    """

    Config = ChatDevConfig
    TASKS = frozenset({"software"})

    def without_sandbox(self, kinds: frozenset[str]) -> str | None:
        return "chatdev leaves out its test phase; the software is never started"

    def agents(self) -> Agents:
        return {
            "chief_product_officer": ("design", "manual"),
            "chief_technology_officer": ("design", "requirements"),
            "programmer": ("coding", "completion", "modification", "fix"),
            "code_reviewer": ("review",),
            "software_test_engineer": ("test_report",),
        }

    async def run(self, sample: Sample, chat: Chat) -> Outcome:
        return await Company(self.config, sample, chat).develop()


class Company:
    """One episode: the state of the software, and the phases that change it."""

    def __init__(self, config: ChatDevConfig, sample: Sample, chat: Chat) -> None:
        self.config = config
        self.sample = sample
        self.chat = chat
        self.files: dict[str, str] = {}
        self.written: list[Turn] = []
        self.settled: list[str] = []
        self.info: dict[str, Any] = {}
        self.failures = self.step = 0

    async def develop(self) -> Outcome:
        """The chain of phases."""
        modality = await self._choose("chief product officer", prompts.DEMAND, prompts.DEMAND_NOW, MODALITIES)
        self.settled.append(prompts.MODALITY.format(modality=modality or prompts.OPEN))
        language = await self._choose(
            "chief technology officer", prompts.CHOOSE_LANGUAGE, prompts.CHOOSE_LANGUAGE_NOW, LANGUAGES
        )
        self.settled.append(prompts.LANGUAGE.format(language=language or prompts.OPEN))
        request = prompts.CODING_NOW + (prompts.GUI if self.config.gui_design else "")
        first = await self._write("coding", prompts.CODING, request)
        if self.files:
            await self._complete()
            await self._review()
            await self._test(language)
            await self._document()
        turns = [*self.written, (self.written or [first])[-1]]
        solutions = [solution(self.sample, turn, number) for number, turn in enumerate(turns, 1)]
        info = {"modality": modality, "language": language, **self.info, "files": self.files}
        return Outcome(solutions=solutions, parse_failures=self.failures, info=info)

    async def _complete(self) -> None:
        for _ in range(self.config.completion_rounds):
            if not (names := placeholders(self.files)):
                return
            opening = prompts.COMPLETION.format(names=", ".join(names))
            await self._write("completion", opening, prompts.COMPLETION_NOW)

    async def _review(self) -> None:
        request = prompts.REVIEW_NOW.format(done=prompts.REVIEW_DONE)
        for _ in range(self.config.review_rounds):
            comment = await self._say("code reviewer", "review", prompts.REVIEW, request)
            if prompts.REVIEW_DONE in comment.text:
                return
            await self._write("modification", prompts.MODIFY, prompts.COMMENTS, comment, prompts.MODIFY_NOW)

    async def _test(self, language: str | None) -> None:
        """Start the program; report and fix until it starts well. The last fix is tried, too."""
        if SANDBOX not in self.chat.models:
            self.info["off"] = "test: code runs only with --allow_code_execution"
            return
        if language not in (None, "Python"):
            self.info["off"] = f"test: only Python can be run, the software is in {language}"
            return
        runs: list[bool] = []
        self.info["runs"] = runs
        while True:
            output = await self._run()
            if needed := _NEEDS.search(output or ""):
                self.info["off"] = f"test: the sandbox has no {next(filter(None, needed.groups()))}"
                return
            runs.append(output is None)
            if output is None or len(runs) > self.config.test_rounds:
                return
            shown = prompts.OUTPUT.format(output=output)
            report = await self._say(
                "software test engineer", "test_report", prompts.SUMMARISE, shown, prompts.SUMMARISE_NOW
            )
            await self._write("fix", prompts.FIX, shown, prompts.REPORT, report, prompts.FIX_NOW)

    async def _run(self) -> str | None:
        """Report on starting main.py; None: it started well."""
        if "main.py" not in self.files:
            return prompts.NO_MAIN
        others = {name: text for name, text in self.files.items() if name != "main.py"}
        self.step += 1
        _, ran = await run_program(
            self.chat,
            self.files["main.py"],
            agent="software_test_engineer",
            round=self.step,
            timeout=self.config.run_seconds,
            files=others,
        )
        started = ran.status == "ok" or (ran.status == "timeout" and "Traceback" not in ran.stderr)
        return None if started else output_of(ran)

    async def _document(self) -> None:
        needs = await self._say(
            "chief technology officer", "requirements", prompts.REQUIREMENTS, prompts.REQUIREMENTS_NOW
        )
        self.files["requirements.txt"] = "".join(text for _, text in fenced(needs.text)[-1:])
        manual = await self._say("chief product officer", "manual", prompts.MANUAL, prompts.MANUAL_NOW)
        self.files["manual.md"] = manual.text

    async def _choose(self, role: str, opening: str, request: str, choices: tuple[str, ...]) -> str | None:
        """Settle one question of the design."""
        self.step += 1
        asked = await ask(
            self.chat,
            [message("user", *self._brief(role, opening), request.format(choices=", ".join(choices)))],
            lambda text: parse_choice(text, choices),
            guided=self.config.guided,
            choices=choices,
            agent=role.replace(" ", "_"),
            round=self.step,
            role="design",
        )
        self.failures += asked.failures
        return asked.value

    async def _write(self, phase: str, opening: str, *request: str | Part | Turn) -> Turn:
        """Let the programmer write files, and add them to the software."""
        self.step += 1
        asked = await ask(
            self.chat,
            [message("user", *self._brief("programmer", opening), *request, prompts.EVERY_FILE)],
            parse_files,
            form=prompts.FILES_WANTED,
            guided=False,
            agent="programmer",
            round=self.step,
            role=phase,
        )
        self.failures += asked.failures
        if asked.value is not None:
            self.files |= asked.value
            self.written.append(asked.turn)
        return asked.turn

    async def _say(self, role: str, phase: str, opening: str, *request: str | Part | Turn) -> Turn:
        self.step += 1
        prompt = message("user", *self._brief(role, opening), *request)
        return await self.chat([prompt], agent=role.replace(" ", "_"), round=self.step, role=phase)

    def _brief(self, role: str, opening: str) -> list[str | Part]:
        """The opening of every message: role and request, the customer's wish, earlier decisions, the files."""
        known = ["\n\n" + "\n".join(self.settled)] if self.settled else []
        if self.files:
            known.append(prompts.FILES.format(files=listing(self.files)))
        return [prompts.COMPANY.format(role=role), opening, prompts.TASK, *self.sample.parts(), *known]


def parse_choice(text: str, choices: tuple[str, ...]) -> str | None:
    """The one choice that a reply gives; case, quotes, emphasis and a full stop don't count."""
    quotes, said = "[*_`\"']{0,2}", text.strip()
    named = (choice for choice in choices if re.fullmatch(quotes + re.escape(choice) + quotes + "[.!]?", said, re.I))
    return next(named, None)
