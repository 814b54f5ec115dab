"""The files beside a training set (manifest and dataset card), and the upload to the hub."""

from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from agentark import cli
from agentark.config import Config
from agentark.files import Pending, changes, file_sha256, json_if_there, manifest_of, write_atomically
from agentark.labelled import Labelled
from agentark.records import now
from agentark.types import UserError

SCHEMA = 1
"""Version of the rows and the manifest."""
FLAGS = ("strategy", "trace", "target", "prefer", "thinking", "min_correct", "k", "diversity", "distiller")
SESSION = ("command", "written", "versions")
"""Keys of the manifest that differ between two runs of one command."""

CARD = """---
license: other
task_categories: [text-generation]
language: [en]
configs:
- config_name: default
  data_files: {file}
---
# {title}

Training set in prompt-completion chat form (TRL), chosen by `distill.select` from labelled trajectories of several
agents. One line a trajectory: `prompt`, `completion`, the question's `id`, and where it comes from.

Strategy **{strategy}**, trace **{trace}**, at least {min_correct} correct agents a question. {rows} rows.

## Sources

{sources}

## Counts

```
{report}
```

## Licence

The questions are {dataset} ({licence}). The completions were written by the teacher models named above, whose licences
and terms of use apply to them; look there before you publish this set or a model trained on it.

Made by `{command}` on {written}.
"""
SOURCE = """- `{labels}` (sha256 `{labels_sha256}`), labelled by {judge}, of
  `{trajectories}` (sha256 `{trajectories_sha256}`): method {method}, teacher {teacher}, {questions} questions"""


def manifest(
    args: Namespace, settings: Config, sources: Sequence[Labelled], counts: Mapping[str, Any]
) -> dict[str, Any]:
    """Everything that decided the content of a training set, and the counts."""
    return {
        "schema": SCHEMA,
        "file": args.output.name,
        "dataset": sources[0].task.name,
        "licence": sources[0].task.licence,
        **{flag: getattr(args, flag) for flag in FLAGS},
        "contamination": [str(path) for path in args.contamination],
        "match": matched(args),
        "config": settings.model_dump(mode="json"),
        "sources": [
            {
                "labels": str(source.labels),
                "labels_sha256": source.labels_sha256,
                "trajectories": str(source.trajectories),
                "trajectories_sha256": source.trajectories_sha256,
                "judge": source.judge,
                "method": source.name,
                "teacher": ", ".join(sorted({record.model for record, _ in source.pairs})),
                "questions": len(source.pairs),
                "failed": source.failed,
            }
            for source in sources
        ],
        "counts": dict(counts),
        "command": cli.command_line(),
        "written": now(),
        "versions": cli.provenance(),
    }


def matched(args: Namespace) -> list[dict[str, str]] | None:
    """The sets of --match as the manifest names them; None: there are none, as before there was this flag."""
    for path in args.match:
        if not path.is_file():
            raise UserError(f"--match {path}: no such file")
        if path.resolve() == args.output.resolve():
            raise UserError(f"--match {path}: is the set of --output itself")
    return [{"set": str(path), "sha256": file_sha256(path)} for path in args.match] or None


def check_output(args: Namespace, settings: Config) -> None:
    """Raises UserError where `--output` holds a set of other settings that may not be replaced."""
    if not args.output.exists() or args.overwrite:
        return
    asked = {"config": settings.model_dump(mode="json"), **{flag: getattr(args, flag) for flag in FLAGS}}
    asked["match"] = matched(args)
    if (before := json_if_there(manifest_of(args.output))) and (changed := changes(before, asked, asked)):
        raise UserError(f"--output {args.output}: exists ({changed:.300}); use --overwrite to replace it")


