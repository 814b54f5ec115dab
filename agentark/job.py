"""A run over samples as the entry scripts do it: lock, store, what is left to do, one session, and the ending.

The ending (totals, order of the rows, journal) belongs to the run, not to the work: a run that was killed after its
last row is ended by the same command, without an engine.
"""

from argparse import Namespace, _ActionsContainer
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from msgspec import Struct, structs

from agentark import cli, config
from agentark.episode import Defaults, Episode
from agentark.jsonl import Stored
from agentark.lock import RunLock
from agentark.progress import Progress
from agentark.records import Store, now
from agentark.runner import Row, Runner, end_killed, note_totals
from agentark.sampling import sampling_of
from agentark.tasks import Loaded, Task, data_folder
from agentark.team import Team
from agentark.types import Engine, Method, MethodInfo, Sample, UserError, digest
from agentark.workers import run_in_workers, workers_for


class Job(Struct, frozen=True, kw_only=True):
    """The task of a run."""

    path: Path
    """Results file; the journal, manifest and lock lie beside it."""
    identity: Mapping[str, Any]
    """All that decides the content of a row: rows of another identity are never mixed in."""
    samples: Sequence[Sample]
    """All that this command asks for; those without a good row are run."""
    order: Iterable[str] | dict[str, int]
    """Ids in the order of the finished file, also of samples that this command does not ask for; or id -> rank."""
    method: Method
    info: MethodInfo
    model: str
    """The generator's name, as recorded."""
    make_engine: Callable[[RunLock], Engine]
    defaults: Defaults
    about: Mapping[str, Any] = {}
    """Facts about a session for the manifest, beside time, command and versions."""
    row: Row = Episode.record
    """Makes a row; one with an `input` is made again when the digest of its sample is another."""
    others: Callable[[Engine, RunLock], Mapping[str, Engine]] = lambda engine, lock: {}
    """(generator, lock) -> further models, by name."""
    workers: int = 1
    """Processes that make rows, where no call needs an engine and `samples` stay in their file (agentark/workers.py);
    1: this one."""
    overwrite: bool = False
    today: Callable[[dict[str, Any]], dict[str, Any]] = dict
    """Writes the identity in an old manifest as this version does."""


def run_job(job: Job) -> int:
    """Run what is left to do, and end the run. Returns how many samples failed.

    Raises:
        UserError: the file holds rows of another identity, or another process writes to it.
        RunError: the run had to stop; finished rows are kept.
    """
    order = job.order if isinstance(job.order, dict) else {id: rank for rank, id in enumerate(job.order)}
    with RunLock(job.path) as lock:
        store = Store(job.path, job.identity, overwrite=job.overwrite, today=job.today)
        todo = _left(job.samples, store)
        if not todo:
            if not store.ended:
                end_killed(store, job.method, order)
            return 0
        about = {"started": now(), "command": cli.command_line(), "versions": cli.provenance(), **job.about}
        engine = job.make_engine(lock)
        engines = {"main": engine, **job.others(engine, lock)}
        return cli.run_async(_session(job, engines, store, todo, order, about)).failed


def _left(samples: Sequence[Sample], store: Store) -> Sequence[Sample]:
    """The samples without a good row."""
    if not store.done:
        return samples
    left = [place for place, sample in enumerate(samples) if not store.has(sample)]
    return samples.take(left) if isinstance(samples, Stored) else [samples[place] for place in left]


async def _session(
    job: Job,
    engines: Mapping[str, Engine],
    store: Store,
    todo: Sequence[Sample],
    order: Mapping[str, int],
    about: Mapping[str, Any],
) -> Progress:
    """Start the engines, run and write the samples; the store is closed in any case."""
    async with AsyncExitStack() as stack:
        for engine in {id(engine): engine for engine in engines.values()}.values():
            await stack.enter_async_context(engine)
        main = engines["main"]
        facts = {"engine": main.name, "guarantee": main.guarantee, "capacity": main.capacity}
        facts |= {"dtype": main.dtype, "todo": len(todo)}
        store.start({**about, **facts})
        finished = False
        with Progress(len(todo)) as progress, progress.ticking():
            try:
                parts = {name: getattr(job, name) for name in ("method", "info", "model", "defaults", "row")}
                runner = Runner(**parts, engines=engines, store=store, progress=progress)
                await runner.prepare(job.samples)
                if (workers := workers_for(todo, job.workers)) > 1:
                    await run_in_workers(todo, parts, workers, store, progress)
                else:
                    await runner.run(todo)
                note_totals(store, runner.method, order)
                finished = True
            finally:
                store.close(order if finished else None, finished=now(), done=progress.done, failed=progress.failed)
        return progress


