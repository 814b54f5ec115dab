"""Every script against the same table of wrong values: one line that names the flag or file, and exit code 2."""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
import wrong_input_cases as cases
import wrong_values as wrong
from label_cases import debate, write
from report_cases import make
from wrong_input_cases import SCRIPTS, Case, Ended, Script

from distill.grpo.config import GRPOConfig
from distill.opd.flags import OPDFlags
from distill.sft.flags import SFTFlags
from eval.ark import cell as ark_cell
from eval.ark.card import Card
from prm.settings import PRMConfig

ROOT = Path(__file__).parents[1]
MAIN = re.compile(r"^if __name__ == \"__main__\":$", re.M)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, small_model: Path) -> dict[str, str]:
    """Name -> path of a good input of each kind."""
    folder = tmp_path_factory.mktemp("world")
    before = Path.cwd()
    os.chdir(folder)
    try:
        results = make(folder, 4)
    finally:
        os.chdir(before)
    run = results / "GSM8K" / "org" / "base"
    (folder / "small").mkdir()
    (folder / "small" / "llm_debate_infer.jsonl").write_bytes((run / "llm_debate_infer.jsonl").read_bytes())
    (folder / "ratios").mkdir()
    ratio = dict.fromkeys(("name", "unit", "machine", "commit", "date"), "x")
    numbers = dict.fromkeys(("ratio", "baseline", "ours"), 1.0)
    (folder / "ratios" / "x.json").write_text(json.dumps([{**ratio, **numbers}]))
    (folder / "marked.md").write_text("<!-- performance -->\n<!-- end of performance -->\n")
    data = folder / "data"
    (data / "gsm8k_train.jsonl").write_bytes((data / "gsm8k_test.jsonl").read_bytes())
    problem = {"problem": "What is $1 + 1$?", "solution": "It is $2$.", "answer": "2", "subject": "Algebra", "level": 1}
    write(data / "math500_test.jsonl", {**problem, "unique_id": "test/algebra/1.json"})
    benchmarks = folder / "benchmarks"
    write(benchmarks / "processbench_gsm8k.jsonl", {"problem": "1 + 1?", "steps": ["It is 2.", "So 2."], "label": -1})
    process = {"question": "1 + 1?", "modified_process": ["It is 3."], "error_steps": [1], "classification": "x"}
    write(benchmarks / "prmbench.jsonl", process)
    chat = {"prompt": [{"role": "user", "content": "1 + 1?"}], "completion": [{"role": "assistant", "content": "2"}]}
    choice = debate("MMLU/test/0", "B", [["So (B)."]], answer_type="choice", choices=("x", "y"))
    text = debate("HotpotQA/validation/0", "a b", [["Answer: a b"]], answer_type="text")
    program = "```python\ndef f():\n    return 1\n```"
    code = debate("HumanEval/test/0", "x", [[program]], answer_type="code", entry_point="f", tests=("assert f() == 1",))
    places = {
        "model": small_model,
        "prm": _reward_model(small_model, folder / "reward_model"),
        "data": data,
        "results": run / "llm_debate_infer.jsonl",
        "other_results": run / "self_consistency_infer.jsonl",
        "labels": run / "llm_debate_infer_labeled_by_rules.jsonl",
        "graded": run / "vanilla_infer.math_eval.per_sample.jsonl",
        "set": write(folder / "set.jsonl", *({"id": f"q{k}", **chat} for k in range(2))),
        "choices": write(folder / "choices.jsonl", choice),
        "texts": write(folder / "texts.jsonl", text),
        "programs": write(folder / "programs.jsonl", code),
        "benchmarks": benchmarks,
        "small": folder / "small",
        "ratios": folder / "ratios",
        "marked": folder / "marked.md",
        "out": folder / "out",
        "wrong": folder / "wrong",
    }
    judged = {"dataset": "GSM8K", "team": "llm_debate", "file": "a.jsonl", "verdict": "cannot_tell", "words": "few"}
    places["team"] = write(folder / "team.json", {"teams": [judged]})
    systems = dict.fromkeys(("base", "debate", "SFT"), places["graded"])
    cell = ark_cell.make("one", {"held-out": systems}, ark_cell.Roles(best="base", team="debate"), places["team"])
    places["card"] = write(folder / "ark.json", msgspec.to_builtins(Card(cells=[cell])))
    for name, first in (("questions", 0), ("other_questions", 10)):
        rows = [{"id": f"q{k}", "query": f"What is {k} + 1?", "gt": str(k + 1)} for k in range(first, first + 4)]
        places[name] = write(folder / f"{name}.jsonl", *rows)
    for name in ("out", "wrong"):
        (folder / name).mkdir()
    return {name: str(path) for name, path in places.items()}


