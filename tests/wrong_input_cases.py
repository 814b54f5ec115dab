"""Every script with a good command line, what kind of input each of its flags takes, and how one is run."""

import argparse
import contextlib
import inspect
import io
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import psutil
from script_parsers import module_of

from agentark import answers, cli
from agentark.engines import choose

SECONDS = 30.0
"""After which a command line is ended."""
MEMORY = 3 << 30
"""Bytes of addresses that a command line may take beside those in use."""
CPU_SECONDS = 5.0
"""Most that a wrong value may cost."""
KINDS: Mapping[str, str] = {
    **dict.fromkeys(("input", "input_file", "trajectories", "contamination", "files", "a", "b"), "rows"),
    **dict.fromkeys(("records", "fit", "validate", "train_data_path", "prompt_data", "labelled", "match"), "rows"),
    **dict.fromkeys(("eval_data_path", "eval_data"), "optional rows"),
    **dict.fromkeys(("model_api_config",), "endpoints"),
    **dict.fromkeys(("config", "rubric", "two_stage_config", "hardware", "team"), "yaml"),
    **dict.fromkeys(("lora_path", "prm", "model_name", "model_name_or_path", "pretrain", "reward_pretrain"), "model"),
    **dict.fromkeys(("model", "judge_model", "distiller"), "model"),
    **dict.fromkeys(("data_dir", "eval_data_dir"), "data"),
    **dict.fromkeys(("output", "output_path", "json"), "output file"),
    **dict.fromkeys(("output_dir", "result_dir", "save_path", "ckpt_path", "features_dir"), "output folder"),
    **dict.fromkeys(("task_config", "eval_config", "method_config", "set", "alarms", "stops"), "overrides"),
    **dict.fromkeys(("stage_1", "stage_2"), "overrides"),
    "study": "object",
    "results": "results",
    "folder": "results",
    "into": "marked file",
    "rows": "sets",
    "pool": "sets",
}
"""Name of a flag -> what it takes."""


class Taken(BaseException):
    """All input was taken; what would follow is not run."""


class Late(BaseException):
    """The time is over."""


def taken(*_: Any, **__: Any) -> Any:
    raise Taken


@dataclass(frozen=True)
class Script:
    """A script, and a command line that it takes."""

    name: str
    """As `python` is told: a path, or a module for -m."""
    base: str
    """Words; {name} is a path of the world."""
    stops: Sequence[str] = ()
    """module:attribute that stand for the work, and are not run."""
    only: Sequence[str] = ()
    """Only these flags are tried in this command line; default: all."""
    kinds: Mapping[str, str] = field(default_factory=dict)
    """Where a flag takes something else than `KINDS` says; "" is left out."""
    parse_only: bool = False
    """Numbers are only parsed: with them, the script would work for minutes."""
    engine: bool = False
    """Whether the chosen engine starts, instead of standing for the work."""

    @property
    def key(self) -> str:
        return f"{self.name}:{','.join(self.only)}" if self.only else self.name


