"""The chat template of a tokenizer, applied here and nowhere else."""

from collections.abc import Mapping, Sequence
from typing import Any

Turns = Sequence[Mapping[str, str]]
"""[{"role": ..., "content": ...}, ...]"""


def rendered(tokenizer: Any, turns: Turns, *, thinking: bool | None = None, complete: bool = False) -> str:
    """The dialogue as the model reads it, ready for its reply.

    Args:
        thinking: passed to the template as its switch for thinking; None: not passed.
        complete: the last turn is the reply.
    """
    told = {} if thinking is None else {"enable_thinking": thinking}
    text: str = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=not complete, **told)
    return text


def ids(tokenizer: Any, turns: Turns, *, complete: bool = False) -> list[int]:
    """Token ids of `rendered`. Shape (T,). The template writes its own special tokens; none are added."""
    return list(tokenizer.encode(rendered(tokenizer, turns, complete=complete), add_special_tokens=False))


def question_ids(tokenizer: Any, question: str, template: bool = True) -> list[int]:
    """Token ids of one question, ready for the reply: plain text and a blank line where there is no template.

    Args:
        template: False for base models, whose template is not used.
    """
    if not template or getattr(tokenizer, "chat_template", None) is None:
        return list(tokenizer.encode(f"{question}\n\n"))
    return ids(tokenizer, [{"role": "user", "content": question}])
