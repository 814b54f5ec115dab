"""distill.opd on an untrained small model: the loss, the teacher, resuming, curves, and what it refuses."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from killing import content
from label_cases import debate, write

import label
from agentark import answers
from agentark.config import ROOT
from agentark.types import RunError, UserError
from distill.opd import __main__ as opd
from distill.opd import train as training

torch = pytest.importorskip("torch")
Train = Callable[..., Path]
FLAGS = ("--max_completion_length", "12", "--per_device_train_batch_size", "2", "--learning_rate", "1e-3")
QUIET = ("--disable_tqdm", "true", "--use_cpu", "True", "--save_strategy", "no")


def says(value: int, words: str) -> str:
    return f"{words} \\boxed{{{value}}}."


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Four questions solved by a team, the last of them by nobody."""
    folder = tmp_path_factory.mktemp("opd")
    rows = [
        debate(
            f"GSM8K/train/{k}", str(k), [[says(k, "Right:"), says(9, "Wrong:")], [says(k, "Yes:"), says(k, "zebra:")]]
        )
        for k in range(4)
    ]
    rows.append(debate("GSM8K/train/4", "4", [[says(9, "Wrong:"), says(9, "Wrong too:")]]))
    infer = write(folder / "llm_debate_infer.jsonl", *rows)
    assert label.main(["--input", str(infer), "--dataset_name", "GSM8K", "--rules_only"]) == 0
    answers.close_pool()
    return infer.with_name(f"{infer.stem}_labeled_by_rules.jsonl")


