"""How many candidates a judge gets through: ours against the published order.

    python bench/label_bench.py --data_dir ../shared/data

    ours        document, question and reference first, candidate last, one guided token
    baseline    candidate before the document, up to 16 free tokens

Same engine (vLLM, the embedded model), same questions and candidates, same cap, runs alternated, the prefix cache
emptied before each. A candidate is the gold answer of this or another question. Prints a markdown table and writes
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

from agentark import embedded
from agentark.engines.vllm import VLLMConfig, VLLMEngine
from agentark.episode import Defaults, gather
from agentark.judge import JudgePrompts, LabelConfig, Labeller, label_row, load_prompts
from agentark.labels import Answered, Candidate
from agentark.records import Store
from agentark.runner import Progress, Runner
from agentark.tasks import get_task
from agentark.types import Chat, Message, Method, MethodInfo, Outcome, Part, Sample, message
from bench.parts import report

DEFAULT_JSON = report.ROOT / "results" / "bench" / "label.json"
FREE_TOKENS = 16
GOALS = {"QMSum": ">= 3"}


class CandidateFirst:
    """The published order: the candidate, then what it is judged by, then free text."""

    def __init__(self, prompts: JudgePrompts) -> None:
        self.prompts = prompts

    async def run(self, sample: Sample, chat: Chat) -> Outcome:
        assert isinstance(sample, Answered)
        calls = (
            chat(self._prompt(sample, one.text), agent=one.agent, round=1, role="judge", max_tokens=FREE_TOKENS)
            for one in sample.solutions
        )
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
    """`count` questions, each with its own gold answer and those of the next ones as candidates."""
    task = get_task(dataset)
    samples = task.load(None, data_dir).samples[: count + candidates]
    return [
        Answered(
            **sample.fields(),
            solutions=tuple(
                Candidate(text=samples[place + k].gt, agent=f"agent_{k + 1}", round=1, id=k + 1)
                for k in range(candidates)
            ),
        )
        for place, sample in enumerate(samples[:count])
    ]


async def once(engine: VLLMEngine, method: Method, todo: Sequence[Answered]) -> tuple[float, float]:
    """(calls per second, share of prompt tokens from the cache) of one run."""
    await engine._llm.reset_prefix_cache()
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "labels.jsonl", {})
        store.start({})
        with Progress(len(todo), quiet=True) as progress:
            runner = Runner(
                method=method,
                info=MethodInfo("label", "bench", {}),
                model="judge",
                engines={"main": engine},
                defaults=Defaults(0.0, 1, 0),
                store=store,
                progress=progress,
                row=label_row,
            )
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
        model=str(embedded.prepare()),
        served_name=embedded.EMBEDDED,
        max_model_len=args.max_model_len,
        max_concurrency=args.cap,
    )
    rows: list[report.Row] = []
    async with VLLMEngine(config) as engine:
        for dataset in args.datasets:
            todo = questions(dataset, args.data_dir, args.questions, args.candidates)
            title = (
                f"label: {dataset}, {args.questions} x {args.candidates}, cap {args.cap}, {args.max_model_len} tokens"
            )
            await once(engine, ours, todo[:1])  # warm-up
            runs: list[tuple[tuple[float, float], tuple[float, float]]] = []
            start = time.perf_counter()
            for repetition in range(args.repeats):
                took = time.perf_counter() - start
                if repetition and took * (repetition + 1) / repetition > args.minutes * 60:
                    print(f"no time for repetition {repetition + 1} within {args.minutes:g} minutes", file=sys.stderr)
                    break
                runs.append((await once(engine, ours, todo), await once(engine, CandidateFirst(prompts), todo)))
                print(f"  {dataset}: {runs[-1][0][0]:.2f} against {runs[-1][1][0]:.2f} calls/s", file=sys.stderr)
            speeds = [(one[0], other[0]) for one, other in runs]
            rows.append(report.measured(f"{title}: judge calls/s", speeds, "calls/s", GOALS.get(dataset, "")))
            cached = [(one[1], max(1e-3, other[1])) for one, other in runs]
            rows.append(report.measured(f"{title}: prompt tokens from the cache", cached, "of prompt tokens"))
    return rows


def main(argv: list[str] | None = None) -> int:
    shape = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0], formatter_class=shape)
    parser.add_argument("--data_dir", type=Path, help="folder with the datasets' files (default: the hub)")
    parser.add_argument("--datasets", nargs="+", default=["QMSum", "GSM8K"])
    parser.add_argument("--questions", type=int, default=4)
    parser.add_argument("--candidates", type=int, default=6, help="per question")
    parser.add_argument("--cap", type=int, default=8, help="calls in flight")
    parser.add_argument("--max_model_len", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=10, help="per dataset; fewer repetitions if it is short")
    parser.add_argument("--json", type=Path, default=DEFAULT_JSON, help="where the ratios go")
    args = parser.parse_args(argv)
    rows = asyncio.run(measure(args))
    print(report.table(rows))
    report.save(rows, args.json)
    print(f"\n{report.machine()}, commit {report.commit()}; ratios written to {args.json}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