GRADED = {**dict.fromkeys(("model_name_or_path", "task_config", "output_dir"), ""), "data_dir": "folder"}
"""Flags of an evaluation's run that are not looked at where a file is graded."""
TEAM_RUNS = ("dataset_name", "methods", "parallel_num", "max_samples")
TRAINER = ("transformers:Trainer.train",)
ASKED = "--data_dir {data} --max_samples 2"
SCRIPTS = (
    Script("inference.py", f"--method_name llm_debate --test_dataset_name GSM8K --model_name {{model}} {ASKED} "
           "--result_dir {out}", kinds={"model_name": ""}),
    Script("inference.py", f"--method_name mav --test_dataset_name GSM8K --model_name {{model}} {ASKED} "
           "--output_path {out}/mav.jsonl", only=("verifier_models", "method_config", "output_path")),
    Script("inference.py", f"--method_name cot --test_dataset_name GSM8K --model_name {{model}} {ASKED} "
           "--output_path {out}/cot.jsonl --debug --model_max_tokens 1", only=("query", "model_name"),
           engine=True),
    Script("agentark.gateway", f"--output {{out}}/team.jsonl --dataset_name GSM8K --model_name {{model}} {ASKED}",
           kinds={"model_name": "", "lora_path": ""}),
    Script("label.py", "--input {results} --dataset_name GSM8K --rules_only --output {out}/labels.jsonl",
           kinds={"model": ""}),
    Script("label.py", "--input {results} --dataset_name GSM8K --model {model} --no_use_vllm --output {out}/l.jsonl",
           only=("model", "lora_path"), engine=True),
    Script("distill.select", "--input {labels} --strategy rsft --output {out}/set.jsonl --overwrite",
           kinds=dict.fromkeys(("distiller", "push_to_hub"), "")),
    Script("distill.sft", "--model_name_or_path {model} --train_data_path {set} --output_dir {out}/sft --use_cpu True "
           "--max_steps 1", stops=TRAINER, kinds={"eval_data_dir": "", "eval_config": ""}, parse_only=True),
    Script("distill.sft", "--model_name_or_path {model} --train_data_path {set} --output_dir {out}/sft_eval "
           "--use_cpu True --max_steps 1 --eval_task GSM8K --eval_data_dir {data}", stops=TRAINER,
           only=("eval_data_dir", "eval_config", "eval_split", "eval_samples"), parse_only=True),
    Script("distill.opd", "--model_name_or_path {model} --train_data_path {labels} --output_dir {out}/opd --use_cpu "
           "True --max_steps 1 --per_device_train_batch_size 1", stops=TRAINER, parse_only=True,
           kinds={"eval_data_dir": "", "eval_config": "", "chat_template": "text"}),
    Script("distill.opd", "--model_name_or_path {model} --train_data_path {labels} --output_dir {out}/opd_other "
           "--use_cpu True --max_steps 1 --per_device_train_batch_size 1 --teacher {model}", stops=TRAINER,
           only=("teacher", "model_name_or_path"), parse_only=True, kinds={"teacher": "model"}),
    Script("openrlhf.cli.train_grpo", "--backend trl --pretrain {model} --reward_mode VR --prompt_data {questions} "
           "--eval_data {other_questions} --save_path {out}/grpo --n_samples_per_prompt 4 --rollout_batch_size 1 "
           "--micro_rollout_batch_size 1 --train_batch_size 4 --micro_train_batch_size 4", stops=TRAINER,
           kinds={"reward_pretrain": "", "data_dir": ""}, parse_only=True),
    Script("openrlhf.cli.train_grpo", "--backend trl --pretrain {model} --reward_mode PRM "
           "--reward_pretrain {prm} "
           "--prompt_data GSM8K --data_dir {data} --prompt_split test --save_path {out}/grpo_prm "
           "--n_samples_per_prompt 4 --rollout_batch_size 1 --micro_rollout_batch_size 1 --train_batch_size 4 "
           "--micro_train_batch_size 4",
           stops=TRAINER, only=("reward_pretrain", "data_dir", "prompt_split"), parse_only=True),
    Script("prm/finetune2.py", "--model_name_or_path {model} --train_data_path {labels} --output_dir {out}/prm "
           "--use_cpu True --max_steps 1 --require_mixed False --eval_ratio 0", stops=TRAINER, parse_only=True,
           kinds={"two_stage_config": "", "stage_1": "", "stage_2": ""}),
    Script("prm/finetune2.py", "--model_name_or_path {model} --train_data_path {labels} --output_dir {out}/prm_both "
           "--use_cpu True --max_steps 1 --require_mixed False --stage both", stops=TRAINER, parse_only=True,
           only=("two_stage_config", "stage_1", "stage_2")),
    Script("prm.score", "--prm {prm} --input {labels} --output {out}/scored.jsonl"),
    Script("prm.evaluate", "--prm {prm} --input {labels} --max_probes 1 --output {out}/evaluation.json",
           kinds={"data_dir": ""}),
    Script("prm.evaluate", "--prm {prm} --benchmark processbench prmbench --data_dir {benchmarks} "
           "--output {out}/evaluation_2.json", only=("data_dir",), kinds={"data_dir": "benchmarks"}),
    Script("prm.serve", "--prm {prm}", stops=("aiohttp.web:run_app",)),
    Script("eval.math_eval", "--input_file {results} --dataset_name GSM8K",
           kinds=GRADED),
    Script("eval.math_eval", f"--model_name_or_path {{model}} --dataset_name GSM8K {ASKED} --output_dir {{out}}/math",
           only=("model_api_config", "max_model_len", "model_timeout", "data_dir", "task_config", "output_dir",
                 "num_samples", "split")),
    Script("eval.choice_eval", "--input_file {choices} --dataset_name MMLU",
           kinds=GRADED),
    Script("eval.short_answer_eval", "--input_file {texts} --dataset_name HotpotQA --bertscore_model none",
           kinds=GRADED),
    Script("eval.code_eval", "--input_file {programs} --dataset_name HumanEval --allow_code_execution",
           stops=("eval.code_eval:grade",),
           kinds=GRADED),
    Script("eval.reasoning_eval", "--input_file {results} --dataset_name GSM8K --model_name_or_path {model} "
           "--device cpu --output_dir {out}/reasoning --max_samples 1",
           kinds={"judge_model": ""}),
    Script("eval.reasoning_eval", "--input_file {results} --dataset_name GSM8K --judge_model {model} "
           "--output_dir {out}/judged --max_samples 1", only=("judge_model",), engine=True),
    Script("eval.compare", "--a {graded} --b {graded}"),
    Script("eval.cost_fair", "--dataset_name GSM8K --output_dir {out}/fair --model_name {model} --data_dir {data}",
           kinds={"output_dir": ""}),
    Script("eval.team", "--output_dir {out}/team {results}",
           kinds={"thresholds": "yaml", **dict.fromkeys(TEAM_RUNS, "")}),
    Script("eval.team", "--dataset_name GSM8K --output_dir {out}/team --model_name {model} --data_dir {data}",
           only=TEAM_RUNS),
    Script("eval.ark", "--name one --rows held-out/base={graded} held-out/debate={graded} held-out/SFT={graded} "
           "--best base --team debate --worth {team} --output {out}/ark", kinds={"worth": "rows", "merge": ""}),
    Script("eval.ark", "--merge {card} --output {out}/arks", only=("merge",), kinds={"merge": "rows"}),
    Script("eval.recovery", "--input_file {results} --dataset_name GSM8K --model_name_or_path {model} --device cpu "
           "--output {out}/recovery.json --max_samples 2 --max_tokens 4",
           stops=("eval.recovery:Scorer",), kinds={"model_name_or_path": ""}),
    Script("eval.recovery", "--input_file {results} --dataset_name GSM8K --model_name_or_path {model} --device cpu "
           "--output {out}/recovery_2.json --max_samples 1 --max_tokens 1", only=("model_name_or_path",)),
    Script("eval.report", "--results {small} --output {out}/report"),
    Script("study", "--config configs/studies/smoke.yaml --set folder={out}/study", stops=("study.__main__:run",)),
    Script("study.table", "--rows held-out/base={graded} held-out/other={graded} --output {out}/table"),
    Script("study.tiny_model", "--output {out}/tiny --steps 1", stops=("study.tiny_model:teach",), parse_only=True),
    Script("study.lab", "--world denoise --output {out}/lab", stops=("study.lab.__main__:make",), parse_only=True,
           kinds={"base": "output folder"}),
    Script("agentark.summary", "{results}"),
    Script("agentark.summary", "--show 1 {results}", only=("files", "show")),
    Script("agentark.summary", "--compare {results} {results}", only=("files", "compare")),
    Script("agentark.engines", "configs/model_api_config.yaml", kinds={"file": "endpoints"}),
    Script("agentark.install", "", stops=("agentark.install:_bring_up_to_date",)),
    Script("methods", "show cot"),
    Script("agentark.quickstart", "", stops=("agentark.quickstart:choose_model",)),
    Script("bench/command_bench.py", "--data_dir {data} --json {out}/command.json",
           stops=("bench.command_bench:measured",), kinds={"baseline": "results"}),
    Script("bench/data_bench.py", "--folder {out}", parse_only=True, kinds={"folder": "output folder"}),
    Script("bench/gateway_bench.py", "--json {out}/gateway.json", parse_only=True),
    Script("bench/grading_bench.py", "--pairs 1 --hangs 0 --data_dir {data} --json {out}/grading.json",
           stops=("bench.grading_bench:timed",)),
    Script("bench/grpo_bench.py", "", parse_only=True, kinds={"model": ""}),
    Script("bench/grpo_learns.py", "--output {out}/learns", stops=("bench.grpo_learns:teach",),
           kinds={"output": "output folder"}),
    Script("bench/hf_bench.py", "", parse_only=True, kinds={"model_name": ""}),
    Script("bench/inference_bench.py", "", parse_only=True),
    Script("bench/label_bench.py", "--data_dir {data} --datasets GSM8K --questions 1 --candidates 2 "
           "--json {out}/label.json",
           stops=("bench.label_bench:VLLMEngine",)),
    Script("bench/prm_bench.py", "--data_dir {data} --json {out}/prm.json --solutions 4",
           kinds={"model_name": "", "labelled": ""},
           stops=("bench.prm_bench:stage_1",)),
    Script("bench/prm_learns.py", "--output {out}/prm_learns", stops=("bench.prm_learns:teach",),
           kinds={"output": "output folder"}),
    Script("bench/report_bench.py", "", parse_only=True),
    Script("bench/simulate.py", "--questions 20 --sample 20 --gpus 1 --json {out}/simulate.json --records {results}",
           parse_only=True, kinds={"fit": "", "validate": ""}),
    Script("bench/simulate.py", "--fit {results} --validate {other_results} --json {out}/validate.json",
           only=("fit", "validate"), stops=("bench.parts.validation:fit",)),
    Script("bench/table.py", "--folder {ratios} --into {marked}"),
)  # fmt: skip
FEW = {"agentark.install", "bench/prm_learns.py", "methods"}
"""Scripts that read nothing, and so take few wrong values."""
NOT_HERE = {
    "docs/screenshots.py": "takes no input",
    "distill.grpo.on_openrlhf.run": "started by our own code, with flags that are checked before",
    "study.engine": "started by a study, with the flags of its steps",
}


