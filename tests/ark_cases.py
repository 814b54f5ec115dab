"""Graded files of systems that know more or less, and what eval.team says of their team."""

import json
from collections.abc import Sequence
from pathlib import Path

import msgspec

from agentark.evaluation import Graded

ROLES = ["--best", "base", "--vote", "vote", "--team", "debate"]
N = 40
RIGHT = {"base": 10, "vote": 20, "debate": 30, "R-SFT": 25, "DA": 10}
"""System -> how many of the first questions it gets right."""


def put(
    path: Path, right: Sequence[bool | None], tokens: int = 400, tags: Sequence[str] = (), dataset: str = "ChainSum"
) -> Path:
    """A graded file; None is a question whose run failed."""
    rows = [
        Graded(
            id=f"q{k}", number=0, metric="accuracy", verdict="error" if one is None else "correct" if one else "wrong",
            answer="1", gt="1", figures={} if one is None else {"accuracy": float(one)}, truncated=False,
            tag=tags[k] if tags else None,
        )
        for k, one in enumerate(right)
    ]  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
    about = {"dataset": dataset, "tokens": {"m": {"completion_tokens": tokens}}}
    about["input"] = {"file": path.name.replace(".math_eval.per_sample", "")}
    path.with_name(path.name.replace("per_sample.jsonl", "metrics.json")).write_text(json.dumps(about))
    return path


def first(count: int, n: int = N) -> list[bool]:
    return [k < count for k in range(n)]


def files(folder: Path, right: dict[str, int] | None = None, name: str = "held-out", n: int = N) -> list[str]:
    """Words of --rows."""
    return [
        f"{name}/{system}={put(folder / name / f'{system}_infer.math_eval.per_sample.jsonl', first(count, n), 10 * n)}"
        for system, count in (RIGHT if right is None else right).items()
    ]


def worth(path: Path, *verdicts: tuple[str, str], dataset: str = "ChainSum") -> Path:
    """The team.json of eval.team."""
    teams = [
        {"dataset": dataset, "team": "llm_debate", "file": f"x/{file}_infer.jsonl", "verdict": verdict, "words": "so"}
        for file, verdict in verdicts
    ]
    path.write_text(json.dumps({"command": "c", "teams": teams}))
    return path
