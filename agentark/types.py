"""The vocabulary of the project: what moves between engines, methods, records and graders.

Dimension letters used in docstrings and comments everywhere:

    N samples   A agents   R rounds   B batch   T tokens   S steps   G group   H hidden   V vocabulary

Errors. Whoever expects a failure raises one of four; anything else is a fault in the code.

    UserError    bad input: one line that names file, key or flag, its value and what would be right. Anyone may raise
                 it before the work begins. The script ends with exit code 2.
    SampleError  this sample cannot be done (its prompt does not fit). Engines and methods raise it; it becomes a row
                 with `error`, and the sample is run again on resume. An exception that nobody expected becomes such
                 a row too, with its type and line.
    EngineFault  a SampleError of an engine: a call failed after its retries. Engines alone raise it. Several samples
                 in a row that end so, or in an unexpected exception, become a RunError.
    RunError     the run cannot go on (dead engine, disk full, bad credentials, a journal that does not match). What
                 is written stays; exit code 1, with the command that continues.

Tasks run in groups, so errors arrive as an ExceptionGroup: the runner takes the RunError in it, else the first. Nobody
catches CancelledError for good: an interrupt ends the run with exit code 130. Rows with `error` mean exit code 1 too.
"""

import hashlib
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from graphlib import TopologicalSorter
from typing import Any, Literal, Protocol, Self, runtime_checkable

import msgspec
from msgspec import UNSET, Struct, UnsetType

SCHEMA = 1
"""Version of the record layout; every version has one reader and one golden file, kept for ever."""

ANSWER_LINE = '"Answer: "'
"""In a task's instruction: the reply is to end with a line of this form."""

Role = Literal["system", "user", "assistant"]
AnswerType = Literal["number", "math", "choice", "text", "code"]
Kind = Literal["number", "math", "choice", "text", "code", "software"]
"""Kind of a task, for methods: its type of answer, or `software` for code that no test grades."""
Guarantee = Literal["exact", "seeded", "engine"]
FinishReason = Literal["stop", "length"]


class UserError(Exception):
    """Bad input; exit code 2. The whole model of errors stands at the top of this file."""


class RunError(Exception):
    """The run cannot go on; exit code 1."""


class SampleError(Exception):
    """This sample cannot be done; becomes a row with `error`."""


class EngineFault(SampleError):
    """A call failed after the engine's own retries. Several in a row stop the run."""


class Part(Struct, frozen=True, omit_defaults=True):
    """A piece of a message."""

    text: str
    truncate: Literal["middle"] | None = None
    """`middle`: this text is cut in its middle when the prompt does not fit the context."""
    ref: str | None = None
    """Where the text comes from: the id of an earlier turn (its reply), or `document`."""


class Message(Struct, frozen=True):
    """One chat message; its content is the concatenation of its parts."""

    role: Role
    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        return "".join(part.text for part in self.parts)


def message(role: Role, *parts: "str | Part | Turn") -> Message:
    """Build a message from strings, marked parts and earlier turns (their replies, carried by reference)."""
    texts = (Part(part) if isinstance(part, str) else part for part in parts)
    return Message(role, tuple(part if isinstance(part, Part) else Part(part.text, ref=part.id) for part in texts))


class SamplingParams(Struct, frozen=True, omit_defaults=True):
    """How one reply is sampled. `temperature=0.0` is a value, never "unset"."""

    temperature: float
    max_tokens: int
    """Upper bound on completion tokens; the engine lowers it to what the context leaves."""
    seed: int | None = None
    choices: tuple[str, ...] | None = None
    """Guided decoding: the reply is exactly one of these."""
    choice_logprobs: bool = False
    """Let the first token decide between `choices`, and report `Completion.choice_logprobs`."""
    schema: dict[str, Any] | None = None
    """Guided decoding: the reply is JSON of this schema, in engines that can (vllm, openai servers that pass a probe);
    the others leave it to the prompt, so a method parses the reply in any case."""
    top_p: float | None = None
    """None, here and below: the engine's neutral value, whatever the model's generation_config recommends."""
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    stop: tuple[str, ...] | None = None
    """The reply ends before the first of these texts."""
    enable_thinking: bool | None = None
    """The chat template's switch; None: as the engine was started."""
    adapter: str | None = None
    """Name of the PEFT adapter that answers; None: the one the engine was started with, if any."""


