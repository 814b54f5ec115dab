"""The command line of distill.opd: its own flags, and all flags of the TRL trainer that the teacher needs."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, Literal

from pydantic import Field

from agentark import health, students
from agentark.config import build
from agentark.flags import parser_beside, with_config
from agentark.types import UserError
from distill.opd.contexts import LEAST, Kind

Divergence = Literal["forward_kl", "reverse_kl", "jsd"]
DIVERGENCES: Mapping[Divergence, float] = {"forward_kl": 0.0, "jsd": 0.5, "reverse_kl": 1.0}
"""What both trainers of TRL call it: a weight between KL(teacher || student) at 0 and KL(student || teacher) at 1."""
CONTEXT = "context"
"""The value of --teacher for the student itself."""
SETTINGS = {True: ("trl.experimental.sdft", "SDFTConfig"), False: ("trl", "DistillationConfig")}
"""Whether the teacher is the student itself -> TRL's settings."""
FIXED: Mapping[bool, Mapping[str, tuple[Any, str]]] = {
    True: {
        "distillation_mode": ("full_logits", "the whole vocabulary: a token that only the context makes likely counts"),
        "max_prompt_length": (None, "contexts are cut by --max_context_tokens"),
        "teacher_prompt_template": ("{prompt}\n\n{privileged_context}", "distill/opd/prompts.py has the texts"),
        "generate_from_teacher": (False, "the student answers"),
        "use_teacher_server": (False, "a server does not give the whole vocabulary"),
        "chat_template_kwargs": (None, "use --enable_thinking"),
    },
    False: {
        "teacher_model_name_or_path": (None, "use --teacher"),
        "chat_template_kwargs": (None, "use --enable_thinking"),
    },
}
"""Flags of TRL that are set here, and what to use, or why."""
WEIGHT = {True: "distillation_alpha", False: "beta"}
"""Where TRL takes the divergence from."""
ALARMS: dict[str, float | None] = {"length_drop": 0.5, "truncated": 0.5}
STOPS: dict[str, float | None] = {"length_drop": 0.1}


class OPDFlags(students.StudentFlags):
    """Flags of distill.opd that are not TRL's."""

    train_data_path: list[str] = Field(min_length=1)
    """Labelled files of one dataset (label.py)."""
    trajectories: list[str] = Field([])
    """Results files behind --train_data_path, in the same order; default: those that their manifests name."""
    teacher: str = CONTEXT
    """context: the student itself, which has read --context; or another model (hub id or folder)."""
    context: Kind | None = None
    """What the teacher reads beside the question; default: transcript, and none for another model."""
    max_context_tokens: int | None = Field(None, ge=LEAST)
    """Longer contexts are cut in their middle; default: what the model's context holds."""
    divergence: Divergence = "forward_kl"
    """Between teacher and student: forward_kl is KL(teacher || student)."""
    min_correct: int = Field(1, ge=1)
    """Fewest right agents per question."""
    contamination: list[str] = Field([])
    """Evaluation files whose questions are left out."""
    ngram: int = Field(13, ge=0)
    """Words in a row that a question may not share with one of them; 0: only equal questions are left out."""
    enable_thinking: bool | None = None
    """Turn thinking on or off in the chat template; default: leave it to the template."""
    chat_template: str | None = None
    """Jinja file, for a student without a chat template."""
    alarms: dict[str, float | None] = Field({})
    """key=value changes of the bounds that warn: kl, length_drop, truncated."""
    stops: dict[str, float | None] = Field({})
    """key=value changes of the bounds that save and stop with exit code 3; same keys."""

    @property
    def itself(self) -> bool:
        """Whether the teacher is the student, with a context."""
        return self.teacher == CONTEXT

    @property
    def shown(self) -> Kind:
        return self.context or ("transcript" if self.itself else "none")

    def bounds(self) -> tuple[health.Bounds, health.Bounds]:
        """(alarms, stops) with the defaults filled in."""
        return (
            build(health.Bounds, ALARMS | self.alarms, "--alarms"),
            build(health.Bounds, STOPS | self.stops, "--stops"),
        )