# ---------------------------------------------------------------- runs over a dataset


def add_sample_flags(parser: _ActionsContainer) -> None:
    """The flags that choose samples of a dataset."""
    parser.add_argument("--task_config", nargs="+", default=[], metavar="KEY=VALUE", help="options of the dataset")
    parser.add_argument("--split", help="default: the dataset's evaluation split")
    parser.add_argument("--data_dir", type=data_folder, help="folder with the dataset's file, instead of the hub")
    parser.add_argument("--start", type=cli.integer(0), default=0, help="first sample")
    parser.add_argument("--end", type=cli.integer(1), help="one past the last sample")
    parser.add_argument("--max_samples", type=cli.integer(1), help="the most samples to run")


def task_options(args: Namespace, task: Task) -> config.Config:
    """The options of a dataset, as the flags and its defaults give them."""
    return config.build(task.options, config.parse_overrides(args.task_config, "--task_config"), "--task_config")


def select(args: Namespace, task: Task) -> tuple[Loaded, list[Sample]]:
    """The dataset, and the samples that the flags ask for.

    Raises:
        UserError: no such samples.
    """
    loaded = task.load(args.split, args.data_dir, task_options(args, task))
    samples = list(loaded.samples[args.start : args.end][: args.max_samples])
    if not samples:
        raise UserError(
            f"--start {args.start}: leaves no sample (the split has {len(loaded.samples)}, --end {args.end})"
        )
    return loaded, samples


def adapter(args: Namespace) -> str | None:
    """Name of the model's adapter, as recorded."""
    return args.lora_path.resolve().name if args.lora_path else None


def with_decoys(samples: Sequence[Sample], loaded: Loaded, method: Method, seed: int) -> Sequence[Sample]:
    """The samples, each with another question of its dataset where the method wants them (`wants_decoys`).

    The whole dataset stands in a circle drawn from the seed, and each question brings the next one that is not the
    same, so a sample's decoy does not depend on which samples are asked for.

    Raises:
        UserError: the dataset has a single question.
    """
    if not getattr(method, "wants_decoys", False):
        return samples
    circle = sorted(loaded.samples, key=lambda sample: digest((seed, "decoy", sample.id)))
    prompts = [sample.prompt for sample in circle]
    decoys = {}
    for index, sample in enumerate(circle):
        following = (prompts[(index + step) % len(prompts)] for step in range(1, len(prompts)))
        decoy = next((prompt for prompt in following if prompt != prompts[index]), None)
        if decoy is None:
            raise UserError(f"{loaded.origin}: has a single question, and the method shows each sample another one")
        decoys[sample.id] = decoy
    return [structs.replace(sample, decoy=decoys.get(sample.id, prompts[0])) for sample in samples]


def defaults_of(args: Namespace, max_tokens: int, name: str, model: str | None, team: Team | None = None) -> Defaults:
    """How calls are sampled where nobody says otherwise.

    Args:
        name: of the generator in messages.
        model: its folder or hub id; None: it is served.
    """
    controls = sampling_of(args, name, model)
    return Defaults(controls.pop("temperature"), max_tokens, args.seed, controls, team)


def identity(args: Namespace, task: Task, loaded: Loaded, model: str, defaults: Defaults) -> dict[str, Any]:
    """All that decides the rows of any run over a dataset.

    Args:
        model: as recorded.
    """
    return {
        "dataset": task.name,
        "task_options": task_options(args, task).model_dump(),
        "split": loaded.split,
        "model": model,
        "adapter": adapter(args),
        "temperature": defaults.temperature,
        "max_tokens": defaults.max_tokens,
        "seed": defaults.seed,
        "thinking": args.enable_thinking,
        **defaults.controls,
        **({"extra_body": sorted(args.extra_body)} if args.extra_body else {}),
    }


def origin(loaded: Loaded, trained: Sequence[str]) -> dict[str, Any]:
    """Facts for the manifest on the data of such a run, and on the questions that its model was trained on."""
    return {"data": {"origin": loaded.origin, "sha256": loaded.sha256}, "train_ids": trained}