def write(rows: Pending, about: Mapping[str, Any], overwrite: bool) -> tuple[Path, Path, Path]:
    """Write the manifest, the card and, last of all, the set, each file in one step; what stands already is kept.

    Args:
        rows: the whole set; it takes its place here.

    Returns:
        Paths of the set, its card and its manifest.

    Raises:
        UserError: there is another set, which may not be replaced.
    """
    output = rows.path
    paths = output, output.with_name(f"{output.name}.card.md"), manifest_of(output)
    full = msgspec.to_builtins({**about, "sha256": rows.sha256})
    stands = output.exists() and file_sha256(output) == full["sha256"]
    if output.exists() and not (stands or overwrite):
        raise UserError(f"--output {output}: exists; use --overwrite to replace it")
    before = json_if_there(paths[2])
    if not changes(before, full, set(full) - set(SESSION)):  # of this command, killed before the set was written
        full |= {key: before[key] for key in SESSION if key in before}
    write_atomically(paths[2], msgspec.json.format(msgspec.json.encode(full), indent=2) + b"\n")
    write_atomically(paths[1], _card(full).encode())
    if not stands:
        rows.place()
    return paths


def _card(about: Mapping[str, Any]) -> str:
    return CARD.format(
        **{key: about[key] for key in ("file", "strategy", "trace", "min_correct", "dataset", "licence", "command")},
        written=about["written"],
        title=about["file"],
        rows=about["counts"]["rows"],
        sources="\n".join(SOURCE.format(**source) for source in about["sources"]),
        report=report(about["counts"], Namespace(**about)),
    )


def report(counts: Mapping[str, Any], args: Namespace) -> str:
    """The counts of trajectories, left out and chosen, in a few lines."""

    def listed(counted: Mapping[str, int]) -> str:
        return ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in counted.items()) or "none"

    lines = [
        f"{counts['questions']} questions; by number of correct agents: "
        + listed({f"{number}:": count for number, count in counts["questions_by_correct_agents"].items()}),
        f"agents' paths: {listed(counts['agent_paths'])}",
        f"{counts['questions_with_enough_correct']} questions with at least {args.min_correct} correct agents; "
        f"contaminated: {listed(counts['contaminated'])}",
        f"trajectories left out: {listed(counts['dropped_trajectories'])}",
        *[f"of the rest: {listed(counts['thinking'])}"] * bool(counts["thinking"]),
        f"{counts['rows']} rows of {counts['questions_chosen']} questions: {listed(counts['chosen_paths'])}",
    ]
    if (matched := counts.get("matched")) is not None:
        lines.append(
            f"matched: {matched['rows']} rows of {matched['questions']} questions, {matched['tokens']} tokens beside "
            f"{' and '.join(map(str, matched['tokens_of_others']))}; dropped: {listed(matched['dropped'])}"
        )
        if any(rows > matched["rows"] for rows in matched["rows_of_others"]):
            lines.append(
                f"the other sets have {' and '.join(map(str, matched['rows_of_others']))} rows: select them with "
                "--match, too, before you compare students"
            )
    if "questions_with_fewer_than_k" in counts:
        per = listed({f"{number}:": count for number, count in counts["trajectories_per_question"].items()})
        lines.append(
            f"questions by trajectories used: {per}; with fewer than k: {counts['questions_with_fewer_than_k']}"
        )
    return "\n".join(lines)


def push(repository: str, data: Path, card: Path) -> str:
    """Upload the set and its card to a dataset repository on the hub. Returns its address.

    Raises:
        UserError: the hub refuses the upload, or cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        api = HfApi()
        url = api.create_repo(repository, repo_type="dataset", exist_ok=True)
        for path, name in ((data, data.name), (card, "README.md")):
            api.upload_file(path_or_fileobj=path, path_in_repo=name, repo_id=repository, repo_type="dataset")
    except (*HfHubHTTPError.__bases__, ValueError) as error:  # OSError, and all that the client under it raises
        raise UserError(f"--push_to_hub {repository}: {' '.join(str(error).split())[:300]}") from None
    return str(url)
