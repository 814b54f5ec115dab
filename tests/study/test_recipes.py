"""The checked-in studies: each script accepts its commands of every recipe, and the commands have the right flags."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from script_parsers import parsed

from agentark import config
from agentark.config import ROOT
from agentark.systems import parse_rows
from agentark.tasks import get_task
from agentark.types import UserError
from methods import load_method
from study import __main__ as pipeline
from study.plan import Plan, PlannedStep
from study.recipe import Study, load

RECIPES = sorted((ROOT / "configs" / "studies").glob("*.yaml"))
SMOKE = ROOT / "configs" / "studies" / "smoke.yaml"
SBATCH = ROOT / "configs" / "slurm" / "study.sbatch"
ROWS = ["base", "debate", "R-SFT", "DA", "PAD", "R-SFT+PAD"]


SCRIPTS = {
    *("inference.py", "label.py", "prm/finetune2.py", "distill.select", "distill.sft", "study.tiny_model", "study.lab"),
    "distill.opd",
    *("study.table", "openrlhf.cli.train_grpo", "prm.score", "prm.evaluate", "eval.math_eval"),
    *("eval.choice_eval", "eval.short_answer_eval", "eval.report", "eval.team", "eval.ark", "eval.recovery"),
}  # fmt: skip


def script_and_flags(line: str) -> tuple[str, list[str]]:
    """Of a line for the shell; what stands before the script starts it."""
    words = shlex.split(line)
    place = next(at for at, word in enumerate(words) if word in SCRIPTS)
    return words[place], words[place + 1 :]


@pytest.fixture(scope="module", params=RECIPES, ids=lambda file: file.stem)
def recipe(request: pytest.FixtureRequest) -> Path:
    path = request.param
    assert isinstance(path, Path)
    return path


def printed(recipe: Path, folder: Path, capsys: pytest.CaptureFixture[str], *changes: str) -> list[str]:
    """The commands of a dry run."""
    argv = ["--config", str(recipe), "--set", f"folder={folder}", *changes, "--dry_run"]
    assert pipeline.main(argv) == 0
    return [line for line in capsys.readouterr().out.splitlines() if not line.startswith("# ")]


def test_every_command_parses_in_its_script(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    lines = printed(recipe, tmp_path, capsys)
    steps = Plan(load(recipe, [f"folder={tmp_path}"])).steps
    assert len(lines) == len(steps) == len({one.name for one in steps})
    scripts = set()
    for line in lines:
        script, flags = script_and_flags(line)
        scripts.add(script)
        if "--deepspeed" in flags:
            continue  # below
        try:
            parsed(script, flags)
        except UserError as error:
            raise AssertionError(f"{script} refuses {line}: {error}") from error
    assert {"inference.py", "label.py", "study.table", "eval.report"} <= scripts


def test_commands_with_deepspeed_parse_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In a process of their own: their settings open a process group."""
    lines = [one for file in RECIPES for one in printed(file, tmp_path, capsys) if "--deepspeed" in one]
    parsing = "import json, sys, test_recipes as t\n"
    parsing += "for line in json.load(sys.stdin):\n    script, flags = t.script_and_flags(line)\n"
    parsing += "    print(bool(t.parsed(script, flags)))"
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", parsing],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{here.parent}:{here}"},
        input=json.dumps(lines),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-len(lines) :] == ["True"] * len(lines)
    assert {script_and_flags(one)[0] for one in lines} == {"distill.sft", "prm/finetune2.py"}