@pytest.fixture
def argv(small_model: Path, labels: Path, tmp_path: Path) -> Callable[..., list[str]]:
    def made(*flags: str, out: str = "out", model: Path = small_model) -> list[str]:
        words = ["--model_name_or_path", str(model), "--train_data_path", str(labels)]
        return [*words, "--output_dir", str(tmp_path / out), *FLAGS, *QUIET, "--max_steps", "2", *flags]

    return made


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def manifest(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return found


def test_a_run_leaves_a_model_that_says_what_it_has_read(
    argv: Callable[..., list[str]], tmp_path: Path, small_model: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert opd.main(argv()) == 0
    folder = tmp_path / "out"
    about, prompts, metrics = manifest(folder), rows(folder / "prompts.jsonl"), rows(folder / "metrics.jsonl")
    assert about["train_ids"] == [f"GSM8K/train/{k}" for k in range(4)] == [row["id"] for row in prompts]
    assert about["data"]["left_out"] == {"too few right agents": 1}
    assert about["context"]["kind"] == "transcript"
    assert about["context"]["tokens"] == sum(row["context_tokens"] for row in prompts) > 100
    assert about["context"]["cut"] == 0
    assert [row["step"] for row in metrics] == [1, 2]
    for row in metrics:
        assert row["kl"] == pytest.approx(row["loss"], rel=0.2)
        assert row["kl"] > 0
        assert 0 < row["length"] <= 12
        assert 0 <= row["truncated"] <= 1
    assert metrics[-1]["tokens"] == about["trained_tokens"] == round(2 * sum(row["length"] for row in metrics))
    assert (folder / "curves.png").is_file()
    assert not list(folder.glob("*.bin"))
    before, after = (AutoModelForCausalLM.from_pretrained(path).state_dict() for path in (small_model, folder))
    assert any(not torch.equal(value, after[name]) for name, value in before.items())
    AutoTokenizer.from_pretrained(folder)
    assert opd.main(argv()) == 0, "finished: nothing is done"
    with pytest.raises(UserError, match="context"):
        opd.main(argv("--context", "gold"))


# ---------------------------------------------------------------- the divergence


def own_divergence(name: str, student: Any, teacher: Any) -> Any:
    """By its definition, in double precision; (T, V) logits -> (T,)."""
    p, q = (logits.double().softmax(-1) for logits in (teacher, student))
    middle = (p + q) / 2

    def kl(one: Any, other: Any) -> Any:
        return (one * (one.log() - other.log())).sum(-1)

    return {"forward_kl": kl(p, q), "reverse_kl": kl(q, p), "jsd": (kl(p, middle) + kl(q, middle)) / 2}[name]


@pytest.mark.parametrize("name", ["forward_kl", "reverse_kl", "jsd"])
def test_a_divergence_is_what_its_name_says_in_both_trainers(name: str, argv: Callable[..., list[str]]) -> None:
    from trl.experimental.sdft.loss_utils import compute_full_logit_self_distillation_loss
    from trl.trainer.distillation_trainer import _chunked_divergence_loss

    from distill.opd.flags import parse

    torch.manual_seed(3)
    hidden, heads = torch.randn(2, 5, 8), torch.randn(2, 11, 8)
    student, teacher = (hidden[0] @ heads[0].T, hidden[1] @ heads[1].T)  # (T, V)
    wanted = own_divergence(name, student, teacher)
    _, itself = parse(argv("--divergence", name))
    got = compute_full_logit_self_distillation_loss(student, teacher, distillation_alpha=itself.distillation_alpha)
    torch.testing.assert_close(got.double(), wanted, rtol=1e-4, atol=1e-5)
    _, other = parse(argv("--divergence", name, "--teacher", "some/model"))
    loss, _, n = _chunked_divergence_loss(
        hidden[0][None], hidden[1][None], heads[0], heads[1], torch.tensor([[1, 1, 1, 0, 1]]), other.beta
    )
    assert int(n) == 4
    torch.testing.assert_close(loss.double(), wanted[[0, 1, 2, 4]].mean(), rtol=1e-4, atol=1e-5)


class Copies(torch.nn.Module):
    """A model that expects what it has read: the logit of a token is 10 once it has stood there, and 0 before."""

    def forward(self, input_ids: Any, attention_mask: Any, logits_to_keep: int, **_: Any) -> Any:
        seen = torch.nn.functional.one_hot(input_ids, 49152).float() * attention_mask[..., None]
        return SimpleNamespace(logits=10 * seen.cumsum(1).clamp(max=1)[:, -logits_to_keep:])


def trainer_of(argv: list[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """The trainer that a command line makes, before it trains."""
    made: list[Any] = []
    monkeypatch.setattr(training, "_run", lambda trainer, *_: made.append(trainer) or 0)
    assert opd.main(argv) == 0
    return made[0]


@pytest.mark.parametrize("kind", ["transcript", "none"])
def test_the_teacher_has_read_the_context_and_the_student_has_not(
    kind: str, argv: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_of(argv("--context", kind), monkeypatch)
    trainer.model.train()
    batch = next(iter(trainer.get_train_dataloader()))
    inputs = trainer._prepare_training_batch(batch)
    for row, ids, mask in zip(batch, inputs["teacher_input_ids"], inputs["teacher_attention_mask"], strict=True):
        kept = ids[: -inputs["completion_ids"].size(1)][mask[: -inputs["completion_ids"].size(1)].bool()]
        assert trainer.processing_class.decode(kept) == row["privileged_context"]
    out = trainer._compute_teacher_student_logits(Copies(), Copies(), inputs)
    (_zebra,) = trainer.processing_class.encode(" zebra", add_special_tokens=False)[:1] or [0]
    only = trainer.processing_class.encode("zebra", add_special_tokens=False)
    token = next(id for id in only if not any(id in row for row in inputs["prompt_ids"]))
    first = out.teacher_logits[:, 0].softmax(-1)[:, token], out.student_logits[:, 0].softmax(-1)[:, token]
    assert out.student_logits[:, 0, token].max() == 0
    assert (out.teacher_logits[:, 0, token].min() > 0) == (kind == "transcript")
    if kind == "transcript":
        assert (first[0] > 1000 * first[1]).all()
    else:
        torch.testing.assert_close(out.teacher_logits, out.student_logits)


def test_without_a_context_the_teacher_is_the_student(argv: Callable[..., list[str]], tmp_path: Path) -> None:
    assert opd.main(argv("--context", "none", "--max_steps", "1")) == 0
    (row,) = rows(tmp_path / "out" / "metrics.jsonl")
    assert row["kl"] == pytest.approx(0, abs=1e-5)


# ---------------------------------------------------------------- another teacher


@pytest.fixture(scope="module")
def teacher(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another model with the same tokenizer, more sure of itself."""
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("teacher") / "model"
    shutil.copytree(small_model, folder)
    model = AutoModelForCausalLM.from_pretrained(small_model)
    torch.manual_seed(5)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.05)
    model.save_pretrained(folder)
    return folder


def test_another_model_teaches(argv: Callable[..., list[str]], tmp_path: Path, teacher: Path) -> None:
    flags = ["--teacher", str(teacher), "--max_steps", "6", "--learning_rate", "1e-2"]
    assert opd.main(argv(*flags)) == 0
    metrics, about = rows(tmp_path / "out" / "metrics.jsonl"), manifest(tmp_path / "out")
    assert about["context"]["kind"] == "none"
    assert about["teacher"] == str(teacher)
    assert metrics[-1]["kl"] < metrics[0]["kl"]
    assert metrics[-1]["tokens"] == about["trained_tokens"]


def test_a_teacher_with_another_vocabulary_is_refused(
    argv: Callable[..., list[str]], teacher: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(teacher, other)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(other)
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(other)
    with pytest.raises(UserError, match=r"--teacher .*other: has another vocabulary \(49153 tokens, 49152 outputs\)"):
        opd.main(argv("--teacher", str(other)))
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------- a run goes on


@pytest.mark.parametrize(
    "flags",
    [(), ("--teacher_model_kind", "ema", "--gradient_accumulation_steps", "2"), ("--lora_rank", "4")],
    ids=["base", "ema", "lora"],
)
def test_a_stopped_run_ends_like_an_undisturbed_one(
    flags: tuple[str, ...], argv: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in its second and in its third pass over the questions; the order of a pass is drawn anew."""
    from distill.opd.trainer import Log

    steps = ("--save_strategy", "steps", "--save_steps", "1", "--max_steps", "5", *flags)
    assert opd.main(argv(*steps, out="whole")) == 0
    plain = Log.on_log
    for last in (3, 4):

        def dies(self: Any, args: Any, state: Any, control: Any, last: int = last, **more: Any) -> None:
            plain(self, args, state, control, **more)
            if state.global_step == last:
                raise KeyboardInterrupt

        monkeypatch.setattr(Log, "on_log", dies)
        with pytest.raises(KeyboardInterrupt):
            opd.main(argv(*steps, out="stopped"))
    monkeypatch.setattr(Log, "on_log", plain)
    assert opd.main(argv(*steps, out="stopped")) == 0
    whole, stopped = content(tmp_path / "whole"), content(tmp_path / "stopped")
    assert whole.keys() == stopped.keys()
    for name in whole:
        assert whole[name] == stopped[name], name


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_processes_with_and_without_deepspeed(argv: Callable[..., list[str]], tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment.pop("ACCELERATE_USE_CPU", None)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "distill.opd"]
    losses = []
    for name in ("plain", "zero2", "zero3"):
        words = [word for word in argv("--logging_steps", "1", out=name) if word not in ("--use_cpu", "True")]
        more = [] if name == "plain" else ["--deepspeed", f"configs/deepspeed/{name}.json"]
        command = [*launch, *words, *more]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        losses.append([row["loss"] for row in rows(tmp_path / name / "metrics.jsonl") if "loss" in row])
        one_process = 2 * 2 * 12  # steps x batch x the longest reply
        assert manifest(tmp_path / name)["trained_tokens"] > one_process
    assert len(losses[0]) == 2
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    assert losses[2] == pytest.approx(losses[0], rel=1e-3)


def test_collapse_stops_the_run_and_saves(
    argv: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert opd.main(argv("--stops", "kl=0.000001", "--max_steps", "4")) == 3
    about = manifest(tmp_path / "out")
    assert about["steps"] == 1
    assert about["stopped"][0].startswith("KL ")
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert "alarm: step 1: 100% of the responses are truncated" in capsys.readouterr().out


def test_held_out_accuracy_before_while_and_after(
    argv: Callable[..., list[str]], tmp_path: Path, data_dir: Path
) -> None:
    flags = ["--eval_task", "GSM8K", "--eval_data_dir", str(data_dir), "--eval_samples", "2", "--eval_max_tokens", "4"]
    assert opd.main(argv(*flags, "--max_steps", "3", "--eval_every", "2")) == 0
    dev = rows(tmp_path / "out" / "dev.jsonl")
    assert [(row["step"], row["n"]) for row in dev] == [(0, 2), (2, 2), (3, 2)]
    assert {"accuracy", "se", "unanswered"} <= dev[0].keys()
    assert [row["step"] for row in rows(tmp_path / "out" / "metrics.jsonl")] == [1, 2, 3]


# ---------------------------------------------------------------- what it refuses


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--max_context_tokens", "9000"), r"--max_context_tokens 9000: with .* more than .* 8192"),
        (("--max_completion_length", "8190"), "--max_completion_length 8190: leaves no room"),
        (("--min_correct", "3"), "no question is left to train on that was solved right by 3 agents"),
        (("--per_device_train_batch_size", "8"), "4 questions .* fewer than the 8 of one rollout"),
        (("--context", "debate"), "--context: invalid choice"),
        (("--divergence", "kl"), "--divergence: invalid choice"),
        (("--distillation_alpha", "0.5"), "--distillation_alpha: use --divergence"),
        (("--teacher", "some/model", "--beta", "1.0"), "--beta: use --divergence"),
        (("--teacher", "some/model", "--context", "gold"), "--context gold: another model .* reads the question alone"),
        (("--distillation_mode", "topk_logits"), "--distillation_mode 'topk_logits': cannot be chosen"),
        (("--teacher_model_kind", "ema", "--lora_rank", "4"), "--teacher_model_kind ema: not with --lora_rank"),
        (("--alarms", "length=1"), "--alarms: unknown key 'length'"),
        (("--teacher", "/no/such/folder"), "--teacher /no/such/folder"),
        (("--trajectories", "a", "b"), "--trajectories: 2 files for 1 of --train_data_path"),
        (
            ("--num_iterations", "2", "--save_strategy", "steps", "--save_steps", "3"),
            "--save_steps 3: one rollout makes 2",
        ),
    ],
)
def test_refused_in_one_line(
    flags: tuple[str, ...], message: str, argv: Callable[..., list[str]], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message) as refused:
        opd.main(argv(*flags))
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_unlabelled_files_and_a_trl_without_the_trainer(
    argv: Callable[..., list[str]], labels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    infer = labels.with_name("llm_debate_infer.jsonl")
    with pytest.raises(UserError, match=r"--train_data_path .*: is not labelled"):
        opd.main(argv("--train_data_path", str(infer)))
    import trl.experimental.sdft

    monkeypatch.delattr(trl.experimental.sdft, "SDFTConfig")
    with pytest.raises(UserError, match=r"--teacher: this TRL has no trl.experimental.sdft.SDFTConfig"):
        opd.main(argv())


def test_a_vllm_that_takes_no_new_weights_is_told_in_one_line() -> None:
    with pytest.raises(RunError, match="--use_vllm: this vLLM repacks weights"), training.taking_weights():
        raise AttributeError("'Parameter' object has no attribute 'weight_loader'")
    with pytest.raises(AttributeError, match="other"), training.taking_weights():
        raise AttributeError("other")
