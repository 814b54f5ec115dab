"""Does GRPO learn, and is it not gamed? VR, PRM and PRMVR from one small policy and one reward model.

    python bench/grpo_learns.py --output outputs/grpo_learns

The task: chains of one-digit additions and subtractions, a step per operation (bench/prm_chains.py). A model of about
3M parameters is trained on right solutions until it solves --base_accuracy of new ones; the reward model starts from it
and learns from planted errors. Then the real command for each reward mode. Every stage is skipped when it is done, so
the same command goes on after a kill. Prints a table, writes table.json and accuracy.png.
"""

import argparse
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.prm_chains import rows as chains
from distill.grpo_run import rows as read_rows

ROOT = Path(__file__).resolve().parents[1]
MODES = ("VR", "PRM", "PRMVR")
HELD_OUT = 300
VOCABULARY = 400
START, END = "<|im_start|>", "<|im_end|>"
TEMPLATE = (
    f"{{% for one in messages %}}{START}{{{{ one.role }}}}\n{{{{ one.content }}}}{END}\n{{% endfor %}}"
    f"{{% if add_generation_prompt %}}{START}assistant\n{{% endif %}}"
)
Row = dict[str, Any]


def parse(argv: list[str] | None) -> argparse.Namespace:
    shape = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0], formatter_class=shape)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--questions", type=int, default=800, help="to train on")
    parser.add_argument("--base_accuracy", type=float, default=0.45, help="of the policy before GRPO, about")
    parser.add_argument("--steps", type=int, default=50, help="optimizer steps of GRPO per mode")
    parser.add_argument("--learning_rate", type=float, default=3e-5)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