def _reward_model(base: Path, folder: Path) -> Path:
    """An untrained reward model on top of a base model."""
    from prm import model
    from prm.steps import StepCodec, load_tokenizer

    model.save(model.load(str(base), "--prm"), folder, None, None)
    StepCodec.of(load_tokenizer(str(base), "--prm"), "\n", "step", 512).save(folder)
    return folder


# ---------------------------------------------------------------- what is tried


def tried(script: Script, world: Mapping[str, str]) -> Iterator[Case]:
    """Wrong values for every flag of a script, each with an output folder of its own beside the good run's."""
    for action in cases.parser_of(script, world)._actions:
        if action.dest == "help" or (script.only and action.dest not in script.only):
            continue
        for number, (what, value, refused) in enumerate(_values(script, action, world)):
            fresh = {**world, "out": f"{world['out']}_{action.dest}_{number}"}
            quick = kind_of(script, action) in ("integer", "number", "choice", "text", "output file")
            quick = quick and value != "-inf"  # a number to the parser
            line = _with(script, action, value, fresh)
            yield Case(f"{action.dest}: {what}", line, refused, quick, _names(action, value), Path(fresh["out"]))


def _with(script: Script, action: argparse.Action, value: str, world: Mapping[str, str]) -> list[str]:
    """The good command line with a value of one flag replaced."""
    line = cases.words(script, world)
    if not action.option_strings:
        return [*line[:-1], value]
    return [*line, f"{action.option_strings[0]}={value}"]


def _names(action: argparse.Action, value: str) -> tuple[str, ...]:
    """What a message about a wrong value may call it: the flag, the file, or the key of an override."""
    key, _, last = value.rpartition("=")
    return (f"--{action.dest}", repr(value)[:40], Path(value).name[:60], Path(last).name[:60] or "--", key[:40] or "--")


def kind_of(script: Script, action: argparse.Action) -> str:
    """What a flag takes: one of the kinds, `integer`, `number`, `choice`, `switch`, `text`, or "" for nothing tried."""
    if action.dest in script.kinds:
        return script.kinds[action.dest]
    if action.dest in cases.KINDS:
        return cases.KINDS[action.dest]
    if action.nargs == 0:
        return "switch"
    if action.choices is not None:
        return "choice"
    if action.type is Path:
        return "path"
    try:
        sample = action.type("1") if callable(action.type) else "1"
    except (ValueError, TypeError, argparse.ArgumentTypeError):
        return "text"
    if isinstance(sample, bool | str):
        return "text"
    return "integer" if isinstance(sample, int) else "number" if isinstance(sample, float) else "text"


def _values(script: Script, action: argparse.Action, world: Mapping[str, str]) -> Iterator[tuple[str, str, bool]]:
    """(what is wrong, value, whether it has to be refused)."""
    kind = kind_of(script, action)
    harmless = {"null"} if action.default is None else set()
    if script.stops == cases.TRAINER and action.dest not in OURS and action.dest not in cases.KINDS:
        yield from ((value, value, False) for value in ("x", "-1") if kind in ("integer", "number", "text"))
    elif kind == "integer":
        yield from ((repr(value)[:40], value, value not in harmless) for value in wrong.INTEGERS)
        yield from ((value, value, False) for value in wrong.RANGES)
    elif kind == "number":
        yield from ((repr(value)[:40], value, value not in {"nan", *harmless}) for value in wrong.NUMBERS)
        yield from ((value, value, False) for value in (*wrong.RANGES, "1e999", "-1e999"))
    elif kind == "choice":
        yield from ((repr(value)[:40], value, True) for value in ("", "no_such_choice", "\udcff", wrong.LONG_NAME))
    elif kind == "text":
        yield from ((repr(value)[:40], value, False) for value in ("", "no_such_name", "\udcff", "a/b/c"))
    elif kind == "overrides":
        yield from ((repr(value)[:60], value, True) for value in wrong.OVERRIDES)
    elif kind == "model":
        yield from ((repr(value)[:40], value, True) for value in wrong.NAMES)
        yield from (
            (what, str(path), not any(word in what for word in ("weights of", "manifest", "train_ids", "odd")))
            for what, path in _models(action.dest, world)
        )
    elif kind in FILES:
        yield from FILES[kind](script, action, world)
    elif kind not in ("", "switch"):
        raise AssertionError(f"{script.name} --{action.dest}: say in KINDS what it takes (kind {kind!r})")


