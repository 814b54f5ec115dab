"""Every script on a disk without room: one line that names the file, exit code 1, finished rows whole, nothing left."""

import errno
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import report_cases
from grpo_cases import settings, sums_file
from prm_cases import chains, jsonl, words

from agentark import answers
from agentark.files import append, write_atomically
from agentark.types import RunError

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Results, labels and evaluations to write something from."""
    yield report_cases.make(tmp_path_factory.mktemp("study"))
    answers.close_pool()


def limited(size: int, *command: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    scripted = {"CALLS": "/dev/null", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, str(ROOT / "tests" / "limited.py"), str(size), *map(str, command)],
        cwd=cwd,
        env={**os.environ, **scripted},
        capture_output=True,
        text=True,
        check=False,
    )


def commands(study: Path) -> dict[str, list[object]]:
    """Script -> command line that writes below `out`."""
    debates = next(study.rglob("llm_debate_infer.jsonl"))
    labels = debates.with_name("llm_debate_infer_labeled_by_rules.jsonl")
    grades = sorted(debates.parent.glob("*.metrics.json"))
    data = study.parent / "data"
    given = ["--method_name", "llm_debate", "--test_dataset_name", "GSM8K", "--model_name", "org/model"]
    given += ["--max_samples", "6"]
    table = ["--rows", *(f"a/{path.name[:4]}={path.with_name(path.name.replace('metrics.json', 'per_sample.jsonl'))}"
                         for path in grades[:2])]  # fmt: skip
    return {
        "inference": [ROOT / "tests/scripted_inference.py", *given, "--data_dir", data, "--output_path", "out/a.jsonl"],
        "label": [
            *(ROOT / "label.py", "--input", debates, "--dataset_name", "GSM8K"),
            *("--rules_only", "--output", "out/a.jsonl"),
        ],
        "select": ["distill.select", "--input", labels, "--strategy", "rsft", "--output", "out/a.jsonl"],
        "compare": ["eval.compare", "--a", grades[0], "--b", grades[1], "--output", "out/a.json"],
        "table": ["study.table", *table, "--output", "out/table"],
        "report": ["eval.report", "--results", study, "--output", "out"],
    }


@pytest.mark.parametrize("size", [0, 40, 900, 2500, 30_000])
@pytest.mark.parametrize("script", ["inference", "label", "select", "compare", "table", "report"])
def test_a_full_disk_is_one_line(study: Path, tmp_path: Path, script: str, size: int) -> None:
    command = commands(study)[script]
    done = limited(size, *command, cwd=tmp_path)
    assert "Traceback" not in done.stderr, done.stderr
    if done.returncode != 0:
        assert done.returncode == 1, done.stderr
        errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1, done.stderr
        assert re.fullmatch(
            r"error: (/\S+/)?out/\S+: no space to write it \((File too large|No space left on device)\)", errors[0]
        )
    else:
        assert size >= 900
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in left if path.name.endswith((".tmp", ".lock"))]
    for path in left:
        if path.suffix == ".jsonl":
            assert all(json.loads(line) for line in path.read_bytes().splitlines()), "every row is whole"
    again = limited(1 << 30, *command, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    plain = tmp_path / "plain"
    plain.mkdir()
    assert limited(1 << 30, *command, cwd=plain).returncode == again.returncode

    assert contents(tmp_path / "out").keys() == contents(plain / "out").keys()
    if script in ("label", "select", "table"):
        same = {name: text for name, text in contents(tmp_path / "out").items() if name.endswith(".jsonl")}
        assert same == {name: text for name, text in contents(plain / "out").items() if name.endswith(".jsonl")}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def training(script: str, model: Path, folder: Path) -> list[object]:
    """A short training that saves a checkpoint."""
    if script == "sft":
        rows = [
            {"id": f"T/{k}", "source": "T", "prompt": [{"role": "user", "content": f"What is {k} + 1?"}],
             "completion": [{"role": "assistant", "content": f"It is {k + 1}."}]}
            for k in range(4)
        ]  # fmt: skip
        data = jsonl(folder / "train.jsonl", rows)
        return [
            *("distill.sft", "--model_name_or_path", model, "--train_data_path", data, "--output_dir", "out"),
            *("--max_steps", "2", "--save_steps", "1", "--per_device_train_batch_size", "2", "--disable_tqdm", "true"),
        ]
    if script == "prm":
        return [
            *(
                ROOT / "prm/finetune2.py",
                "--model_name_or_path",
                model,
                "--train_data_path",
                chains(folder / "chains.jsonl"),
            ),
            *("--output_dir", "out", "--max_steps", "2", "--save_steps", "1", "--per_device_train_batch_size", "4"),
            *("--fix_llm", "True", "--disable_tqdm", "True"),
        ]
    config = settings(model, Path("out"), prompt_data=[str(sums_file(folder / "sums.jsonl", 8))], reward_mode="VR")
    given = config.model_dump(exclude_unset=True, exclude={"reward_pretrain", "stops"})
    return ["openrlhf.cli.train_grpo", *words(given), "--stops", "kl=null", "length_drop=null", "--backend", "trl"]


@pytest.mark.parametrize("size", [200_000])
@pytest.mark.parametrize("script", ["sft", "prm", "grpo"])
def test_a_full_disk_stops_a_training_that_goes_on_later(
    small_model: Path, tmp_path: Path, script: str, size: int
) -> None:
    command = training(script, small_model, tmp_path)
    done = limited(size, *command, cwd=tmp_path)
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == 1, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    assert re.search(r"^error: \S*out\S*: no space to write it", errors[0])
    assert not [*tmp_path.rglob("*.tmp")]
    again = limited(1 << 40, *command, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_standard_output_on_a_full_disk(study: Path, tmp_path: Path) -> None:
    results = next(study.rglob("llm_debate_infer.jsonl"))
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "agentark.summary", str(results)],
            cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.splitlines()[0] == "error: output: no space to write it (No space left on device)"
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


@pytest.mark.parametrize("kind", ["ENOSPC", "EDQUOT", "EFBIG", "EIO"])
@pytest.mark.parametrize("call", ["fsync", "write"])
def test_no_half_of_a_file_or_line_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, call: str) -> None:
    code = getattr(errno, kind)
    path = tmp_path / "a.json"
    write_atomically(path, b"old")
    append(tmp_path / "b.jsonl", b"{}\n")

    def fail(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as broken:
        broken.setattr(os, call, fail)
        if call == "fsync":
            with pytest.raises(RunError, match=re.escape(f"{path}: ")):
                write_atomically(path, b"new")
        else:
            with pytest.raises(RunError, match=r"b\.jsonl: "):
                append(tmp_path / "b.jsonl", b"{}\n")
    assert path.read_bytes() == b"old"
    assert (tmp_path / "b.jsonl").read_bytes() == b"{}\n"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.json", "b.jsonl"]


def test_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    (tmp_path / f".a.json.{process.pid}.tmp").write_text("half")
    (tmp_path / f".a.json.{os.getppid()}.tmp").write_text("being written")
    (tmp_path / ".a.json.mine.tmp").write_text("of the user")
    write_atomically(tmp_path / "a.json", b"new")
    left = sorted(file.name for file in tmp_path.iterdir())
    assert left == sorted([f".a.json.{os.getppid()}.tmp", ".a.json.mine.tmp", "a.json"])