def write(path: Path, rows: list[Row]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def data(out: Path, questions: int, seed: int) -> tuple[list[Row], list[Row]]:
    """(rows to train on, rows held out), and their files: labelled.jsonl, prompts.jsonl, held_out.jsonl."""
    made = chains((questions + HELD_OUT) * 4, 4, (3, 6), seed)
    train, held = made[HELD_OUT:], made[:HELD_OUT]
    asked = [{key: row[key] for key in ("id", "query", "gt")} | {"answer_type": "number"} for row in made]
    write(out / "labelled.jsonl", train)
    write(out / "held_out.jsonl", asked[:HELD_OUT])
    write(out / "prompts.jsonl", asked[HELD_OUT:])
    return train, held


def make_tokenizer(rows: list[Row]) -> Any:
    """One of 400 tokens, so that the model's size is not in its vocabulary: bytes and what is common in the task."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), bytes_])
    made.decoder = decoders.ByteLevel()
    texts = (text for row in rows for text in (row["query"], *(one["text"] for one in row["solutions"])))
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=["<unk>", START, END], initial_alphabet=bytes_.alphabet(),
        show_progress=False,
    )  # fmt: skip
    made.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token=START, eos_token=END, pad_token=END, chat_template=TEMPLATE
    )


def make_policy(out: Path, train: list[Row], held: list[Row], goal: float, seed: int) -> Path:
    """A small model, trained on right solutions until it solves `goal` of 100 held-out questions."""
    folder = out / "base"
    if (folder / "config.json").is_file():
        return folder
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    draw = random.Random(seed)
    tokenizer = make_tokenizer(train)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY, hidden_size=256, intermediate_size=704, num_hidden_layers=4, num_attention_heads=4,
            num_key_value_heads=4, max_position_embeddings=1024, tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip
    print(f"base: {model.num_parameters() / 1e6:.1f}M parameters", flush=True)
    pairs = [(row["query"], one["text"]) for row in train for one in row["solutions"] if one["is_correct"]]
    encoded = [encode(tokenizer, query, text) for query, text in pairs]
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4)
    for step in range(1, 3001):
        batch = draw.sample(encoded, 32)
        width = max(len(ids) for ids, _ in batch)
        ids = torch.tensor([one + [tokenizer.pad_token_id] * (width - len(one)) for one, _ in batch])
        labels = torch.tensor([[-100] * start + one[start:] + [-100] * (width - len(one)) for one, start in batch])
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 25 == 0:
            found = accuracy(model, tokenizer, held[:100])
            print(f"base, step {step}: loss {loss.item():.3f}, accuracy {found:.2f}", flush=True)
            if found >= goal:
                break
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def prompt_of(tokenizer: Any, query: str) -> str:
    text: str = tokenizer.apply_chat_template(
        [{"role": "user", "content": query}], tokenize=False, add_generation_prompt=True
    )
    return text


def encode(tokenizer: Any, query: str, text: str) -> tuple[list[int], int]:
    """(ids of prompt and solution, where the solution begins)."""
    asked = tokenizer.encode(prompt_of(tokenizer, query), add_special_tokens=False)
    return [*asked, *tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id], len(asked)


def accuracy(model: Any, tokenizer: Any, rows: list[Row]) -> float:
    """Of greedy answers."""
    import torch

    prompts = [prompt_of(tokenizer, row["query"]) for row in rows]
    batch = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False)
    with torch.no_grad():
        made = model.generate(**batch, max_new_tokens=120, do_sample=False)
    texts = tokenizer.batch_decode(made[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    digits = ["".join(c for c in text.strip().rstrip(".")[-1:] if c.isdigit()) for text in texts]
    return sum(digit == row["gt"] for digit, row in zip(digits, rows, strict=True)) / len(rows)


def run(*words: object) -> None:
    """A command of ours."""
    print("$ python", *words, flush=True)
    subprocess.run([sys.executable, *map(str, words)], cwd=ROOT, check=True)


def train_reward_model(out: Path, base: Path) -> Path:
    folder = out / "reward_model"
    run("prm/finetune2.py", "--model_name_or_path", base, "--train_data_path", out / "labelled.jsonl",
        "--output_dir", folder, "--step_label", "judge", "--stage", "both", "--eval_ratio", 0.1,
        "--stage_1", "learning_rate=1e-3", "batch_size=32",
        "--stage_2", "learning_rate=2e-4", "batch_size=32", "num_train_epochs=3")  # fmt: skip
    return folder


def train(out: Path, base: Path, prm: Path, mode: str, steps: int, learning_rate: float) -> Path:
    folder = out / f"policy_{mode.lower()}"
    if not (folder / "manifest.json").is_file():
        run("-m", "openrlhf.cli.train_grpo", "--pretrain", base, "--reward_pretrain", prm, "--save_path", folder,
            "--backend", "trl", "--reward_mode", mode, "--prompt_data", out / "prompts.jsonl",
            "--eval_data", out / "held_out.jsonl", "--eval_samples", HELD_OUT, "--eval_steps", 10,
            "--rollout_batch_size", 16, "--micro_rollout_batch_size", 16, "--n_samples_per_prompt", 8,
            "--train_batch_size", 128, "--micro_train_batch_size", 32, "--generate_max_len", 120,
            "--prompt_max_len", 200, "--actor_learning_rate", learning_rate, "--max_steps", steps,
            "--num_episodes", 20, "--save_steps", 10, "--zero_stage", 0, "--lr_scheduler", "constant")  # fmt: skip
    return folder


def plot(out: Path, curves: dict[str, list[Row]]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axis = figure.subplots()
    for mode, rows in curves.items():
        axis.errorbar([row["step"] for row in rows], [row["accuracy"] for row in rows], [row["se"] for row in rows],
                      capsize=2, label=mode)  # fmt: skip
    axis.set_xlabel("optimizer steps")
    axis.set_ylabel(f"accuracy on {HELD_OUT} held-out questions")
    axis.legend()
    figure.savefig(out / "accuracy.png", dpi=110)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    args.output.mkdir(parents=True, exist_ok=True)
    train_rows, held = data(args.output, args.questions, args.seed)
    base = make_policy(args.output, train_rows, held, args.base_accuracy, args.seed)
    prm = train_reward_model(args.output, base)
    print_rows: list[Row] = []
    curves: dict[str, list[Row]] = {}
    for mode in args.modes:
        folder = train(args.output, base, prm, mode, args.steps, args.learning_rate)
        dev, metrics = read_rows(folder / "dev.jsonl"), read_rows(folder / "metrics.jsonl")
        seconds = json.loads((folder / "manifest.json").read_text())["metrics"]["seconds"]
        hits = {name: sum(row.get(name) or 0 for row in metrics) for name in metrics[0] if name.startswith("guard/")}
        curves[mode] = dev
        print_rows.append(
            {"mode": mode, "before": dev[0], "after": dev[-1], "seconds": seconds, "hits": hits,
             "steps": [metrics[0]["steps"], metrics[-1].get("steps")]}
        )  # fmt: skip
    plot(args.output, curves)
    (args.output / "table.json").write_text(json.dumps(print_rows, indent=1) + "\n", encoding="utf-8")
    print("| mode | before | after | minutes | guard hits |\n|---|---|---|--:|---|")
    for row in print_rows:
        before, after = (f"{row[key]['accuracy']:.3f} ± {row[key]['se']:.3f}" for key in ("before", "after"))
        hits = ", ".join(f"{name.removeprefix('guard/')} {count:.0f}" for name, count in row["hits"].items() if count)
        print(f"| {row['mode']} | {before} | {after} | {row['seconds'] / 60:.1f} | {hits or 'none'} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