OURS = {*SFTFlags.model_fields, *OPDFlags.model_fields, *PRMConfig.model_fields, *GRPOConfig.model_fields}
"""Flags that are not a library's: theirs only must not end in a traceback."""


def _models(flag: str, world: Mapping[str, str]) -> list[tuple[str, Path]]:
    good = "prm" if flag in ("prm", "reward_pretrain") else "model"
    folder = Path(world["wrong"]) / f"models_{good}"
    if not folder.exists():
        folder.mkdir()
        LISTED[folder] = list(wrong.model_folders(Path(world[good]), folder))
    return LISTED[folder]


LISTED: dict[Path, list[tuple[str, Path]]] = {}
"""Folder -> the wrong models that were made in it."""


def _written(contents: Mapping[str, bytes], suffix: str, world: Mapping[str, str]) -> Iterator[tuple[str, str, bool]]:
    folder = Path(world["wrong"]) / f"files_{suffix}_{len(contents)}"
    for number, (what, content) in enumerate(contents.items()):
        file = folder / f"{number}.{suffix}"
        if not file.exists():
            folder.mkdir(exist_ok=True)
            file.write_bytes(content)
        yield what, str(file), True


def _places(world: Mapping[str, str]) -> Iterator[tuple[str, str, bool]]:
    """Paths that are no file."""
    folder = Path(world["wrong"])
    loop = folder / "loop.jsonl"
    if not loop.is_symlink():
        loop.symlink_to(loop)
    yield "no such file", str(folder / "none.jsonl"), True
    yield "a folder", str(folder), True
    yield "below a file", str(Path(world["results"]) / "x.jsonl"), True
    yield "a link to itself", str(loop), True
    fifo = folder / "fifo.jsonl"
    if not fifo.exists():
        os.mkfifo(fifo)
    yield "a FIFO", str(fifo), True
    yield "an endless name", f"{wrong.LONG_NAME}.jsonl", True
    yield "a name that is not UTF-8", "\udcff.jsonl", True


def rows(script: Script, action: argparse.Action, world: Mapping[str, str]) -> Iterator[tuple[str, str, bool]]:
    """Files of JSON lines: broken as a whole, and a good file with one field of its first row changed."""
    yield from _places(world)
    yield from _written(wrong.CONTENTS, "jsonl", world)
    good = _good(script, action, world)
    if good is None:
        return
    folder = Path(world["wrong"]) / f"rows_{good.stem}"
    first, *others = good.read_bytes().splitlines(keepends=True)
    for number, (what, row) in enumerate(wrong.broken(json.loads(first), 2)):
        file = folder / f"{number}.jsonl"
        if not file.exists():
            folder.mkdir(exist_ok=True)
            file.write_bytes(wrong.encoded(row) + b"".join(others))
            for beside in good.parent.glob(f"{good.name}.manifest.json"):
                file.with_name(f"{file.name}.manifest.json").symlink_to(beside)
        yield what, str(file), False


def _good(script: Script, action: argparse.Action, world: Mapping[str, str]) -> Path | None:
    """The good file that the command line gives to this flag."""
    line = cases.words(script, world)
    if not action.option_strings:
        return Path(line[-1])
    flag = action.option_strings[0]
    return Path(line[line.index(flag) + 1]) if flag in line else None


def optional_rows(script: Script, action: argparse.Action, world: Mapping[str, str]) -> Iterator[tuple[str, str, bool]]:
    yield from ((what, path, False) for what, path, _ in rows(script, action, world))


def yaml(script: Script, action: argparse.Action, world: Mapping[str, str]) -> Iterator[tuple[str, str, bool]]:
    """YAML files; an empty one, and one with a comment, are an empty mapping."""
    yield from _places(world)
    for what, path, _ in (*_written(wrong.CONTENTS, "yaml", world), *_written(wrong.YAMLS, "yml", world)):
        yield what, path, what not in ("empty", "blank lines", "only a byte order mark", "an empty object", "null")


def endpoints(script: Script, action: argparse.Action, world: Mapping[str, str]) -> Iterator[tuple[str, str, bool]]:
    yield from yaml(script, action, world)
    yield from ((what, path, what != "an empty object") for what, path, _ in _written(wrong.CONTENTS, "json", world))
    entry = {"model_name": "m", "model_url": "http://127.0.0.1:1/v1"}
    keys = (*entry, "api_key_env", "max_workers", "api_key", "no_such_key")
    entries = [{**entry, key: value} for key in keys for value in wrong.WRONG]
    layouts: list[Any] = [[], [[]], 3, {"model_list": 3}, *entries, *({"model_list": [one]} for one in [{}, *entries])]
    contents = {f"{k}: m = {layout!r}"[:80]: wrong.encoded({"m": layout}) for k, layout in enumerate(layouts)}
    yield from ((what, path, False) for what, path, _ in _written(contents, "json", world))