class Completion(Struct, frozen=True, omit_defaults=True):
    """An engine's answer to one call."""

    text: str
    """The reply without thinking text."""
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    model: str
    seconds: float
    """Wall time of the call, queueing inside the engine included."""
    reasoning: str | None = None
    """The thinking text, when the model thought."""
    cached_tokens: int | None = None
    """Prompt tokens served from a prefix cache; unknown is None, not 0."""
    max_tokens: int | None = None
    """The bound the engine used, when the context left less than was asked."""
    truncation: tuple[tuple[int, int], ...] | None = None
    """Per truncatable part, in order: characters kept at its head and at its tail."""
    choice_logprobs: dict[str, float] | None = None
    """Per choice, the log-probability of its first token among all tokens (served models: among those that guidance
    leaves); None when not asked for, when the engine cannot tell, or when two choices begin with the same token."""
    tool_calls: tuple[dict[str, str], ...] | None = None
    """Tools that `text` calls, `name` and `arguments` (a JSON object) of each, where the call offered tools."""


class Engine(Protocol):
    """The one door to a model. Async context manager; only the engine retries."""

    name: str
    guarantee: Guarantee
    """Says what repeats on a second run: `exact`, `seeded` (sampling, not logits) or `engine` (nothing promised)."""
    capacity: int
    """Calls that are worth having in flight at once."""
    context_length: int
    dtype: str | None = None
    """What the model computes in, once started; None: not known."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        return None

    async def chat(
        self, messages: Sequence[Message], params: SamplingParams, *, session: str, priority: int
    ) -> Completion:
        """Answer one call.

        Args:
            messages: the dialogue so far, last message from the user (or system).
            params: sampling parameters of this call.
            session: the sample id; calls of one session share a prompt prefix and stick together.
            priority: lower goes first where the engine queues.

        Raises:
            SampleError: this prompt can never be answered (does not fit).
            EngineFault: the call failed after retries.
            RunError: no call can succeed any more.
        """
        ...


class Sample(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One question of a dataset, with all that a method or a grader may know about it."""

    id: str
    """Unique and stable: `<dataset>/<split>/<row or upstream id>`."""
    source: str
    """Dataset name, as registered."""
    query: str
    """The question, with its options if it has any; without the document and the format instruction."""
    gt: str
    """Gold answer in canonical form (a number, LaTeX, a choice letter, or text)."""
    answer_type: AnswerType
    instruction: str = ""
    """How the answer is to be written."""
    document: str | None = None
    """Long context the question is about; it is cut in its middle when the model's context is short."""
    choices: tuple[str, ...] | None = None
    """Texts of the options; the letters are A, B, C, ... in this order."""
    references: tuple[str, ...] | None = None
    """All acceptable gold answers, where there are more than `gt`."""
    tag: str | None = None
    """Subject, level or type of question, for breakdowns."""
    preamble: str | None = None
    """Code tasks: code put before a solution when it runs (imports and helpers that the question gives)."""
    entry_point: str | None = None
    """Code tasks: name of the function that the tests call."""
    tests: tuple[str, ...] | None = None
    """Code tasks: programs that grade a solution, each run after preamble and solution; one that raises fails it."""
    visible_tests: tuple[str, ...] | None = None
    """Code tasks: tests of the same form that the question itself shows; a method may run these and no others."""
    decoy: str | UnsetType = UNSET
    """Another question of the dataset, as the user would put it; there where the method asks for one (`DECOYS`)."""

    def parts(self, with_document: bool = True) -> tuple[Part, ...]:
        """The task as the user would put it: document, question, answer format."""
        parts: list[Part] = []
        if self.document is not None and with_document:
            parts += [Part(self.document, "middle", "document"), Part("\n\n")]
        parts.append(Part(self.query))
        if self.instruction:
            parts.append(Part(f"\n\n{self.instruction}"))
        return tuple(parts)

    @property
    def prompt(self) -> str:
        """The whole task as one text: document, question, answer format."""
        return "".join(part.text for part in self.parts())

    @property
    def kind(self) -> Kind:
        return "software" if self.answer_type == "code" and self.tests is None else self.answer_type

    @property
    def golds(self) -> tuple[str, ...]:
        """All acceptable gold answers."""
        return self.references or (self.gt,)

    @property
    def answer_form(self) -> Literal["boxed", "line"] | None:
        """How the answer is to be written: in a box, on a last line of its own, or as the whole reply."""
        if self.answer_type in ("number", "math"):
            return "boxed"
        return "line" if ANSWER_LINE in self.instruction else None

    def fields(self) -> dict[str, Any]:
        """The fields that every sample has, without those that a record or a labelled row adds."""
        return {name: getattr(self, name) for name in Sample.__struct_fields__}

    def sample(self) -> "Sample":
        """The sample alone, where this is a record of it or a labelled row."""
        return Sample(**self.fields())

    def asking(self, query: str) -> "Sample":
        """Another question in this sample's answer format, without a gold answer."""
        bare = {"references": None, "document": None, "choices": None, "tag": None}
        code = {"preamble": None, "entry_point": None, "tests": None, "visible_tests": None}
        return msgspec.structs.replace(self, id="query", query=query, gt="", **bare, **code)


