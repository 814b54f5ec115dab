"""How well a solution reasons: its likelihood under a model, and a judge's scores on a rubric.

Likelihood: the negative log-likelihood of a solution's tokens (its thinking included) given the question, in nats a
token, and its exponential, the perplexity. The paper (arXiv 2602.03955) reports both on held-out solutions.
Figures of models with different tokenizers cannot be compared: their tokens are not the same.

Rubric: a judge answers one question per aspect with a number from 1 to 5, by guided choice. Problem and solution come
first and the aspect last, so that all calls about one solution share their prefix.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct
from pydantic import Field, model_validator

from agentark import evaluation
from agentark.chat_template import question_ids
from agentark.config import ROOT, Config, build, read_yaml
from agentark.episode import gather
from agentark.figures import figure
from agentark.hub import loaded
from agentark.stats import ratio_and_se
from agentark.types import Chat, Message, Outcome, Part, Record, Sample, Solution, Turn, UserError, message

SCORES = ("1", "2", "3", "4", "5")
RUBRIC = ROOT / "configs" / "judge" / "rubric.yaml"

PROBLEM = "Problem:\n"
SOLUTION = "\n\nSolution to assess:\n"
ASPECT = "\n\nAspect: {name}\n{asks}\n"
ANCHOR = "{score}: {text}\n"
DECIDE = "Reply with the score alone: a whole number from 1 to 5."
"""Source: rubric scoring by a judge, the paper's analysis of reasoning quality; in our own words."""

State = Literal["scored", "too_long", "empty"]
Items = Sequence[tuple[Sample, int, str]]
"""(question, number of the solution, its text)."""


# ---------------------------------------------------------------- likelihood


class Likelihood(Struct, frozen=True):
    """Likelihood of one solution under a model."""

    state: State
    nll: float = 0.0
    """Nats, summed over the solution's tokens."""
    tokens: int = 0


def sequence_nll(logits: Any, ids: Any) -> float:
    """Summed negative log-likelihood of tokens.

    Args:
        logits: shape (T, V), those that predict each of the tokens.
        ids: the tokens, shape (T,).
    """
    import torch

    return float(torch.nn.functional.cross_entropy(logits.float(), ids, reduction="sum"))


class Scorer:
    """A causal language model that scores solutions.

    Args:
        model: hub id or local folder.
        device: None: CUDA where there is one, else the CPU.
        chat_template: put the question through the model's template (False for base models).

    Raises:
        UserError: the model cannot be loaded.
    """

    def __init__(self, model: str, device: str | None = None, chat_template: bool = True) -> None:
        import torch

        chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
        dtype = torch.float32 if chosen == "cpu" else torch.bfloat16
        self.tokenizer = loaded("AutoTokenizer", model, "--model_name_or_path")
        self.model = loaded("AutoModelForCausalLM", model, "--model_name_or_path", dtype=dtype).eval()
        try:
            self.model.to(chosen)
        except RuntimeError as error:
            raise UserError(f"--device {chosen}: cannot be used ({' '.join(str(error).split()):.200})") from None
        self.device = chosen
        self.context = int(getattr(self.model.config, "max_position_embeddings", 1 << 30))
        self.chat_template = chat_template

    def ids(self, question: str, solution: str) -> tuple[list[int], list[int]]:
        """Token ids of the prompt and of the solution, tokenised apart so that no token spans both."""
        prompt = question_ids(self.tokenizer, question, self.chat_template)
        return prompt, list(self.tokenizer.encode(solution, add_special_tokens=False))

    def score(self, question: str, solution: str) -> Likelihood:
        """The solution given the question, batch size 1."""
        import torch

        prompt, ids = self.ids(question, solution)
        if not ids:
            return Likelihood("empty")
        if len(prompt) + len(ids) > self.context:
            return Likelihood("too_long")
        given = torch.tensor([prompt + ids], device=self.device)  # (1, T)
        with torch.inference_mode():
            logits = self.model(input_ids=given, logits_to_keep=len(ids) + 1).logits[0, :-1]  # (S, V)
        return Likelihood("scored", sequence_nll(logits, given[0, len(prompt) :]), len(ids))


def likelihood_figures(found: Sequence[Likelihood], clusters: Sequence[str]) -> dict[str, Any]:
    """Nats a token and perplexity over all scored solutions together, with standard errors clustered by question.

    The perplexity's standard error is carried over from the other's (delta method).
    """
    scored = [(one, key) for one, key in zip(found, clusters, strict=True) if one.state == "scored"]
    if not scored:
        return {name: {"value": None, "se": None, "n": 0, "tokens": 0} for name in ("nll", "perplexity")}
    tops, bottoms = [one.nll for one, _ in scored], [float(one.tokens) for one, _ in scored]
    nll, error = ratio_and_se(tops, bottoms, [key for _, key in scored])
    shared = {"n": len(scored), "tokens": int(math.fsum(bottoms))}
    perplexity = math.exp(nll)
    return {
        "nll": {"value": nll, "se": error, **shared},
        "perplexity": {"value": perplexity, "se": None if error is None else perplexity * error, **shared},
    }