def data(script: Script, action: argparse.Action, world: Mapping[str, str]) -> Iterator[tuple[str, str, bool]]:
    """Folders of a dataset; those without its file are looked for on the hub."""
    for what, path, refused in _places(world):
        yield what, path, refused
    yield "a file", world["results"], True
    row = {"question": "A bag holds 2 apples.", "answer": "Twice. #### 4"}
    contents = {**wrong.CONTENTS, **{what: wrong.encoded(one) for what, one in wrong.broken(row, 8)}}
    for number, (what, content) in enumerate(contents.items()):
        folder = Path(world["wrong"]) / f"data_{number}"
        if not folder.exists():
            folder.mkdir()
            for split in ("test", "train"):
                (folder / f"gsm8k_{split}.jsonl").write_bytes(content)
        yield what, str(folder), what in wrong.CONTENTS


def benchmarks(script: Script, action: argparse.Action, world: Mapping[str, str]) -> Iterator[tuple[str, str, bool]]:
    yield from _places(world)
    for name in ("processbench_gsm8k", "prmbench"):
        good = (Path(world["benchmarks"]) / f"{name}.jsonl").read_bytes()
        contents = {**wrong.CONTENTS, **{what: wrong.encoded(one) for what, one in wrong.broken(json.loads(good), 5)}}
        contents |= {f"{what}, in a list": b"[" + one.strip() + b"]" for what, one in contents.items()}
        for number, (what, content) in enumerate(contents.items()):
            folder = Path(world["wrong"]) / f"{name}_{number}"
            if not folder.exists():
                folder.mkdir()
                for file in Path(world["benchmarks"]).iterdir():
                    (folder / file.name).symlink_to(file)
                (folder / f"{name}.jsonl").unlink()
                (folder / f"{name}.json").write_bytes(content)
            yield f"{name} {what}", str(folder), what in wrong.CONTENTS


def results(script: Script, action: argparse.Action, world: Mapping[str, str]) -> Iterator[tuple[str, str, bool]]:
    """Folders that are searched for files of ours: what cannot be read is listed, or named."""
    yield "no such folder", str(Path(world["wrong"]) / "none"), True
    yield "a file", world["results"], True
    yield "an endless name", wrong.LONG_NAME, True
    names = (
        "metrics.json",
        "manifest.json",
        "x.card.json",
        "evaluation.json",
        "metrics.jsonl",
        "x_infer.jsonl",
        "ark.json",
    )
    for number, (what, content) in enumerate(wrong.CONTENTS.items()):
        folder = Path(world["wrong"]) / f"results_{number}"
        if not folder.exists():
            folder.mkdir()
            for name in (*names, "ark.json"):
                (folder / name).write_bytes(content)
            (folder / "loop").symlink_to(folder)
            (folder / "loop.jsonl").symlink_to("loop.jsonl")
        yield what, str(folder), False


def output(script: Script, action: argparse.Action, world: Mapping[str, str]) -> Iterator[tuple[str, str, bool]]:
    """Where nothing can be written."""
    yield "below a file", str(Path(world["results"]) / "x" / "y"), True
    yield "an endless name", f"{world['wrong']}/{wrong.LONG_NAME}", True
    yield "a folder of the kernel", "/proc/no/such", True


def output_file(script: Script, action: argparse.Action, world: Mapping[str, str]) -> Iterator[tuple[str, str, bool]]:
    yield from output(script, action, world)
    yield "a folder", world["data"], False


def output_folder(script: Script, action: argparse.Action, world: Mapping[str, str]) -> Iterator[tuple[str, str, bool]]:
    yield from output(script, action, world)
    yield "a file", world["results"], True


def objects(script: Script, action: argparse.Action, world: Mapping[str, str]) -> Iterator[tuple[str, str, bool]]:
    yield from _places(world)
    yield from ((what, path, False) for what, path, _ in _written(wrong.CONTENTS, "json", world))


def sets(script: Script, action: argparse.Action, world: Mapping[str, str]) -> Iterator[tuple[str, str, bool]]:
    """SET/SYSTEM=FILE of study.table."""
    yield from ((repr(value)[:40], value, True) for value in ("", "=", "a", "a=", "a/=b", "/b=c", "a/b/c=d", "\udcff"))
    yield from ((what, f"held-out/base={path}", True) for what, path, _ in _written(wrong.CONTENTS, "jsonl", world))