class Turn(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One finished call of an episode. Its address is (agent, round, role) and k, the k-th call there."""

    id: str
    agent: str
    round: int
    role: str
    messages: tuple[Message, ...]
    """The messages sent, without those that `continues` brings."""
    completion: Completion
    continues: str | None = None
    """Id of an earlier turn whose messages and reply come before `messages`."""
    error: str | None = None
    """Why the reply is not whole; its role is then one that no answer has."""

    @property
    def text(self) -> str:
        return self.completion.text


class Solution(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A full answer to the question by one agent, or the aggregate."""

    id: int
    """1-based, as in the published layout."""
    agent: str
    round: int
    turn: str
    """Id of the turn whose reply is this solution's text."""
    answer: str | None = None
    """The extracted answer; None when nothing could be parsed."""


class Outcome(Struct, frozen=True, kw_only=True):
    """A method's result for one sample."""

    solutions: list[Solution]
    """Candidates first, the aggregate (the method's own answer) last."""
    parse_failures: int = 0
    """Replies that had to be parsed and could not be."""
    info: dict[str, Any] = {}
    """Facts that a method keeps beside the trajectory (votes, scores, early stop)."""


SANDBOX = "sandbox"
"""Name of the model that runs code (agentark/sandbox_engine.py)."""
GATEWAY = "gateway"
"""Method of the records of teams that came through agentark/gateway; the variant names the team."""
TEAM = "team"
"""Who gives a recorded team's own answer (agentark/gateway), and the name of its model."""
REPAIR_ROLE = "_repair"
"""How the role of a call ends that asks again for a reply that could not be read."""


class Chat(Protocol):
    """How a method talks to a model. The k-th call at an address (agent, round, role) completes it."""

    @property
    def models(self) -> frozenset[str]:
        """Models that can be called: `main`, named models of the run, and `sandbox` where code may be executed."""
        ...

    def __call__(
        self,
        messages: Sequence[Message],
        *,
        agent: str,
        round: int,
        role: str,
        temperature: float | None = None,
        max_tokens: int | None = None,
        choices: tuple[str, ...] | None = None,
        choice_logprobs: bool = False,
        schema: dict[str, Any] | None = None,
        model: str = "main",
    ) -> Coroutine[Any, Any, Turn]: ...


class Method(Protocol):
    """A multi-agent method: a frozen config and a pure function from sample and replies to outcome."""

    async def run(self, sample: Sample, chat: Chat) -> Outcome: ...


Episodes = Callable[[Sample], Chat]
"""Opens a trial episode on a sample: a chat with addresses of its own, journalled like any other."""


@runtime_checkable
class Preparing(Method, Protocol):
    """A method that decides something once per run, before the first sample.

    The decision is written to the manifest, kept in every record (`info["prepared"]`) and given back by a resumed run
    and by a replay through `restored`.
    """

    prepared: Any
    """The decision as plain JSON data; None: nothing was decided."""

    async def prepare(self, samples: Sequence[Sample], episodes: Episodes) -> "Preparing":
        """The method as decided on all samples of the run; itself where its config wants no decision."""
        ...

    def restored(self, prepared: Any) -> "Preparing":
        """The method as it was after the `prepare` that left `prepared`."""
        ...


@runtime_checkable
class Summing(Method, Protocol):
    """A method with figures over a whole run; they go to the manifest and below the run's table."""

    def totals(self, infos: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Figures from the `info` of every good record, in the order of the dataset."""
        ...


class TokenStats(Struct):
    """Token use of one model over one sample."""

    num_llm_calls: int = 0
    prompt_tokens: int = 0
    cached_tokens: int | None = 0
    completion_tokens: int = 0

    def add(self, reply: Completion) -> None:
        self.merge(TokenStats(1, reply.prompt_tokens, reply.cached_tokens, reply.completion_tokens))

    def merge(self, other: "TokenStats") -> None:
        self.num_llm_calls += other.num_llm_calls
        self.prompt_tokens += other.prompt_tokens
        self.completion_tokens += other.completion_tokens
        if self.cached_tokens is not None and other.cached_tokens is not None:
            self.cached_tokens += other.cached_tokens
        else:
            self.cached_tokens = None


def merged(parts: Iterable[Mapping[str, TokenStats]]) -> dict[str, TokenStats]:
    """Token use per model over several samples, models in the order of their names."""
    total: dict[str, TokenStats] = {}
    for part in parts:
        for model, stats in part.items():
            total.setdefault(model, TokenStats()).merge(stats)
    return dict(sorted(total.items()))


class MethodInfo(Struct, frozen=True):
    name: str
    variant: str
    config: dict[str, Any]

    @property
    def shown(self) -> str:
        """Its name for people: of a team that came through the gateway, the team's too."""
        return f"{self.name} ({self.variant})" if self.name == GATEWAY else self.name


class Record(Sample, frozen=True, kw_only=True, omit_defaults=False):
    """One line of an `*_infer.jsonl`: everything about one sample, self-contained."""

    schema: int
    method: MethodInfo
    model: str
    guarantee: Guarantee
    response: str = ""
    solutions: list[Solution] = []
    trajectory: list[Turn] = []
    final_answer: str | None = None
    token_stats: dict[str, TokenStats] = {}
    parse_failures: int = 0
    info: dict[str, Any] = {}
    models: tuple[str, ...] = ("main",)
    """Models that the method could call (see Chat)."""
    team: dict[str, dict[str, Any]] | UnsetType = UNSET
    """Agent, role or `*` -> who answers and how it is sampled, where the run had a team (agentark/team.py)."""
    started: float = 0.0
    """Unix time at which the episode began."""
    seconds: float = 0.0
    """From there to its end, waiting for others included."""
    error: str | None = None

    def __post_init__(self) -> None:
        turns = {turn.id for turn in self.trajectory}
        shown = {part.ref for turn in self.trajectory for message in turn.messages for part in message.parts}
        continued = {turn.id: {turn.continues} for turn in self.trajectory if turn.continues is not None}
        named = {solution.turn for solution in self.solutions}.union(*continued.values())
        if not named <= turns or not shown <= turns | {None, "document"}:
            raise ValueError("it names a turn that is not in the trajectory")
        TopologicalSorter(continued).prepare()  # raises a ValueError

    def text_of(self, solution: Solution) -> str:
        """The full text of one of this record's solutions."""
        return next(turn.text for turn in self.trajectory if turn.id == solution.turn)


def digest(value: Any) -> str:
    """A short stable hash of anything msgspec can encode (128 bits, hex)."""
    return hashlib.blake2b(msgspec.json.encode(value, order="deterministic"), digest_size=16).hexdigest()