class Case(NamedTuple):
    """A command line with a wrong value."""

    what: str
    words: list[str]
    refused: bool
    """Whether it has to be refused; else it may also be taken."""
    quick: bool
    """Whether the parser alone can judge it."""
    names: tuple[str, ...]
    """One of these has to be in the message."""
    out: Path
    """The command's output folder."""


class Ended(NamedTuple):
    """How a command line ended."""

    code: int | str
    """Exit code; "taken" if all input was taken, "traceback" for an error that nothing caught."""
    stderr: str
    seconds: float


def main_of(script: Script) -> Callable[[], int]:
    """The script's main, with its engine standing for the work unless that is to start."""
    module = module_of(script.name)
    main: Callable[..., int] = module.main
    if "run" in inspect.signature(main).parameters:
        return lambda: main(run=taken)
    if script.engine or "choose_engine" not in inspect.signature(main).parameters:
        return main
    chosen = choose.choose_engine if script.name != "label.py" else module.choose_judge

    def choosing(*args: Any, **options: Any) -> choose.Choice:
        return choose.Choice(chosen(*args, **options).label, taken)

    return lambda: main(choose_engine=choosing)


def parser_of(script: Script, world: Mapping[str, str]) -> argparse.ArgumentParser:
    """The parser that the script makes."""
    made: list[argparse.ArgumentParser] = []

    def caught(self: argparse.ArgumentParser, *_: Any, **__: Any) -> Any:
        made.append(self)
        raise Taken

    with mock.patch.object(argparse.ArgumentParser, "parse_known_args", caught):
        run(script, words(script, world), SECONDS)
    return made[0]