def marked(script: Script, action: argparse.Action, world: Mapping[str, str]) -> Iterator[tuple[str, str, bool]]:
    yield from _places(world)
    contents = {**wrong.CONTENTS, "no end": b"<!-- performance -->", "an end alone": b"<!-- end of performance -->"}
    yield from _written(contents, "md", world)


FILES: dict[str, Callable[[Script, argparse.Action, Mapping[str, str]], Iterator[tuple[str, str, bool]]]] = {
    "rows": rows, "optional rows": optional_rows, "yaml": yaml, "endpoints": endpoints, "data": data,
    "benchmarks": benchmarks, "results": results, "output file": output_file, "output folder": output_folder,
    "object": objects, "sets": sets, "marked file": marked,
    "folder": lambda script, action, world: (place for place in _places(world) if place[0] != "a folder"),
}  # fmt: skip


# ---------------------------------------------------------------- the tests


def fault(case: Case, ended: Ended) -> str | None:
    """What is wrong with the way a command line ended, if anything. Libraries may have warned before."""
    lines = ended.stderr.strip().splitlines() or [""]
    if ended.code == "traceback" or "Traceback" in ended.stderr:
        return f"traceback: {lines[-1]:.300}"
    if ended.seconds > cases.CPU_SECONDS:
        return f"took {ended.seconds:.0f} s of CPU"
    if case.refused and ended.code != 2:
        return f"ended with {ended.code}"
    if ended.code == 2 and [line for line in lines if line.startswith("error: ")] != lines[-1:]:
        return f"not one line: {lines[-3:]}"
    if ended.code == 2 and case.refused and not any(name in lines[-1] for name in case.names):
        return f"names neither the flag nor the value: {lines[-1]:.200}"
    return None


def _files(folder: Path) -> dict[Path, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")
    return {path.relative_to(folder): path.read_bytes() for path in files}


def faults_of(script: Script, world: Mapping[str, str], most: int | None) -> list[str]:
    """The faults of a script over its table of wrong values.

    Args:
        most: cases tried, spread over the table; None: all.
    """
    world = {**world, "out": f"{world['out']}/{SCRIPTS.index(script)}"}
    earlier = Path(world["out"])
    earlier.mkdir(exist_ok=True)
    if not script.parse_only:
        good = cases.run(script, cases.words(script, world))
        assert good.code in ("taken", 0), good.stderr
    table = list(tried(script, world))
    assert len(table) >= 25 or script.only or script.name in cases.FEW
    step = 1 if most is None else max(1, len(table) // most)
    faults = []
    written = {} if script.engine else _files(earlier)  # a finished run would not start the engine
    for case in table[len(script.key) % step :: step]:
        if written:
            shutil.copytree(earlier, case.out, ignore=shutil.ignore_patterns("*.lock"))
        ended = cases.run(script, case.words, parse_only=script.parse_only and case.quick)
        found = fault(case, ended)
        if found is None and ended.code == 2 and not written.items() <= _files(case.out).items():
            found = "what an earlier command had written has changed"
        if found is not None:
            faults.append(f"{case.what}: {found}")
    return faults


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.key)
def test_a_share_of_the_table(script: Script, world: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    loads_a_model = script.engine or "{prm}" in script.base or script.stops == cases.TRAINER
    assert faults_of(script, world, 4 if loads_a_model else 30) == []


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.key)
def test_the_whole_table(script: Script, world: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert faults_of(script, world, None) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", dict.fromkeys(script.name for script in SCRIPTS))
def test_a_process_ends_with_one_line(name: str, world: dict[str, str]) -> None:
    script = next(script for script in SCRIPTS if script.name == name)
    words = next((case.words for case in tried(script, world) if case.refused), ["--no_such_flag"])
    command = [sys.executable, *([name] if name.endswith(".py") else ["-m", name]), *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert (done.returncode, [line[:7] for line in done.stderr.splitlines()]) == (2, ["error: "]), done.stderr


def test_no_script_is_left_out() -> None:
    listed = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    ours = (name for name in listed.split() if not name.startswith("tests/"))
    files = {name for name in ours if MAIN.search((ROOT / name).read_text(encoding="utf-8"))}

    def file_of(name: str) -> str:
        path = ROOT / (name if name.endswith(".py") else f"{name.replace('.', '/')}.py")
        return str((path if path.is_file() else path.with_suffix("") / "__main__.py").relative_to(ROOT))

    assert {file_of(name) for name in (*(script.name for script in SCRIPTS), *cases.NOT_HERE)} == files
