"""The command line of distill.sft: its own flags, and all flags of TRL's SFTConfig."""

from importlib.util import find_spec
from typing import Any, Literal

from agentark import students
from agentark.flags import parser_beside, with_config
from agentark.types import UserError


class SFTFlags(students.StudentFlags):
    """Flags of distill.sft that are not TRL's."""

    train_data_path: str
    """Training set of distill.select (.jsonl)."""
    too_long: Literal["drop", "cut"] = "drop"
    """Rows longer than --max_length (default: the model's context) are cut or dropped."""


def parse(argv: list[str] | None = None) -> tuple[SFTFlags, Any]:
    """(our flags, TRL's SFTConfig).

    Raises:
        UserError: an unknown flag, a bad value, or a missing library.
    """
    students.check_installed("distill.sft")
    from trl import SFTConfig, TrlParser

    parser = parser_beside(SFTFlags, TrlParser, SFTConfig, prog="python -m distill.sft")
    students.set_defaults(parser)
    parser.set_defaults(max_length=None)
    words, values = with_config(argv)
    early = values | vars(parser.parse_known_args(words)[0])
    if early.get("eval_task") is not None:
        every = early.get("eval_every", SFTFlags.model_fields["eval_every"].default)
        parser.numbers = ("eval_steps", "save_steps")
        parser.set_defaults(
            eval_strategy="steps",
            eval_steps=every,
            save_strategy="steps",
            save_steps=every,
            load_best_model_at_end=True,
            metric_for_best_model="eval_score",
            greater_is_better=True,
        )
    ours, training = students.read(parser, SFTFlags, words)
    if training.packing and find_spec("flash_attn") is None:
        raise UserError("--packing: needs flash-attention, which is not installed; leave it out")
    if training.packing and ours.attn_implementation is None:
        ours = ours.model_copy(update={"attn_implementation": "flash_attention_2"})
    if training.eval_strategy != "no" and ours.eval_task is None:
        raise UserError("--eval_strategy: needs a dataset to evaluate on (--eval_task)")
    return ours, training
