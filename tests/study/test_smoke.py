"""configs/studies/smoke.yaml for real: killed twice at random moments, continued, and then labelled differently."""

import json
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import psutil
import pytest

from agentark import answers
from agentark.config import ROOT
from agentark.files import manifest_of
from agentark.judge import CHOICES, MASS_FLOOR
from agentark.records import read_records
from agentark.tasks import get_task
from agentark.types import UserError
from study.plan import Plan
from study.recipe import load
from study.tiny_model import batches
from study.tiny_model import main as make_model

SMOKE = ROOT / "configs" / "studies" / "smoke.yaml"
LIMIT = 1500
"""Seconds that all runs may take here; one without a kill takes minutes."""


def started(folder: Path, *overrides: str, until: str = "report") -> "subprocess.Popen[str]":
    model = folder / "small-llama"
    changes = [f"folder={folder}", f"model={model}", f"label.flags.model={model}", *overrides]
    return subprocess.Popen(
        [sys.executable, "-m", "study", "--config", str(SMOKE), "--until", until, "--set", *changes],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: "subprocess.Popen[str]") -> str:
    """Its output, and after a failure that of the step."""
    output, _ = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, output
    return output


def ran(output: str) -> list[str]:
    """The steps that were run."""
    told = re.findall(r"^\[ *\d+/\d+\] (.*?): (not run yet|stale|to be continued)", output, re.M)
    return [name for name, _ in told]


def alone(process: "subprocess.Popen[str]") -> None:
    """kill -9 of the runner: its child lives on."""
    process.kill()


def altogether(process: "subprocess.Popen[str]") -> None:
    """As when the machine goes down."""
    for one in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
        one.kill()


def interrupted(process: "subprocess.Popen[str]", seconds: float, kill: Callable[..., None]) -> None:
    time.sleep(seconds)
    assert process.poll() is None, "it was over before it was killed"
    kill(process)
    process.wait(timeout=30)


@pytest.mark.slow
@pytest.mark.timeout(LIMIT + 300)
def test_the_smoke_study_killed_twice_continued_and_judged_anew(tmp_path: Path) -> None:
    folder = tmp_path / "smoke"
    draw = random.Random(seed := int.from_bytes(os.urandom(4)))
    print(f"moments drawn with seed {seed}")
    for kill in (alone, altogether):
        interrupted(started(folder), draw.uniform(15, 60), kill)
    output = finish(started(folder))
    steps = [one.name for one in Plan(load(SMOKE)).steps]
    state = json.loads((folder / "study.json").read_bytes())["steps"]
    assert list(state) == steps
    assert {one["status"] for one in state.values()} == {"done"}
    assert {one["made"] for one in state.values()} == {1}, "nothing was begun again from nothing"
    assert "to be continued" in output
    assert (folder / "report" / "index.html").is_file()
    table = json.loads((folder / "table.json").read_bytes())["tables"]["held-out"]["rows"]
    assert list(table) == ["base", "debate", "R-SFT", "DA", "PAD", "R-SFT+PAD"]
    assert {one["n"] for one in table.values()} == {20}
    assert all(one["tokens"] > 0 for one in table.values())
    page = (folder / "report" / "index.html").read_text(encoding="utf-8")
    assert all(name in page for name in ("small-llama", "r_sft_pad"))
    assert ran(finish(started(folder))) == []
    judged = ran(finish(started(folder, "label.flags.rounds=last")))
    assert judged == steps[steps.index("label debate") :]
    assert any((folder / "replaced").glob("*_label_debate/debate_labels.jsonl")), "the old labels are kept"


@pytest.mark.slow
def test_an_interrupt_leaves_no_process_behind(tmp_path: Path) -> None:
    process = started(tmp_path / "smoke")
    time.sleep(12)
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=90)
    assert process.returncode == 130
    assert "continue with: python" in output
    assert not [one for one in children if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.slow
@pytest.mark.timeout(LIMIT)
def test_steps_share_a_real_engine_which_ends_with_a_killed_study(tmp_path: Path) -> None:
    folder, flags = tmp_path / "smoke", ["engine={use_vllm: true}", "evaluate.flags.max_tokens=48"]
    process = started(folder, *flags, until="inference")
    debate = folder / "eval" / "held_out" / "debate_infer.jsonl"
    while not (debate.is_file() and debate.read_bytes().count(b"\n") >= 3):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)
    processes = psutil.Process(process.pid).children(recursive=True)
    assert len(processes) >= 3, "the engine, its process with the model, and the step"
    alone(process)
    process.wait()
    _, left = psutil.wait_procs(processes, timeout=30)
    assert not left, "engine and step end by themselves"
    output = finish(started(folder, *flags, until="inference"))
    assert ran(output)[0] == "baselines debate on held-out"
    log = (folder / "logs" / "engine.log").read_text()
    assert log.count("starting vLLM") == 2, "once for three steps, and once for two after the kill"
    for results in (debate, folder / "train" / "debate_infer.jsonl"):
        assert not any(record.error for record in read_records(results))
        sessions = json.loads(manifest_of(results).read_bytes())["sessions"]
        assert {(one["engine"], one["guarantee"]) for one in sessions} == {("vllm", "engine")}
    by_hand = shlex.split(sessions[-1]["command"])
    done = subprocess.run([sys.executable, *by_hand[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "starting" not in done.stderr, "nothing is left to do"


def test_the_small_model_is_made_once_and_in_its_own_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "small"
    assert make_model(["--output", str(folder), "--steps", "12"]) == 0
    loss = float(re.findall(r"loss ([\d.]+)", capsys.readouterr().out)[0])
    assert loss < 10, "an untrained one has 10.8"
    before = (folder / "model.safetensors").read_bytes()
    assert make_model(["--output", str(folder)]) == 0
    assert "is there already" in capsys.readouterr().out
    assert (folder / "model.safetensors").read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["small"]
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match=r"--output .*other: is there, and no model"):
        make_model(["--output", str(tmp_path / "other")])


@pytest.mark.slow
def test_the_small_model_answers_in_form_and_judges(tmp_path: Path) -> None:
    """Enough of it to give every later stage something to work on."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path / "small"
    assert make_model(["--output", str(folder)]) == 0
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    samples = get_task("ChainSum").load("train", None).samples[:32]
    torch.manual_seed(0)
    asked = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": one.prompt}], add_generation_prompt=True, tokenize=False
        )
        for one in samples
    ]
    ids = tokenizer(asked, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False)
    written = model.generate(**ids, do_sample=True, temperature=0.8, top_k=0, max_new_tokens=24, num_return_sequences=5)
    texts = tokenizer.batch_decode(written[:, ids["input_ids"].shape[1] :], skip_special_tokens=True)
    found = [answers.extract(text, "number") for text in texts]
    assert sum(one is not None for one in found) > 0.8 * len(found)
    right = [one is not None and one.value == samples[place // 5].gt for place, one in enumerate(found)]
    assert sum(any(right[start : start + 5]) for start in range(0, len(right), 5)) >= 4, "questions to learn from"
    assert not all(right)
    [rows] = [one for one in islice(batches(samples, random.Random(0)), 20) if one[0].reply in CHOICES][:1]
    for row in rows:
        ids = tokenizer.apply_chat_template(
            row.messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"
        )
        likely = model(**ids).logits[0, -1].softmax(-1)
        assert sum(likely[tokenizer.encode(word)[0]].item() for word in CHOICES) > MASS_FLOOR