def test_a_flag_that_a_script_does_not_know_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The test above can fail: for scripts that are parsed by themselves and inside their main."""
    for change, module in (("label.flags.round", "label.py"), ("evaluate.flags.max_token", "eval.math_eval")):
        lines = [script_and_flags(one) for one in printed(SMOKE, tmp_path, capsys, f"{change}=5")]
        with pytest.raises(UserError, match="unknown argument"):
            [parsed(script, flags) for script, flags in lines if script == module]


def test_names_in_a_recipe_mean_something(recipe: Path) -> None:
    study = load(recipe)
    for questions in (study.train, *study.tests.values()):
        task = get_task(questions.dataset)
        options = config.parse_overrides(questions.task_config, "task_config")
        config.build(task.options, options, "task_config")
        assert (questions.split or task.eval_split) in task.splits
    assert study.train.split == "train"
    assert not any("train" in (one.split or "") for one in study.tests.values())
    for teacher in study.teachers.values():
        flags = study.inference.flags | teacher.flags
        overrides = flags.get("method_config", [])
        assert isinstance(overrides, list)
        load_method(teacher.method, flags.get("method_config_name"), overrides)  # type: ignore[arg-type]
    for path in [*study.grpo.flags.values(), *study.sft.flags.values()]:
        if isinstance(path, str) and path.startswith("configs/"):
            assert (ROOT / path).is_file()


def test_steps_come_after_what_they_read(recipe: Path) -> None:
    seen: set[str] = set()
    outputs: set[str] = set()
    for step in Plan(load(recipe)).steps:
        assert set(step.after) <= seen, step.name
        assert not outputs & set(step.outputs), step.name
        seen.add(step.name)
        outputs |= set(step.outputs)


def steps_of(name: str, *overrides: str) -> dict[str, PlannedStep]:
    study = load(ROOT / "configs" / "studies" / f"{name}.yaml", overrides)
    return {one.name: one for one in Plan(study).steps}


def test_the_chain_of_the_smoke_recipe() -> None:
    steps = steps_of("smoke")
    assert list(steps) == [
        "model",
        "baselines base on held-out",
        "baselines debate on held-out",
        "baselines debate on held-out, graded",
        "inference debate",
        "label debate",
        *("select R-SFT", "select DA", "sft R-SFT", "sft DA", "prm prm", "grpo PAD", "grpo R-SFT+PAD"),
        *(f"evaluate {one} on held-out" for one in ROWS[2:]),
        "table",
        "report",
    ]
    after = {name: set(one.after) for name, one in steps.items()}
    assert after["select DA"] == {"label debate", "inference debate", "baselines base on held-out"}
    assert after["grpo R-SFT+PAD"] == {"sft R-SFT", "prm prm", "label debate"}
    assert after["evaluate PAD on held-out"] == {"grpo PAD"}
    assert "label debate" not in after["evaluate DA on held-out"] | after["sft DA"]
    assert len(after["report"]) == len(steps) - 1
    rows = parse_rows(steps["table"].flags["--rows"])
    assert list(rows["held-out"]) == ROWS
    judged = steps["label debate"]
    assert judged.flags["--no_use_vllm"] == []
    assert {"configs/judge/default.yaml", "outputs/smoke/small-llama"} < set(judged.inputs)


def test_the_judge_can_run_in_transformers_where_vllm_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    import label

    monkeypatch.setattr(label, "find_spec", lambda name: name)
    monkeypatch.setattr(label, "choose_engine", lambda args, *_: args.use_vllm)
    words = ["--input", "x", "--dataset_name", "GSM8K", "--model", "org/judge"]
    found = [label.choose_judge(label.parse([*words, *more])) for more in ([], ["--use_vllm"], ["--no_use_vllm"])]
    assert found == [True, True, False]


DISTIL = {
    "sums": ["base", "debate", "vote", *ROWS[2:]],
    "embedded": ["base", "vote", "R-SFT", "from debate", "from samples"],
    "embedded_small": ["base", "R-SFT"],
}


def make_distill(*variables: str) -> list[str]:
    """The words after `python` that `make distill` would run."""
    made = subprocess.run(
        ["make", "--no-print-directory", "-n", "-o", ".venv/.agentark-stack", "distill", *variables],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    words = shlex.split(made.stdout.strip().splitlines()[-1])
    assert words[:3] == [".venv/bin/python", "-m", "study"]
    return words[3:]


@pytest.mark.parametrize("folder", [None, "../shared/data", "/some where/else"])
def test_make_distill_takes_svamp_from_a_folder(folder: str | None) -> None:
    args = pipeline.parse(make_distill(*[f"DATA_DIR={folder}"] * bool(folder)))
    study = load(ROOT / args.config, args.set)
    train, test = study.train, study.tests["held-out"]
    if folder is None:
        assert (study, args.set) == (load(ROOT / "configs" / "studies" / "embedded.yaml"), [])
        return
    assert (train.max_samples, test.max_samples, study.folder) == (100, 300, "outputs/svamp")
    for questions, part in ((train, "train"), (test, "test")):
        assert (questions.dataset, questions.split, questions.data_dir) == ("SVAMP", "test", folder)
        assert questions.task_config == [f"part={part}"]


@pytest.mark.parametrize(("recipe", "systems"), DISTIL.items())
def test_a_study_on_two_cores_measures_every_system_on_the_same_questions(recipe: str, systems: list[str]) -> None:
    steps = steps_of(recipe)
    rows = parse_rows(steps["table"].flags["--rows"])
    assert {name: list(of) for name, of in rows.items()} == {"held-out": systems}
    asked = [one for one in steps.values() if one.stage in ("baselines", "evaluate") and "--split" in one.flags]
    assert len(asked) == len(systems)
    for flag in ("--split", "--max_samples", "--task_config", "--seed"):
        assert len({tuple(one.flags[flag]) for one in asked}) == 1, flag
    assert all("--use_vllm" in one.flags for one in asked)


def test_the_paper_s_values_reach_the_commands() -> None:
    from distill.grpo.cli import read
    from prm.settings import TWO_STAGE, stage_settings

    steps = steps_of("gsm8k_qwen3_0.6b")
    debate = steps["inference debate"].flags
    assert debate["--model_name"] == ["Qwen/Qwen3-8B"]
    _, info = load_method("llm_debate", *debate["--method_config_name"])
    assert [info.config[key] for key in ("num_agents", "num_rounds", "early_stop")] == [5, 3, True]
    policy = read(steps["grpo PAD"].command[2:])
    assert (policy.advantage_estimator, policy.reward_baseline, policy.reward_mode) == ("rloo", "token", "PRMVR")
    assert (policy.init_kl_coef, policy.actor_learning_rate, policy.temperature) == (0.001, 5e-7, 0.5)
    assert (policy.generate_max_len, policy.n_samples_per_prompt) == (2048, 8)
    assert (policy.pretrain, policy.prompt_data) == ("Qwen/Qwen3-0.6B", steps["label debate"].outputs)
    assert steps["prm prm"].flags["--stage"] == ["both"]
    one, two = (stage_settings(TWO_STAGE, stage, []) for stage in (1, 2))
    assert (one.learning_rate, one.num_train_epochs, two.learning_rate, two.num_train_epochs) == (1e-4, 3, 1e-6, 1)
    assert steps["select R-SFT"].flags["--min_correct"] == ["2"]


def test_what_the_other_recipes_change() -> None:
    agents = {name: steps_of(f"agents_{name}")["inference debate"].flags for name in ("10", "20")}
    assert {name: flags["--method_config"] for name, flags in agents.items()} == {
        "10": ["num_agents=10"],
        "20": ["num_agents=20"],
    }
    assert agents["20"]["--method_config_name"] == ["config_paper"]
    sizes = steps_of("prm_size")
    bases = [sizes[name].flags["--model_name_or_path"] for name in sizes if name.startswith("prm ") and "," not in name]
    assert bases == [["Qwen/Qwen3-0.6B"], ["Qwen/Qwen3-1.7B"], ["Qwen/Qwen3-8B"]]
    assert not any(one.stage == "sft" for one in sizes.values())
    paper = steps_of("paper_qwen3_8b")
    assert paper["label debate"].flags["--model"] == ["Qwen/Qwen2.5-72B-Instruct"]
    assert paper["sft DA"].command[:2] == ["-m", "torch.distributed.run"]
    metamath = steps_of("metamath_da_qwen3_0.6b")
    assert [one.name for one in metamath.values() if one.stage in ("sft", "prm", "grpo")] == ["sft DA"]
    assert metamath["inference debate"].flags["--test_dataset_name"] == ["MetaMathQA"]


def test_another_test_set_trains_nothing_again() -> None:
    """truthfulqa_robustness.yaml shares its folder with the recipe that it extends."""
    before, after = steps_of("gsm8k_qwen3_0.6b"), steps_of("truthfulqa_robustness")
    for name, step in before.items():
        if step.stage not in ("table", "ark", "report"):
            assert after[name] == step
    more = after.keys() - before.keys()
    assert {name.rpartition(" on ")[2] for name in more} == {"TruthfulQA", "TruthfulQA, graded"}


def test_a_student_taught_on_its_own_samples_needs_no_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change = ["students.OPD={opd: {context: solution, max_steps: 3}}", "policies=null", "prms=null"]
    change += ["students.R-SFT=null", "students.DA=null"]
    steps = {step.name: step for step in Plan(load(SMOKE, change)).steps}
    assert not any(step.stage in ("select", "sft") for step in steps.values())
    opd = steps["opd OPD"]
    assert set(opd.after) == {"model", "label debate", "inference debate", "baselines base on held-out"}
    assert steps["evaluate OPD on held-out"].sources["outputs/smoke/students/opd"] == "opd OPD"
    assert "outputs/smoke/sets" not in steps["report"].flags["--results"]
    lines = [script_and_flags(one) for one in printed(SMOKE, tmp_path, capsys, *change)]
    (made,) = [parsed(script, flags) for script, flags in lines if script == "distill.opd"]
    assert (made[0].context, made[1].max_steps) == ("solution", 3)
    assert made[0].train_data_path == [str(tmp_path / "train" / "debate_labels.jsonl")]


# ---------------------------------------------------------------- the file format


def test_recipes_extend_each_other(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        f"extends: {SMOKE}\nseed: 3\nstudents: {{DA: null}}\nsft: {{flags: {{max_steps: 9}}}}"
    )
    study = load(tmp_path / "a.yaml", ["policies.PAD=null", "label.flags.rounds=null"])
    assert isinstance(study, Study)
    assert (study.seed, list(study.students), list(study.policies)) == (3, ["R-SFT"], ["R-SFT+PAD"])
    assert study.sft.flags["max_steps"] == 9
    assert study.sft.flags["logging_steps"] == 1
    assert "rounds" not in study.label.flags
    (tmp_path / "b.yaml").write_text("extends: c.yaml")
    (tmp_path / "c.yaml").write_text("extends: b.yaml")
    with pytest.raises(UserError, match=r"b\.yaml: extends itself, by way of .*c\.yaml"):
        load(tmp_path / "b.yaml")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sed: 1", r"a\.yaml: unknown key 'sed' \(known: .*did you mean seed\?\)"),
        ("students: {X: {selekt: {}}}", r"unknown key 'students\.X\.selekt' .*did you mean select\?"),
        ("seed: 1", r"a\.yaml: folder = .*: Field required"),
        (f"extends: {RECIPES[-1]}\nprms: {{a: {{flags: {{x: {{y: 1}}}}}}}}", r"a\.yaml: prms\.a\.flags\.x"),
        ("extends: 3", r"a\.yaml: extends = 3: expected the name of a recipe"),
        ("extends: none.yaml", r"none\.yaml: cannot be read"),
    ],
)
def test_mistakes_in_a_recipe(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(UserError, match=expected) as raised:
        load(tmp_path / "a.yaml")
    assert "\n" not in str(raised.value)


def test_switches_and_lists_become_words() -> None:
    changes = ["evaluate.flags={a: true, b: false, c: 1.0e-5, d: [1, x]}", "sft.flags={e: false, f: true}"]
    steps = steps_of("smoke", *changes)
    flags = steps["evaluate DA on held-out"].flags
    assert {name: flags.get(f"--{name}") for name in "abcd"} == {"a": [], "b": None, "c": ["1e-05"], "d": ["1", "x"]}
    assert [steps["sft DA"].flags[f"--{name}"] for name in "ef"] == [["False"], []]


# ---------------------------------------------------------------- Slurm


@pytest.mark.parametrize("ended", ["done", "late", "late and gone before the trap returns"])
def test_the_slurm_job_runs_a_recipe_and_is_put_back_when_its_time_is_up(tmp_path: Path, ended: str) -> None:
    told = tmp_path / "told"
    late = ended != "done"
    scripts = {
        "python": f'#!/bin/bash\ntrap "exit 130" TERM\necho "$@" >> {told}\nsleep {20 * late} & wait $!\n',
        "scontrol": f'#!/bin/bash\necho scontrol "$@" >> {told}\n',
        "slow_kill": 'kill() { builtin kill "$@" && [[ $1 != -TERM ]] || return; sleep 0.5; }\n',
    }
    for name, text in scripts.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "PYTHON": str(tmp_path / "python"),
        "SLURM_JOB_ID": "7",
        "SLURM_SUBMIT_DIR": str(ROOT),
    }
    if "gone" in ended:
        environment["BASH_ENV"] = str(tmp_path / "slow_kill")
    process = subprocess.Popen(["bash", str(SBATCH), "r.yaml", "--until", "label"], env=environment, cwd=tmp_path)
    if late:
        while not told.exists():
            time.sleep(0.05)
        time.sleep(0.3)
        process.send_signal(signal.SIGUSR1)
    assert process.wait(30) == (130 if late else 0)
    lines = ["-m study --config r.yaml --until label", *["scontrol requeue 7"] * late]
    assert told.read_text().splitlines() == lines


def test_the_slurm_job_wants_a_recipe_and_slurm(tmp_path: Path) -> None:
    for words, expected in ((["r.yaml"], "use sbatch"), ([], "usage: study.sbatch RECIPE")):
        done = subprocess.run(
            ["bash", str(SBATCH), *words],
            env={"PATH": os.environ["PATH"]},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode != 0
        assert expected in done.stderr


def test_students_of_several_sources_are_matched_and_contrasted(tmp_path: Path) -> None:
    recipe = ROOT / "configs" / "studies" / "interaction.yaml"
    plan = Plan(load(recipe, [f"folder={tmp_path}"]))
    steps = {step.name: step for step in plan.steps}
    chosen = steps["select from debate"]
    assert chosen.flags["--match"] == [f"{tmp_path}/sets/all_of_{name}.jsonl" for name in ("independent", "unrelated")]
    assert {"select all of independent", "select all of unrelated"} <= set(chosen.after)
    assert "sft from debate" in steps
    assert "sft all of debate" not in steps
    assert plan.rows == ["base", "debate", "independent", "unrelated", *(f"from {name}" for name in plan.teachers)]
    assert steps["table"].flags["--contrast"] == [
        "debate, not asking again=from debate/from independent",
        "peers on this question=from debate/from unrelated",
    ]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("students.all of debate.match=[from debate]", "students.all of debate.match: no 'from debate'"),
        ("contrasts.x=[from debate, all of debate]", "contrasts.x: no 'all of debate'"),
        ("contrasts.x=[from debate]", "contrasts.x"),
        ("policies.p={start: all of debate}", "policies.p.start: no 'all of debate'"),
    ],
)
def test_what_is_not_trained_is_no_system(change: str, expected: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=expected):
        Plan(load(ROOT / "configs" / "studies" / "interaction.yaml", [f"folder={tmp_path}", change]))