def words(script: Script, world: Mapping[str, str]) -> list[str]:
    return script.base.format(**world).split()


def run(script: Script, line: Sequence[str], limit: float = SECONDS, parse_only: bool = False) -> Ended:
    """Run a command line in this process."""
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.StringIO()
    started = time.process_time()
    code: int | str

    def late(*_: Any) -> None:
        raise Late(f"still runs after {limit:g} s")

    before = signal.signal(signal.SIGALRM, late)
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(sys, "argv", [script.name, *line]))
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(err))
        for stop in script.stops:
            module, _, name = stop.partition(":")
            stack.enter_context(mock.patch(f"{module}.{name}", taken))
        if parse_only:
            stack.enter_context(mock.patch.object(cli.Parser, "parse_args", _parsed(cli.Parser)))
        stack.enter_context(_little_memory())
        signal.setitimer(signal.ITIMER_REAL, limit)
        try:
            code = cli.exit_code(main_of(script))
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int | str) else 0
        except Taken:
            code = "taken"
        except BaseException:  # noqa: BLE001 -- what a user would see as a traceback
            code = "traceback"
            err.write(traceback.format_exc())
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
            answers.close_pool()
    return Ended(code, err.getvalue(), time.process_time() - started)


@contextlib.contextmanager
def _little_memory() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_AS)
    most = psutil.Process().memory_info().vms + MEMORY
    if before[1] == resource.RLIM_INFINITY or most < before[1]:
        resource.setrlimit(resource.RLIMIT_AS, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def _parsed(kind: type[argparse.ArgumentParser]) -> Callable[..., Any]:
    plain = kind.parse_args

    def parse(self: Any, *args: Any, **options: Any) -> Any:
        plain(self, *args, **options)
        raise Taken

    return parse
