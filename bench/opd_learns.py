"""Test what on-policy distillation from a team teaches: transcript, gold, vote, shuffled transcript, and R-SFT.

    python bench/opd_learns.py --output outputs/opd_learns

The world: bench/parts/nouns.py. A model of about 0.3M parameters first learns one member's digits, and to read: with a
transcript before it, it follows the transcript's digits; with an answer before it, it ends at that answer. Then the
real commands run: label.py on the team's debates, distill.opd with every context, distill.sft on the team's solutions
for as many trained tokens. Finished stages are skipped. Prints a table and writes table.json.
"""

import json
import random
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from agentark import cli, stats
from agentark.exam import greedy
from agentark.labelled import Question
from agentark.trajectories import Reply, Trajectory
from agentark.types import Sample
from bench.parts import experiment, report
from bench.parts.chain_model import encode, make_tokenizer, save
from bench.parts.experiment import run
from bench.parts.nouns import NOUNS, World, debate, known, majority, query, questions, solution, world
from distill.opd.contexts import FRAMES, context

CONTEXTS = ("transcript", "gold", "vote", "shuffled")
LENGTH, LONGER = 4, 6
"""Nouns of a question: trained on; held out besides."""
TRAIN, HELD_OUT = 500, 300
ROWS, BATCH = 32, 32
"""Questions of a rollout; rows of a training step."""
REPLY = 60
"""Most tokens of a reply."""
SLIP = 0.25
"""Share of the nouns that a member gets wrong in the first round of the debates that teach reading."""


# ---------------------------------------------------------------- the student


def reading(draw: random.Random) -> tuple[str, str, str]:
    """(kind, message, reply) of one example of reading; its digits are drawn, so that memory is of no use."""
    nouns = draw.sample(NOUNS, draw.choice((3, LENGTH)))
    digits = [(noun, draw.randrange(10)) for noun in nouns]
    paths = []
    for number in (1, 2, 3):
        first = [(noun, draw.randrange(10) if draw.random() < SLIP else digit) for noun, digit in digits]
        replies = (Reply(solution(first), None, 1, first == digits), Reply(solution(digits), None, 2, True))
        kind = "always_right" if first == digits else "corrective"
        paths.append(
            Trajectory(method="m", teacher="t", solution=number, agent=f"agent_{number}", kind=kind, verdict=True,
                       truncated=False, replies=replies)
        )  # fmt: skip
    sample = Sample(id=str(draw.random()), source="GSM8K", query=query(nouns), gt="0", answer_type="number")
    text = context(Question(sample, paths), "transcript")
    return "reading", _message(nouns, "transcript", text or ""), solution(digits)


def told(draw: random.Random, own: Any) -> tuple[str, str, str]:
    """One example of an answer that was told: the own steps, and the told answer."""
    nouns, answer = draw.sample(NOUNS, draw.choice((3, LENGTH))), draw.randrange(10)
    kind = draw.choice(("gold", "vote"))
    return "told", _message(nouns, kind, str(answer)), solution(known(nouns, own), answer)


def alone(draw: random.Random, own: Any) -> tuple[str, str, str]:
    nouns = draw.sample(NOUNS, draw.randint(2, LONGER))
    return "alone", query(nouns), solution(known(nouns, own))


def _message(nouns: Sequence[str], kind: Any, text: str) -> str:
    return f"{query(nouns)}\n\n{FRAMES[kind].replace('{context}', text)}"