def parse(argv: list[str] | None = None) -> tuple[OPDFlags, Any]:
    """(our flags, TRL's SDFTConfig or DistillationConfig).

    Raises:
        UserError: an unknown flag, a bad value, flags that don't go together, or a missing library.
    """
    students.check_installed("distill.opd")
    from trl import TrlParser

    words, values = with_config(argv)
    itself = given(words, values, "teacher") in (None, CONTEXT)
    parser = parser_beside(OPDFlags, TrlParser, trl_settings(itself), prog="python -m distill.opd")
    students.set_defaults(parser)
    own = {"num_generations": 1} if itself else {}
    fixed = {name: value for name, (value, _) in FIXED[itself].items()}
    parser.set_defaults(logging_steps=1, learning_rate=1e-5, max_completion_length=256, **own, **fixed)
    if given(words, values, WEIGHT[itself]) is not None:
        raise UserError(f"--{WEIGHT[itself]}: use --divergence ({', '.join(DIVERGENCES)})")
    ours, training = students.read(parser, OPDFlags, words)
    setattr(training, WEIGHT[itself], DIVERGENCES[ours.divergence])
    _check(ours, training, fixed)
    return ours, training


def _check(ours: OPDFlags, training: Any, fixed: Mapping[str, Any]) -> None:
    for name, value in fixed.items():
        if (chosen := getattr(training, name)) != value:
            raise UserError(f"--{name} {chosen!r:.80}: cannot be chosen ({FIXED[ours.itself][name][1]})")
    if not ours.itself and ours.shown != "none":
        raise UserError(
            f"--context {ours.context}: another model ({ours.teacher}) reads the question alone; leave --context out, "
            "or use --teacher context"
        )
    if ours.trajectories and len(ours.trajectories) != len(ours.train_data_path):
        raise UserError(f"--trajectories: {len(ours.trajectories)} files for {len(ours.train_data_path)} of "
                        "--train_data_path")  # fmt: skip
    if ours.lora_rank and getattr(training, "teacher_model_kind", "base") == "ema":
        raise UserError("--teacher_model_kind ema: not with --lora_rank, because it could not be continued; use base")
    if training.eval_strategy != "no":
        raise UserError("--eval_strategy: use --eval_task, which evaluates every --eval_every steps")
    if training.max_completion_length is None:
        raise UserError("--max_completion_length: expected a number of tokens")
    every = getattr(training, "steps_per_generation", training.gradient_accumulation_steps)
    rollout = every * getattr(training, "num_iterations", 1)
    steps = max(1, rollout // training.gradient_accumulation_steps)
    if training.save_strategy == "steps" and training.save_steps % steps:
        raise UserError(
            f"--save_steps {training.save_steps:g}: one rollout makes {steps} optimizer steps, and a checkpoint in its "
            f"middle could not be continued; use a multiple of {steps}"
        )
    ours.bounds()


def trl_settings(itself: bool) -> type:
    """TRL's class of settings. Raises UserError where this TRL has no such trainer."""
    module, name = SETTINGS[itself]
    try:
        found: type = getattr(import_module(module), name)
    except (ImportError, AttributeError):
        raise UserError(f"--teacher: this TRL has no {module}.{name} (1.16.0 has it: make .venv)") from None
    return found


def given(words: Sequence[str], values: Mapping[str, Any], name: str) -> str | None:
    """The value of a flag on the command line, or in the file of --config; None: it is in neither."""
    flags = (f"--{name}", f"--{name.replace('_', '-')}")
    for word, after in zip(words, [*words[1:], ""], strict=True):
        if word in flags:
            return after
        if word.startswith(tuple(f"{flag}=" for flag in flags)):
            return word.partition("=")[2]
    return None if values.get(name) is None else str(values[name])
