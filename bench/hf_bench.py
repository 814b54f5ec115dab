"""Tokens per second of our transformers engine (16 calls at once, one at a time) and of transformers' `generate`.

    python bench/hf_bench.py

Prints a markdown table and writes the ratios to results/bench/hf.json. All three alternate in one run, with new
prompts each time; ratios are medians over the repetitions, with their spread.
"""

import argparse
import asyncio
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from agentark import cli
from agentark.cli import resolve_model
from agentark.embedded import EMBEDDED
from agentark.engines.hf import HFConfig, HFEngine
from agentark.types import Message, SamplingParams, message
from bench.parts import report


class Bench:
    """Our engine, the bare model, and questions that never repeat."""

    def __init__(self, engine: HFEngine, model: str, tokens: int, words: int) -> None:
        from transformers import AutoModelForCausalLM

        self.engine = engine
        self.bare = AutoModelForCausalLM.from_pretrained(model, use_safetensors=True).eval()
        self.bare.generation_config.eos_token_id = None
        self.params = SamplingParams(temperature=0.0, max_tokens=tokens)
        self.words = words
        self.asked = 0

    def question(self) -> list[Message]:
        self.asked += 1
        padding = " ".join(f"{self.asked * 7919 + k}" for k in range(self.words // 4))
        return [message("user", f"{self.asked}. {padding} Write a long story about a village of {self.asked} houses.")]

    async def call(self) -> int:
        completion = await self.engine.chat(self.question(), self.params, session="bench", priority=self.asked)
        return completion.completion_tokens

    async def together(self, calls: int, turns: int = 1) -> float:
        """Tokens per second of `calls` calls at once, `turns` times in a row."""
        start = time.perf_counter()
        tokens = [sum(await asyncio.gather(*(self.call() for _ in range(calls)))) for _ in range(turns)]
        return sum(tokens) / (time.perf_counter() - start)

    def generate(self, calls: int) -> float:
        """Tokens per second of transformers' generate, one prompt at a time."""
        import torch

        start = time.perf_counter()
        made = 0
        for _ in range(calls):
            prompt = self.engine.prompter.build_sync(self.question(), self.params)
            ids: Any = torch.tensor([prompt.token_ids])
            reply = self.bare.generate(ids, do_sample=False, max_new_tokens=self.params.max_tokens, pad_token_id=0)
            made += reply.shape[1] - ids.shape[1]
        return made / (time.perf_counter() - start)


async def measure(args: argparse.Namespace) -> list[report.Row]:
    model, label = resolve_model(args.model_name)
    config = HFConfig(model=model, served_name=label, max_model_len=4096, max_concurrency=args.calls, dtype="float32")
    async with HFEngine(config) as engine:
        bench = Bench(engine, model, args.tokens, args.words)
        await bench.together(2)
        runs = []
        for number in range(args.repeats):
            runs.append(
                (await bench.together(args.calls), await bench.together(1, args.alone), bench.generate(args.alone))
            )
            print(f"{number + 1}: " + ", ".join(f"{speed:.1f}" for speed in runs[-1]) + " tokens/s", file=sys.stderr)
    many, single = f"hf, {args.calls} calls at once", "hf, one at a time"
    return [
        report.measured(f"{many} / {single}", [(a, b) for a, b, _ in runs], "tokens/s", ">= 3"),
        report.measured(f"{many} / generate, one at a time", [(a, c) for a, _, c in runs], "tokens/s"),
        report.measured(f"{single} / generate, one at a time", [(b, c) for _, b, c in runs], "tokens/s"),
    ]


def main(argv: list[str] | None = None) -> int:
    parser = report.parser(__doc__, "hf")
    parser.add_argument("--model_name", default=EMBEDDED)
    parser.add_argument("--calls", type=cli.integer(1), default=16, help="calls at once")
    parser.add_argument("--alone", type=cli.integer(1), default=4, help="single calls per repetition")
    parser.add_argument("--tokens", type=cli.integer(1), default=32, help="new tokens per call")
    parser.add_argument(
        "--words", type=cli.integer(0), default=0, help="words before each question, for longer prompts"
    )
    parser.add_argument("--repeats", type=cli.integer(1), default=5)
    args = parser.parse_args(argv)
    rows = asyncio.run(measure(args))
    return report.publish(rows, args.json)


if __name__ == "__main__":
    cli.entry(main)