def teach(folder: Path, own: Any, steps: int, seed: int) -> None:
    """Train the student, unless the folder holds it already."""
    if (folder / "config.json").is_file():
        return
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    draw = random.Random(seed)
    makers: list[Callable[[], tuple[str, str, str]]] = [
        lambda: reading(draw), lambda: told(draw, own), lambda: alone(draw, own),
    ]  # fmt: skip
    texts = [maker() for maker in makers for _ in range(200)]
    tokenizer = make_tokenizer(
        [{"query": asked, "solutions": [{"text": reply}]} for _, asked, reply in texts], vocabulary=1200
    )
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=64, intermediate_size=176, num_hidden_layers=5,
            num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=1024, tie_word_embeddings=True,
            initializer_range=0.1, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip
    print(f"student: {model.num_parameters() / 1e6:.2f}M parameters, {len(tokenizer)} tokens", flush=True)
    matrices = [value for name, value in model.named_parameters() if value.ndim == 2 and "embed" not in name]
    others = [value for name, value in model.named_parameters() if value.ndim != 2 or "embed" in name]
    optimizers = [
        torch.optim.Muon(matrices, lr=0.02, momentum=0.95, weight_decay=0.0),
        torch.optim.AdamW(others, lr=3e-3, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    peaks = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    losses: dict[str, float] = {}
    for step in range(1, steps + 1):
        maker = makers[(0, 2, 0, 1, 0, 2)[step % 6]]
        examples = [maker() for _ in range(BATCH if maker is makers[0] else 2 * BATCH)]
        encoded = [encode(tokenizer, asked, reply) for _, asked, reply in examples]
        width = max(len(ids) for ids, _ in encoded)
        inputs = torch.tensor([ids + [tokenizer.pad_token_id] * (width - len(ids)) for ids, _ in encoded])
        learnt = 0 if maker is makers[0] else None  # a peer's lines teach to copy; the rest is learnt from replies
        labels = torch.tensor(
            [[-100] * (start if learnt is None else 0) + ids[start if learnt is None else 0 :]
             + [-100] * (width - len(ids)) for ids, start in encoded]
        )  # fmt: skip
        loss = model(input_ids=inputs, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            optimizer.param_groups[0]["lr"] = peak * min(step / 60, 1.02 - step / steps)
            optimizer.step()
            optimizer.zero_grad()
        losses[examples[0][0]] = loss.item()
        if step % 50 == 0:
            print(f"student, step {step}: {losses}", flush=True)
    save(model, tokenizer, folder)


# ---------------------------------------------------------------- measuring


def right(folder: Path, asked: Sequence[Sequence[str]], told: World, shown: bool = False) -> list[float]:
    """1 for each question that a model answers right, else 0.

    Args:
        shown: as the teacher sees it: with the team's transcript.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    prompts = [_message(nouns, "transcript", _transcript(nouns, told)) if shown else query(nouns) for nouns in asked]
    replies = greedy(model, tokenizer, [[{"role": "user", "content": prompt}] for prompt in prompts], REPLY, 100)
    golds = [str(sum(told.truth[noun] for noun in nouns) % 10) for nouns in asked]
    return [
        float(re.findall(r"\\boxed\{(\d)\}", text)[-1:] == [gold])
        for (text, _), gold in zip(replies, golds, strict=True)
    ]


def _transcript(nouns: Sequence[str], of: World) -> str:
    first = [known(nouns, table) for table in of.members]
    last = majority(nouns, first)
    paths = [
        Trajectory(method="m", teacher="t", solution=number, agent=f"agent_{number}", verdict=True, truncated=False,
                   kind="always_right" if steps == last else "corrective",
                   replies=(Reply(solution(steps), None, 1, None), Reply(solution(last), None, 2, True)))
        for number, steps in enumerate(first, 1)
    ]  # fmt: skip
    sample = Sample(id="q", source="GSM8K", query=query(nouns), gt="0", answer_type="number")
    return context(Question(sample, paths), "transcript") or ""


# ---------------------------------------------------------------- the real commands


def labels(out: Path, told: World, asked: Sequence[Sequence[str]]) -> Path:
    path = out / "team_infer.jsonl"
    if not (out / "team_labels.jsonl").is_file():
        records = [debate(f"GSM8K/train/{number}", nouns, told) for number, nouns in enumerate(asked)]
        path.write_bytes(b"".join(msgspec.json.encode(record) + b"\n" for record in records))
        run("label.py", "--input", path, "--dataset_name", "GSM8K", "--rules_only", "--rounds", "all",
            "--output", out / "team_labels.jsonl")  # fmt: skip
    return out / "team_labels.jsonl"


def distilled(
    out: Path, base: Path, labelled: Path, kind: str, steps: int, rate: float, seed: int, divergence: str
) -> Path:
    folder = out / f"opd_{kind}_{divergence}"
    run("-m", "distill.opd", "--model_name_or_path", base, "--train_data_path", labelled, "--output_dir", folder,
        "--context", kind, "--divergence", divergence, "--max_steps", steps, "--per_device_train_batch_size", ROWS,
        "--learning_rate", rate, "--max_completion_length", REPLY, "--seed", seed, "--warmup_steps", 5,
        "--save_strategy", "no", "--logging_steps", 5, "--disable_tqdm", True, "--use_cpu", True)  # fmt: skip
    return folder


def tuned(out: Path, base: Path, labelled: Path, tokens: int, rate: float, seed: int) -> Path:
    """R-SFT on the team's solutions, for as many trained tokens."""
    folder, rows = out / "rsft", out / "rsft.jsonl"
    if not rows.is_file():
        run("-m", "distill.select", "--input", labelled, "--strategy", "rsft", "--output", rows)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    completions = [json.loads(line)["completion"][0]["content"] for line in rows.read_text().splitlines()]
    each = sum(len(tokenizer.encode(text, add_special_tokens=False)) + 1 for text in completions) / len(completions)
    run("-m", "distill.sft", "--model_name_or_path", base, "--train_data_path", rows, "--output_dir", folder,
        "--max_steps", max(1, round(tokens / each / ROWS)), "--per_device_train_batch_size", ROWS,
        "--learning_rate", rate, "--seed", seed, "--save_strategy", "no", "--warmup_steps", 5,
        "--disable_tqdm", True, "--use_cpu", True, "--logging_steps", 10)  # fmt: skip
    return folder


def main(argv: list[str] | None = None) -> int:
    parser = experiment.parser(__doc__)
    parser.add_argument("--base_steps", type=report.count, default=480, help="steps of the student's first training")
    parser.add_argument("--steps", type=report.count, default=60, help="optimizer steps of on-policy distillation")
    parser.add_argument("--learning_rate", type=cli.number(0, 1), default=1e-3)
    parser.add_argument(
        "--divergence",
        nargs="+",
        default=["forward_kl"],
        help="of these, the first is used with every context, the others with the transcript",
    )
    args = parser.parse_args(argv)
    out, told, draw, taken = args.output, world(args.seed), random.Random(args.seed + 1), set[tuple[str, ...]]()
    out.mkdir(parents=True, exist_ok=True)
    tests = {length: list(questions(draw, HELD_OUT, length, taken)) for length in (LENGTH, LONGER)}
    asked = list(questions(draw, TRAIN, LENGTH, taken))
    base = out / "base"
    teach(base, told.members[0], args.base_steps, args.seed)
    labelled = labels(out, told, asked)
    folders: dict[str, Path] = {"student": base}
    for number, divergence in enumerate(args.divergence):
        for kind in CONTEXTS if number == 0 else ("transcript",):
            name = f"OPD, {kind}, {divergence}"
            folders[name] = distilled(out, base, labelled, kind, args.steps, args.learning_rate, args.seed, divergence)
    main_arm = f"OPD, transcript, {args.divergence[0]}"
    tokens = json.loads((folders[main_arm] / "manifest.json").read_text())["trained_tokens"]
    folders["R-SFT"] = tuned(out, base, labelled, tokens, args.learning_rate, args.seed)
    scores = {name: {n: right(folder, tests[n], told) for n in tests} for name, folder in folders.items()}
    scores["student with the transcript"] = {n: right(base, tests[n], told, shown=True) for n in tests}
    rows = table(scores, main_arm, folders)
    experiment.save_table(rows, out)
    print(f"| | {LENGTH} nouns | p | {LONGER} nouns | p | trained tokens |\n|---|---|---|---|---|--:|")
    for row in rows:
        cells = " | ".join(f"{row[n]['accuracy']:.1%} ± {row[n]['se']:.1%} | {row[n]['p']:.1e}" for n in tests)
        print(f"| {row['system']} | {cells} | {row['tokens'] or ''} |")
    print(f"n = {HELD_OUT} a length; p: McNemar against {main_arm}, Holm over the rows")
    return 0


def table(scores: dict[str, dict[int, list[float]]], main_arm: str, folders: dict[str, Path]) -> list[dict[Any, Any]]:
    """A row per system; p against the main arm."""
    rows: list[dict[Any, Any]] = [{"system": name, "tokens": _tokens(folders.get(name))} for name in scores]
    for length in (LENGTH, LONGER):
        best = scores[main_arm][length]
        ps = []
        for name in scores:
            pairs = list(zip(best, scores[name][length], strict=True))
            ps.append(stats.mcnemar(sum(a > b for a, b in pairs), sum(b > a for a, b in pairs)))
        for row, p in zip(rows, stats.holm(ps), strict=True):
            mean, error = stats.mean_and_se(scores[row["system"]][length])
            row[length] = {"accuracy": mean, "se": error or 0.0, "n": len(best), "p": p}
    return rows


def _tokens(folder: Path | None) -> int | None:
    path = folder / "manifest.json" if folder else None
    return json.loads(path.read_text()).get("trained_tokens") if path and path.is_file() else None


if __name__ == "__main__":
    cli.entry(main)
