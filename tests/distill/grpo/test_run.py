"""Inputs of a GRPO run: questions from every source, reward models that do not fit, limits, the folder of a run."""

import json
from pathlib import Path
from typing import Any

import pytest
from grpo_cases import settings, sums_file

from agentark.labels import LabelledSolution, LabelRow
from agentark.types import UserError
from distill.grpo import __main__ as grpo
from distill.grpo import questions as grpo_data
from distill.grpo import run as grpo_run
from distill.grpo.config import GRPOConfig
from distill.grpo.questions import fit, local_context, questions, questions_of_prm
from distill.grpo.run import Run, prepare
from prm.steps import StepCodec, load_tokenizer


@pytest.fixture(scope="module")
def prm(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward model with an untrained head, trained (says its manifest) on three of the sums."""
    from prm.model import load, save

    folder = tmp_path_factory.mktemp("prm")
    save(load(str(small_model), "--prm"), folder, None, None)
    StepCodec.of(load_tokenizer(str(small_model), "--prm"), "\n", "step", 1024).save(folder)
    source = sums_file(folder / "labelled.jsonl", 12)
    manifest = {"train_data": {"path": str(source)}, "train_ids": ["sum/1", "sum/2", "sum/3"]}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture
def config(small_model: Path, prm: Path, tmp_path: Path) -> Any:
    def made(**changes: Any) -> GRPOConfig:
        values = {"reward_pretrain": str(prm), "prompt_data": [str(sums_file(tmp_path / "sums.jsonl", 12))]}
        return settings(small_model, tmp_path / "run", **values | changes)

    return made


def test_the_reward_models_own_questions(prm: Path) -> None:
    assert [sample.id for sample in questions_of_prm(prm)] == ["sum/1", "sum/2", "sum/3"]


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        (None, "has no manifest.json"),
        ({"train_ids": []}, "names no training file"),
        ({"train_data": {"path": "gone.jsonl"}}, r"its training file gone\.jsonl is gone"),
        ({"train_data": {"path": "FILE"}, "train_ids": ["other/1"]}, "none of the 12 questions"),
    ],
)
def test_a_reward_model_without_questions(prm: Path, tmp_path: Path, manifest: Any, message: str) -> None:
    if manifest is not None:
        text = json.dumps(manifest).replace("FILE", str(prm / "labelled.jsonl"))
        (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(UserError, match=message):
        questions_of_prm(tmp_path)


def test_questions_from_files_and_tasks(tmp_path: Path, data_dir: Path) -> None:
    solution = LabelledSolution(
        id=1, text="So.\n\n18", is_correct=True, verdict=True, by="rule", p_correct=None, mass=None, rule=True,
        judge=None, agent="0", round=1, answer="18", note=None,
    )  # fmt: skip
    row = LabelRow(
        id="GSM8K/train/0", source="GSM8K", query="How many?", gt="18", answer_type="number", instruction="Box it.",
        solutions=[solution], labels=[True], judge="rules", input="x", token_stats={},
    )  # fmt: skip
    import msgspec

    labelled = tmp_path / "labelled.jsonl"
    labelled.write_bytes(msgspec.json.encode(row) + b"\n")
    published = tmp_path / "published.jsonl"
    published.write_text(
        json.dumps({"query": "Why?", "gt": "because it rains", "answer_type": "text", "solutions": []}) + "\n"
    )
    found = questions([str(labelled), str(published), "GSM8K"], None, str(data_dir), "--prompt_data")
    assert found[0].parts()[-1].text == "\n\nBox it."
    assert (found[1].answer_type, found[1].id[:7]) == ("text", "prompt/")
    assert len(found) == 1 + 1 + 7473 - (found[0].id in {one.id for one in found[2:]}) - 1
    assert all(grpo_data.has_gold(one) for one in found[:5])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.jsonl", "--prompt_data nowhere.jsonl"),
        ("GSM9K", "--prompt_data GSM9K: neither a file nor a task"),
    ],
)
def test_questions_that_are_nowhere(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        questions([name], None, None, "--prompt_data")


def test_a_row_without_a_question(tmp_path: Path) -> None:
    path = tmp_path / "odd.jsonl"
    path.write_text('{"text": "hm"}\n')
    with pytest.raises(UserError, match=r"odd\.jsonl, row 1: no question in it"):
        questions([str(path)], None, None, "--prompt_data")


def test_inputs_are_prepared(config: Any, capsys: pytest.CaptureFixture[str]) -> None:
    inputs = prepare(config())
    assert len(inputs.prompts) == 12
    assert inputs.eos == {2}
    assert inputs.codec is not None
    assert "12 prompts in rollouts of 4\n" in capsys.readouterr().out
    first = inputs.prompts[0]
    assert first.question == first.sample.query
    assert first.text.endswith("<|im_start|>assistant\n")
    assert inputs.tokenizer.encode(first.text, add_special_tokens=False)[-1] != inputs.tokenizer.eos_token_id


def test_held_out_questions_are_not_trained_on(config: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    held = sums_file(tmp_path / "held.jsonl", 3)
    inputs = prepare(config(eval_data=[str(held)]))
    assert [one.sample.id for one in inputs.held_out] == ["sum/0", "sum/1", "sum/2"]
    assert not {one.sample.id for one in inputs.prompts} & {"sum/0", "sum/1", "sum/2"}
    assert "left out 3 questions that are held out" in capsys.readouterr().out


def test_long_prompts_are_dropped_and_counted(config: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = sums_file(tmp_path / "long.jsonl", 6)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[0]["query"] = "1 " * 100 + rows[0]["query"]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    inputs = prepare(config(prompt_data=[str(path)]))
    assert len(inputs.prompts) == 5
    out = capsys.readouterr().out
    assert "dropped 1 of 6 prompts: longer than 64 tokens" in out
    assert "1 of them, drawn anew each episode, do not fill one" in out


def test_the_prompt_limit_yields_to_the_context(config: Any, capsys: pytest.CaptureFixture[str]) -> None:
    inputs = prepare(config(prompt_max_len=8192))
    assert inputs.prompt_limit == 8192 - 8
    assert "above the model's context of 8192 tokens: prompts may have 8184" in capsys.readouterr().out
    assert fit(40960, 2048, 40960)[0] == 38912  # the user's command on Qwen3
    assert fit(40960, 2048, None) == (40960, None)
    with pytest.raises(UserError, match="--generate_max_len 9000: leaves no room"):
        fit(100, 9000, 8192)


def test_a_context_that_is_no_number(tmp_path: Path) -> None:
    for about, length in (({}, None), ({"text_config": {"max_position_embeddings": 9}}, 9), ({"text_config": 3}, None)):
        (tmp_path / "config.json").write_text(json.dumps(about))
        assert local_context(str(tmp_path)) == length
    (tmp_path / "config.json").write_text('{"max_position_embeddings": "many"}')
    with pytest.raises(UserError, match="max_position_embeddings = 'many': must be a number of tokens"):
        local_context(str(tmp_path))


def test_fewer_prompts_than_a_rollout(config: Any) -> None:
    with pytest.raises(UserError, match="--rollout_batch_size 16: only 12 prompts are left"):
        prepare(config(rollout_batch_size=16))


def test_verifiable_rewards_need_gold(config: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "open.jsonl"
    path.write_text("".join(json.dumps({"query": f"Say {n}"}) + "\n" for n in range(5)))
    for mode in ("VR", "PRMVR"):
        with pytest.raises(UserError, match=f"--reward_mode {mode}: none of the 5 questions has a gold answer"):
            prepare(config(prompt_data=[str(path)], reward_mode=mode))
    prepare(config(prompt_data=[str(path)], reward_mode="PRM"))
    assert "warning: 0 of 5 questions can be verified" in capsys.readouterr().out


def test_reward_models_that_do_not_fit(config: Any, small_model: Path, prm: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--reward_pretrain .*: no model there"):
        prepare(config(reward_pretrain=str(tmp_path)))
    with pytest.raises(UserError, match=r"is a LlamaForCausalLM with . labels, not a token classif"):
        prepare(config(reward_pretrain=str(small_model)))
    import shutil

    three = tmp_path / "three"
    shutil.copytree(prm, three)
    about = json.loads((three / "config.json").read_text())
    about["id2label"] = {"0": "a", "1": "b", "2": "c"}
    (three / "config.json").write_text(json.dumps(about))
    with pytest.raises(UserError, match="ForTokenClassification with 3 labels"):
        prepare(config(reward_pretrain=str(three)))
    for value in (3, [3], {"a": 1}, []):
        (three / "config.json").write_text(json.dumps(about | {"architectures": value}))
        with pytest.raises(UserError, match=r"is a (no architecture|3) with 3 labels, not a token classif"):
            prepare(config(reward_pretrain=str(three)))
    whole = tmp_path / "whole"
    shutil.copytree(prm, whole)
    about = json.loads((whole / "prm.json").read_text())
    (whole / "prm.json").write_text(json.dumps(about | {"step_unit": "solution"}))
    with pytest.raises(UserError, match=r"scores whole responses; use --reward_mode ORM"):
        prepare(config(reward_pretrain=str(whole)))
    prepare(config(reward_pretrain=str(whole), reward_mode="ORM"))
    other = tmp_path / "other"
    shutil.copytree(prm, other)
    tokenizer = load_tokenizer(str(other), "--prm")
    tokenizer.add_tokens(["<step>"])
    tokenizer.save_pretrained(other)
    with pytest.raises(UserError, match=r"has another tokenizer \(.*49153 tokens\) than the policy .*49152 tokens"):
        prepare(config(reward_pretrain=str(other)))


def test_a_folder_of_another_run_is_refused(config: Any) -> None:
    def opened(**changes: Any) -> Run:
        run = Run(config(**changes))
        assert not run.open()
        return run

    opened().claim(print)
    assert opened(logging_steps=5).continued  # does not decide what comes out
    with pytest.raises(UserError, match=r"--save_path .*: .*\(temperature was 1.0, now 0.5\); use --overwrite"):
        opened(temperature=0.5)
    opened(temperature=0.5, overwrite=True).claim(print)
    with pytest.raises(UserError, match=r"temperature was 0\.5, now 1\.0"):
        opened()


def test_the_command_from_end_to_end(config: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """What `python -m openrlhf.cli.train_grpo` runs, with a real reward model; twice."""
    made = config(prompt_data=[])
    words = ["--pretrain", made.pretrain, "--reward_pretrain", made.reward_pretrain, "--save_path", made.save_path,
             "--backend", "trl", "--rollout_batch_size", "3", "--micro_rollout_batch_size", "3", "--bf16",
             "--flash_attn", "--n_samples_per_prompt", "4", "--train_batch_size", "12", "--micro_train_batch_size",
             "6", "--generate_max_len", "8", "--prompt_max_len", "64", "--generation", "hf"]  # fmt: skip
    assert grpo.main(words) == 0
    out = capsys.readouterr().out
    for line in (
        "backend: trl (asked for)",
        "3 prompts in rollouts of 3",
        "--bf16: not supported on this machine; training in float32",
        "--flash_attn: needs CUDA; using torch's attention",
        "--zero_stage 2: one process on CPU has nothing to share; DeepSpeed is off",
    ):
        assert line in out
    manifest = json.loads((Path(made.save_path) / "manifest.json").read_text())
    assert manifest["train_ids"] == ["sum/1", "sum/2", "sum/3"]
    assert grpo.main(words) == 0
    assert "already trained with these settings" in capsys.readouterr().out
    assert not Run(config(prompt_data=[], overwrite=True)).open()  # everything in it is known as ours
    assert grpo_run.rows(Path(made.save_path) / "metrics.jsonl")[0]["step"] == 1


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on(config: Any, tmp_path: Path) -> None:
    """kill -9 after the first checkpoint, then the same command."""
    import signal
    import subprocess
    import sys
    import time

    made = config()
    words = [
        sys.executable, "-m", "openrlhf.cli.train_grpo", "--pretrain", made.pretrain, "--reward_pretrain",
        made.reward_pretrain, "--save_path", made.save_path, "--prompt_data", made.prompt_data[0], "--backend", "trl",
        "--rollout_batch_size", "2", "--micro_rollout_batch_size", "2", "--n_samples_per_prompt", "4",
        "--train_batch_size", "8", "--micro_train_batch_size", "8", "--generate_max_len", "16", "--prompt_max_len",
        "64", "--num_episodes", "5", "--save_steps", "2", "--zero_stage", "0",
    ]  # fmt: skip
    root = Path(__file__).parents[3]
    started = subprocess.Popen(words, cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    state = Path(made.save_path) / "checkpoints" / "checkpoint-4" / "trainer_state.json"
    deadline = time.time() + 240
    while not state.is_file() and time.time() < deadline:
        time.sleep(0.2)
    started.send_signal(signal.SIGKILL)
    started.wait()
    assert state.is_file()
    assert not (Path(made.save_path) / "manifest.json").is_file()
    done = subprocess.run(words, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "going on from" in done.stdout
    assert [row["step"] for row in grpo_run.rows(Path(made.save_path) / "metrics.jsonl")] == list(range(1, 31))
    assert (Path(made.save_path) / "model.safetensors").is_file()
