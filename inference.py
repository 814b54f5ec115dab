"""Run multi-agent methods over a dataset and write complete trajectories.

    python inference.py --method_name llm_debate --test_dataset_name GSM8K --model_name Qwen/Qwen3-8B --use_vllm

Results: results/<dataset>/<model>/<method>_infer.jsonl and its .manifest.json. A run that was stopped in any
way goes on with the same command. Several methods share one engine. `python -m methods` lists the methods.
"""

import json
from argparse import Namespace
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import agentark.cli as cli
from agentark import answers, contamination, job, summary
from agentark.engines.choose import Choice, add_engine_flags, choose_engine
from agentark.engines.members import Choose, Recruited
from agentark.engines.shared import shared
from agentark.lock import RunLock
from agentark.records import read_records
from agentark.sampling import add_sampling_flags
from agentark.sandbox_engine import SandboxEngine
from agentark.scratch import Folder
from agentark.tasks import Loaded, Task, get_task
from agentark.team import Teamed, check_names, read_team
from agentark.types import SANDBOX, Engine, Method, MethodInfo, Sample, UserError
from methods import METHODS, check_tasks, load_method, method_class


def parse(argv: list[str] | None = None) -> Namespace:
    parser = cli.Parser(prog="inference.py", description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument(
        "--method_name", required=True, nargs="+", metavar="METHOD", help=f"one or more of: {', '.join(METHODS)}"
    )
    parser.add_argument("--test_dataset_name", required=True, help="dataset, e.g. GSM8K")
    parser.add_argument("--model_name", required=True, help="hub id, local folder, or an embedded model")
    add_sampling_flags(parser, "--model_temperature")
    parser.add_argument("--model_max_tokens", type=cli.integer(1), default=4096, help="new tokens per call, at most")
    parser.add_argument(
        "--method_config_name", help="a file of methods/<method>/configs (default: the one made for the dataset)"
    )
    parser.add_argument("--method_config", nargs="+", default=[], metavar="KEY=VALUE", help="overrides of that file")
    parser.add_argument(
        "--team", nargs="+", default=[], metavar="FILE.yaml|NAME=MODEL[@ADAPTER]", help="models of agents or roles"
    )
    parser.add_argument("--verifier_models", nargs="+", default=[], metavar="MODEL", help="models that verify (mav)")
    job.add_sample_flags(parser)
    parser.add_argument("--seed", type=cli.integer(0), default=0, help="seed of the run")
    parser.add_argument("--output_path", type=cli.output_file, help="results file (default: under --result_dir)")
    parser.add_argument("--result_dir", type=cli.output_folder, default=Path("results"), help="folder of all results")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing results file")
    parser.add_argument("--debug", action="store_true", help="one sample, printed and not stored; verbose engine log")
    parser.add_argument("--query", help="with --debug: this question instead of the dataset's first")
    add_engine_flags(parser)
    cli.add_code_flags(parser)
    args: Namespace = parser.parse_args(argv)
    if args.query is not None and not args.debug:
        raise UserError(f"--query {args.query!r}: goes with --debug")
    if len(args.method_name) > 1:
        if len(set(args.method_name)) < len(args.method_name):
            raise UserError(f"--method_name {' '.join(args.method_name)}: a method is named twice")
        for flag in ("debug", "method_config", "method_config_name", "verifier_models", "team", "output_path"):
            if getattr(args, flag):
                raise UserError(f"--{flag}: goes with one --method_name, not with {len(args.method_name)}")
    if args.unsafe_no_isolation and not args.allow_code_execution:
        raise UserError("--unsafe_no_isolation: goes with --allow_code_execution")
    return args


def chosen_method(args: Namespace, name: str, task: Task) -> tuple[Method, MethodInfo]:
    """A method of the flags, in the configuration made for this dataset."""
    overrides = list(args.method_config)
    if args.verifier_models:
        if "verifier_models" not in method_class(name).Config.model_fields:
            raise UserError(f"--verifier_models {args.verifier_models[0]}: {name} has no verifiers")
        overrides.append(f"verifier_models={json.dumps(args.verifier_models)}")
    method, info = load_method(name, args.method_config_name, overrides, task.name)
    if info.name != name:
        print(f"{name} runs on {task.name} as {info.name} ({info.variant})")
    return method, info


def check_code(args: Namespace, method: Method, samples: Sequence[Sample]) -> None:
    """Say what the method leaves out where no code may run. Raises UserError where it needs code."""
    lacks = getattr(method, "without_sandbox", None)
    if lacks is not None and not args.allow_code_execution:
        text = lacks(frozenset(sample.kind for sample in samples))
        if text is not None:
            print(f"without --allow_code_execution: {text}")


def recruited(args: Namespace, method: Method, info: MethodInfo, choice: Choice, choose: Choose) -> Recruited:
    """The models of a run: the generator, the team's and those that the method names."""
    entries = read_team(args.team) if args.team else {}
    agents = method.agents() if isinstance(method, Teamed) else {}
    check_names(entries, info.name, agents)
    return Recruited(args, choice, entries, agents, getattr(method, "other_models", ()), choose)


def other_engines(args: Namespace, members: Recruited, main: Engine, lock: RunLock) -> dict[str, Engine]:
    """The engines beside the generator's: those of the team and of the method, and the sandbox."""
    sandbox = {SANDBOX: SandboxEngine(args.unsafe_no_isolation)} if args.allow_code_execution else {}
    return {**members.others(main, lock), **sandbox}


def select(args: Namespace, task: Task) -> tuple[Loaded, list[Sample]]:
    """The dataset, and the samples that the flags ask for."""
    loaded, samples = job.select(args, task)
    if args.debug:
        samples = samples[:1]
    if args.query is not None:
        samples = [samples[0].asking(args.query)]
    return loaded, samples


def main(argv: list[str] | None = None, choose_engine: Callable[..., Choice] = choose_engine) -> int:
    args = parse(argv)
    task = get_task(args.test_dataset_name)
    methods = {name: chosen_method(args, name, task) for name in args.method_name}
    loaded, samples = select(args, task)
    for method, info in methods.values():
        check_tasks(method, info.name, loaded.samples)
        check_code(args, method, loaded.samples)
    choice = choose_engine(args, args.model_name)
    label = choice.label
    members = {name: recruited(args, *made, choice, choose_engine) for name, made in methods.items()}
    scratch = Folder("debug") if args.debug else None
    folder = Path(scratch.name) if scratch is not None else args.result_dir / task.name / label
    paths = {name: (not scratch and args.output_path) or folder / f"{name}_infer.jsonl" for name in methods}
    failed = 0
    make = members[args.method_name[0]].make
    with shared(make) if len(methods) > 1 else nullcontext(make) as engine_of:
        for name, (method, info) in methods.items():
            team = members[name]
            defaults = job.defaults_of(args, args.model_max_tokens, label, choice.model, team.team)
            failed += job.run_job(
                job.Job(
                    path=paths[name],
                    identity={
                        "method": info.name,
                        "method_config": info.config,
                        **job.identity(args, task, loaded, label, defaults),
                        **team.identity,
                        "code_execution": args.allow_code_execution or None,  # None: as before there was this flag
                    },
                    samples=job.with_decoys(samples, loaded, method, args.seed),
                    order=[sample.id for sample in loaded.samples],
                    method=method,
                    info=info,
                    model=label,
                    make_engine=engine_of,
                    defaults=defaults,
                    about=job.origin(loaded, contamination.trained_on(*team.folders)),
                    others=partial(other_engines, args, team),
                    overwrite=args.overwrite,
                )
            )
    if args.debug:
        print(summary.debate(next(read_records(paths[args.method_name[0]]))))
    else:
        print(summary.table(list(paths.values())))
    answers.close_pool()
    if failed:
        wanted = len(samples) * len(methods)
        print(f"{failed} of {wanted} samples carry an error; retry them with: {cli.command_line()}")
    return 1 if failed else 0


if __name__ == "__main__":
    cli.entry(main)
