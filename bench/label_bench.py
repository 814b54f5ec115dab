"""Measure how many candidates a judge labels per second: our prompt order against the published order.

    python bench/label_bench.py --data_dir ../shared/data

    ours        document, question and reference first, candidate last, one guided token
    baseline    candidate before the document, up to 16 free tokens

Both use the same engine (vLLM, the embedded model), questions, candidates and cap; runs alternate, and the prefix cache
is emptied before each. A candidate is the gold answer of this or another question. Prints a markdown table and writes
the ratios to results/bench/label.json.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from agentark import cli, embedded
from agentark.engines.vllm import VLLMConfig, VLLMEngine
from agentark.episode import Defaults, gather
from agentark.judge import JudgePrompts, LabelConfig, Labeller, label_row, load_prompts
from agentark.labels import Answered, Candidate
from agentark.progress import Progress
from agentark.records import Store
from agentark.runner import Runner
from agentark.tasks import get_task
from agentark.types import Chat, Message, Method, MethodInfo, Outcome, Part, Sample, UserError, message
from bench.parts import report

FREE_TOKENS = 16
GOALS = {"QMSum": ">= 3"}


class CandidateFirst:
    """The published order: the candidate, then the material it is judged by, then free text."""

    def __init__(self, prompts: JudgePrompts) -> None:
        self.prompts = prompts

    async def run(self, sample: Sample, chat: Chat) -> Outcome:
        assert isinstance(sample, Answered)
        calls = (
            chat(self._prompt(sample, solution.text), agent=solution.agent, round=1, role="judge",
                 max_tokens=FREE_TOKENS)
            for solution in sample.solutions
        )  # fmt: skip
        turns = await gather(*calls)
        return Outcome(solutions=[], info={"solutions": [], "labels": [turn.text.startswith("true") for turn in turns]})

    def _prompt(self, sample: Sample, text: str) -> list[Message]:
        prompts = self.prompts
        parts: list[str | Part] = [prompts.intro, prompts.candidate.format(text=text)]
        if sample.document is not None:
            parts += [prompts.document, Part(sample.document, "middle", "document")]
        parts += [prompts.question.format(text=sample.query), prompts.reference.format(text=sample.gt)]
        return [message("user", *parts, prompts.verdict)]


def questions(dataset: str, data_dir: Path | None, count: int, candidates: int) -> list[Answered]:
    """`count` questions; the candidates of each are its own gold answer and those of the next questions."""
    samples = get_task(dataset).load(None, data_dir).samples[: count + candidates]
    if len(samples) < count + candidates:
        raise UserError(f"--questions {count}: with --candidates {candidates}, {dataset} has too few questions")
    todo = []
    for index, sample in enumerate(samples[:count]):
        golds = [samples[index + k].gt for k in range(candidates)]
        solutions = (Candidate(text=gold, agent=f"agent_{id}", round=1, id=id) for id, gold in enumerate(golds, 1))
        todo.append(Answered(**sample.fields(), solutions=tuple(solutions)))
    return todo


async def once(engine: VLLMEngine, method: Method, todo: Sequence[Answered]) -> tuple[float, float]:
    """(calls per second, share of prompt tokens from the cache) of one run."""
    await engine._llm.reset_prefix_cache()
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "labels.jsonl", {})
        store.start({})
        with Progress(len(todo), quiet=True) as progress:
            runner = Runner(
                method=method, info=MethodInfo("label", "bench", {}), model="judge", engines={"main": engine},
                defaults=Defaults(0.0, 1, 0), store=store, progress=progress, row=label_row,
            )  # fmt: skip
            start = time.perf_counter()
            await runner.run(todo)
            seconds = time.perf_counter() - start
        store.close()
    if progress.failed:
        raise SystemExit(f"{progress.failed} questions failed")
    return progress.calls / seconds, progress.cached / max(1, progress.prompt)


async def measure(args: argparse.Namespace) -> list[report.Row]:
    prompts = load_prompts()
    ours = Labeller(LabelConfig(judge="judge", rules=False), prompts)
    config = VLLMConfig(
        model=str(embedded.prepare()), served_name=embedded.EMBEDDED, max_model_len=args.max_model_len,
        max_concurrency=args.cap,
    )  # fmt: skip
    rows: list[report.Row] = []
    asked = {name: questions(name, args.data_dir, args.questions, args.candidates) for name in args.datasets}
    async with VLLMEngine(config) as engine:
        for dataset, todo in asked.items():
            size = f"{args.questions} x {args.candidates}, cap {args.cap}, {args.max_model_len} tokens"
            title = f"label: {dataset}, {size}"
            await once(engine, ours, todo[:1])  # warm-up
            runs: list[tuple[tuple[float, float], tuple[float, float]]] = []
            for _ in report.repetitions(args.repeats, args.minutes):
                runs.append((await once(engine, ours, todo), await once(engine, CandidateFirst(prompts), todo)))
                print(f"  {dataset}: {runs[-1][0][0]:.2f} against {runs[-1][1][0]:.2f} calls/s", file=sys.stderr)
            speeds = [(our_speed, speed) for (our_speed, _), (speed, _) in runs]
            rows.append(report.measured(f"{title}: judge calls/s", speeds, "calls/s", GOALS.get(dataset, "")))
            cached = [(our_share, max(1e-3, share)) for (_, our_share), (_, share) in runs]
            rows.append(report.measured(f"{title}: prompt tokens from the cache", cached, "of prompt tokens"))
    return rows


def main(argv: list[str] | None = None) -> int:
    parser = report.parser(__doc__, "label")
    parser.add_argument("--data_dir", type=Path, help="folder with the datasets' files (default: the hub)")
    parser.add_argument("--datasets", nargs="+", default=["QMSum", "GSM8K"])
    parser.add_argument("--questions", type=cli.integer(1), default=4)
    parser.add_argument("--candidates", type=cli.integer(1), default=6, help="per question")
    parser.add_argument("--cap", type=cli.integer(1), default=8, help="calls in flight")
    parser.add_argument("--max_model_len", type=cli.integer(1), default=4096)
    parser.add_argument("--repeats", type=cli.integer(1), default=3)
    parser.add_argument(
        "--minutes", type=cli.number(0), default=10, help="per dataset; fewer repetitions if it is short"
    )
    args = parser.parse_args(argv)
    rows = asyncio.run(measure(args))
    return report.publish(rows, args.json)


if __name__ == "__main__":
    cli.entry(main)