# ---------------------------------------------------------------- rubric


class Criterion(Config):
    """One aspect."""

    asks: str = Field(min_length=1)
    """The question that the score answers."""
    anchors: dict[int, str]
    """Meanings of the scores; at least of 1, 3 and 5."""

    @model_validator(mode="after")
    def _anchored(self) -> "Criterion":
        if not {1, 3, 5} <= set(self.anchors) <= {1, 2, 3, 4, 5}:
            raise ValueError("anchors are needed for 1, 3 and 5, and allowed for 1 to 5")
        return self


class Rubric(Config):
    """The questions to a judge about a solution."""

    system: str = Field(min_length=1)
    """The judge's instruction."""
    criteria: dict[str, Criterion] = Field(min_length=1)
    """By name; each is one call."""


def load_rubric(path: Path) -> Rubric:
    """Read a rubric. Raises UserError for a file that does not hold one."""
    return build(Rubric, read_yaml(path), str(path))


class RubricJudge:
    """Scores `sample.document`, a solution of `sample.query`. calls: one a criterion; critical path: 1."""

    def __init__(self, rubric: Rubric) -> None:
        self.rubric = rubric

    async def run(self, sample: Sample, chat: Chat) -> Outcome:
        turns = await gather(
            *(
                chat(
                    self.messages(sample, name),
                    agent="judge",
                    round=1,
                    role=name,
                    temperature=0.0,
                    max_tokens=8,
                    choices=SCORES,
                )
                for name in self.rubric.criteria
            )
        )
        scores = {name: _score(turn) for name, turn in zip(self.rubric.criteria, turns, strict=True)}
        solutions = [
            Solution(id=number, agent="judge", round=1, turn=turn.id, answer=turn.text.strip() or None)
            for number, turn in enumerate(turns, 1)
        ]
        unparsed = sum(score is None for score in scores.values())
        return Outcome(solutions=solutions, parse_failures=unparsed, info={"scores": scores})

    def messages(self, sample: Sample, name: str) -> list[Message]:
        criterion = self.rubric.criteria[name]
        anchors = [ANCHOR.format(score=score, text=text) for score, text in sorted(criterion.anchors.items())]
        aspect = ASPECT.format(name=name.replace("_", " "), asks=criterion.asks) + "".join(anchors) + DECIDE
        solution = Part(sample.document or "", ref="document")
        return [
            message("system", self.rubric.system),
            message("user", PROBLEM, sample.query, SOLUTION, solution, aspect),
        ]


def _score(turn: Turn) -> int | None:
    """None: the judge did not answer with a score (an engine that ignores guided choice)."""
    text = turn.text.strip()
    return int(text) if text in SCORES else None


# ---------------------------------------------------------------- the solutions to judge


def reasoning_of(turn: Turn) -> str:
    """A reply with its thinking, as one text."""
    done = turn.completion
    return f"{done.reasoning}\n\n{done.text}".strip() if done.reasoning else done.text.strip()


def items_of(records: Sequence[Record], which: str) -> list[tuple[Sample, int, str]]:
    """The solutions to score; rows with an error have none."""
    found = []
    for record in records:
        turns = {turn.id: turn for turn in record.trajectory}
        if record.error is None:
            chosen = record.solutions if which == "all" else evaluation.graded_solutions(record)
            found += [(record.sample(), one.id, reasoning_of(turns[one.turn])) for one in chosen]
    return found


def marks(
    records: Mapping[str, Record], rubric: Rubric, items: Items, seed: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Figures of the rubric, and counts of the marks: scored + unparsed + error = n, asserted."""
    figures: dict[str, Any] = {}
    counts: dict[str, Any] = {}
    rows = [(sample.id, records.get(f"{sample.id}#{number}")) for sample, number, _ in items]
    for name in rubric.criteria:
        given = [(key, None if row is None or row.error else row.info["scores"][name]) for key, row in rows]
        known = [(float(score), key) for key, score in given if score is not None]
        figures[name] = figure([score for score, _ in known], [key for _, key in known], seed)
        errors = sum(row is None or row.error is not None for _, row in rows)
        unparsed = len(rows) - errors - len(known)
        counts[name] = {"n": len(rows), "scored": len(known), "unparsed": unparsed, "error": errors}
        assert len(known) + unparsed + errors == len(rows)
    return figures, counts


def to_judge(items: Items) -> Iterator[Sample]:
    """The solutions as the samples that RubricJudge takes."""
    for sample, number, text in items:
        yield Sample(
            id=f"{sample.id}#{number}",
            source=sample.source,
            query=sample.query,
            gt=sample.gt,
            answer_type="text",
            document=text,
            tag=sample.tag,
        )
