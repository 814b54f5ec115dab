"""The paper's data generation on a number of GPUs: time, GPU-hours and cost, simulated per replica and scaled up."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import cycle, islice
from pathlib import Path

from pydantic import Field

from agentark.config import Config
from agentark.engines.launchers.modal import ModalConfig
from bench.parts import replicas
from bench.parts.clock import Lengths
from bench.parts.episodes import Episode, debate, drawn, good_records, recorded
from bench.parts.replicas import Schedule, Speed, simulate
from bench.parts.report import ROOT, Row, put

SIGMA = 0.8
"""Spread of the logarithm of reply lengths; their mean is exp(SIGMA^2 / 2) times their median."""
MEAN_OVER_MEDIAN = 1.3771
TEMPLATES = 64
"""Number of different debates drawn; a longer run repeats them, each time as other questions."""
KINDS: tuple[tuple[Schedule, bool], ...] = (("ours", False), ("lockstep", False), ("ours", True), ("lockstep", True))
DOCS = ROOT / "docs" / "scaling.md"
PLOT = ROOT / "docs" / "scaling.svg"
MARKS = ("<!-- simulated -->", "<!-- end of simulated -->")


class Hardware(Config):
    """configs/hardware/*.yaml: a model on a GPU, from data sheets."""

    model: str
    parameters: float = Field(gt=0)
    layers: int = Field(ge=1)
    kv_heads: int = Field(ge=1)
    head_dim: int = Field(ge=1)
    bytes_per_value: int = Field(ge=1)
    gpu: str
    """Name in the prices of configs/modal.yaml."""
    gpu_memory: float
    """Bytes."""
    gpu_bandwidth: float
    """Bytes per second."""
    gpu_flops: float
    """Per second, dense, in the model's precision."""
    gpus_per_replica: int = Field(ge=1)
    memory_share: float = Field(gt=0, le=1)
    reserve: float
    """Bytes per GPU that hold neither weights nor context."""
    bandwidth_share: float = Field(gt=0, le=1)
    flops_share: float = Field(gt=0, le=1)
    parallel_share: float = Field(gt=0, le=1)
    """Speed of several GPUs together, as a share of their sum."""
    step_overhead: float
    """Seconds of a step besides the GPU's work."""
    max_sequences: int = Field(ge=1)

    def speed(self, gpus: int) -> Speed:
        """The speed of a replica: decoding is limited by reading weights and context, prompts by arithmetic."""
        together = gpus * (self.parallel_share if gpus > 1 else 1.0)
        weights = self.parameters * self.bytes_per_value
        context = 2 * self.layers * self.kv_heads * self.head_dim * self.bytes_per_value
        bandwidth = self.gpu_bandwidth * self.bandwidth_share * together
        a_token = 2 * self.parameters / (self.gpu_flops * self.flops_share * together)
        room = gpus * (self.gpu_memory * self.memory_share - self.reserve) - weights
        return Speed(
            base=weights / bandwidth + self.step_overhead,
            per_sequence=a_token,
            per_context=context / bandwidth,
            per_prompt=a_token,
            kv_tokens=int(room // context),
            max_sequences=self.max_sequences,
        )


@dataclass(frozen=True)
class Workload:
    """The data to generate."""

    questions: int
    agents: int
    rounds: int
    question_tokens: int
    reply_tokens: float
    records: Path | None
    seed: int

    def episodes(self, shared_order: bool) -> list[Episode]:
        """Debates to repeat."""
        if self.records is not None:
            return recorded(good_records(self.records), shared_order, self.reply_tokens)
        lengths = Lengths(round(self.reply_tokens / MEAN_OVER_MEDIAN), SIGMA, 16, 4096)
        method = debate(self.agents, self.rounds, shared_order)
        return drawn(method, TEMPLATES, lengths, self.question_tokens, self.seed)


@dataclass(frozen=True)
class Point:
    """Results for all questions on a number of GPUs, in hours."""

    gpus: int
    replicas: int
    hours: Mapping[tuple[Schedule, bool], float]
    bound: Mapping[bool, float]
    """Shared order -> lower bound; no schedule can be faster on these replicas."""


def make(workload: Workload, hardware: Hardware, gpus: Sequence[int], cap: int, sample: int) -> list[Point]:
    """Simulate one replica's share for every number of GPUs.

    A share of more than twice `sample` questions is extrapolated from the time that the second `sample` questions took,
    because batches and caches are then in their steady state.
    """
    episodes = {shared: workload.episodes(shared) for shared in (False, True)}

    @cache
    def simulated(per_replica: int, kind: tuple[Schedule, bool], questions: int) -> float:
        some = list(islice(cycle(episodes[kind[1]]), questions))
        return simulate(some, hardware.speed(per_replica), cap=cap, schedule=kind[0]).seconds

    def seconds(per_replica: int, kind: tuple[Schedule, bool], questions: int) -> float:
        if questions <= 2 * sample:
            return simulated(per_replica, kind, questions)
        once, twice = (simulated(per_replica, kind, times * sample) for times in (1, 2))
        return twice + (questions - 2 * sample) * (twice - once) / sample

    points = []
    for count in gpus:
        per_replica = min(count, hardware.gpus_per_replica)
        number = count // per_replica
        share = -(-workload.questions // number)
        speed = hardware.speed(per_replica)
        bound = {}
        for shared, some in episodes.items():
            mean = sum(replicas.work(episode, speed) for episode in some) / len(some)
            longest = max(replicas.chain(episode, speed) for episode in some)
            bound[shared] = max(mean * workload.questions / number, longest) / 3600
        hours = {kind: seconds(per_replica, kind, share) / 3600 for kind in KINDS}
        points.append(Point(count, number, hours, bound))
    return points


def rows(points: Sequence[Point]) -> list[Row]:
    """Ratios at the largest number of GPUs."""
    last = points[-1]
    title = f"simulate: data generation on {last.gpus} GPUs"
    plain, step, shared, step_shared = (last.hours[kind] for kind in KINDS)
    return [
        Row(f"{title}: lockstep / ours, wall time", step / plain, step, plain, "h"),
        Row(f"{title}, shared order: lockstep / ours, wall time", step_shared / shared, step_shared, shared, "h"),
        Row(f"{title}, ours: shared order off / on, wall time", plain / shared, plain, shared, "h"),
        Row(f"{title}, ours: wall time / lower bound", plain / last.bound[False], last.bound[False], plain, "h"),
    ]


def table(points: Sequence[Point], hardware: Hardware, prices: ModalConfig) -> str:
    """Markdown."""
    price = prices.prices.get(hardware.gpu)
    head = ["GPUs", "hours", "GPU-hours", "cost", "lockstep, hours", "shared order, hours", "lockstep, shared, hours"]
    lines = [f"| {' | '.join([*head, 'bound, hours'])} |", "|" + "--:|" * (len(head) + 1)]
    for point in points:
        ours, lockstep, shared, lockstep_shared = (point.hours[kind] for kind in KINDS)
        cost = "" if price is None else f"${price * ours * point.gpus:,.0f}"
        others = [f"{hours:,.1f}" for hours in (lockstep, shared, lockstep_shared, point.bound[False])]
        cells = [str(point.gpus), f"{ours:,.1f}", f"{ours * point.gpus:,.0f}", cost, *others]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def plot(points: Sequence[Point], hardware: Hardware, path: Path) -> None:
    """Plot wall time over GPUs, both on logarithmic axes, with the bound."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    x = [point.gpus for point in points]
    for kind, style in zip(KINDS, ("o-C0", "s-C1", "o--C0", "s--C1"), strict=True):
        label = kind[0] + (", shared order" if kind[1] else "")
        axes.plot(x, [point.hours[kind] for point in points], style, label=label, markersize=4)
    axes.plot(x, [point.bound[False] for point in points], ":k", label="lower bound")
    axes.plot(x, [point.bound[True] for point in points], ":", color="grey", label="lower bound, shared order")
    axes.set(xscale="log", yscale="log", xlabel=f"{hardware.gpu} GPUs", ylabel="hours")
    axes.set_xticks(x, [str(value) for value in x])
    axes.legend()
    axes.grid(visible=True, which="both", alpha=0.2)
    figure.tight_layout()
    matplotlib.rcParams["svg.hashsalt"] = "agentark"  # equal figures give equal files
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def write_docs(points: Sequence[Point], hardware: Hardware, workload: Workload, prices: ModalConfig, cap: int) -> Path:
    """Write the plot, and the table between the marks of docs/scaling.md."""
    plot(points, hardware, PLOT)
    source = f"`{workload.records.name}`" if workload.records else "drawn (log-normal, sigma 0.8)"
    about = (
        f"{workload.questions:,} questions of {workload.question_tokens} tokens, {workload.agents} agents x "
        f"{workload.rounds} rounds and a summary, replies of {workload.reply_tokens:g} tokens on average, {source}; "
        f"{hardware.model} on {hardware.gpu}, {hardware.gpus_per_replica} per replica (one where there is one), "
        f"at most {cap} calls in flight per replica; {hardware.gpu} at ${prices.prices[hardware.gpu]:.2f} an hour "
        f"({prices.prices_date})."
    )
    put(f"{about}\n\n{table(points, hardware, prices)}\n\n![hours over GPUs]({PLOT.name})", DOCS, MARKS, "--docs")
    return DOCS
