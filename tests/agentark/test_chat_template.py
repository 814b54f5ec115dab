"""Our chat template gives the same ids as transformers in every place that uses it."""

from pathlib import Path
from typing import Any

import pytest

from agentark import chat_template
from agentark.engines.prompt import Prompter
from agentark.reasoning import Scorer
from agentark.types import SamplingParams, message
from prm.steps import StepCodec

QUESTION = "How many {apples} are 3 + 4?\n\nAnswer <|im_end|> with a number."
DIALOGUE = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": QUESTION},
    {"role": "assistant", "content": " 7\n"},
]


@pytest.fixture(scope="module")
def tokenizer(small_model: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(small_model)


@pytest.mark.parametrize("complete", [True, False])
@pytest.mark.parametrize("turns", [DIALOGUE, DIALOGUE[:2], DIALOGUE[1:2]])
def test_ids_are_those_of_transformers(tokenizer: Any, turns: list[dict[str, str]], complete: bool) -> None:
    wanted = tokenizer.apply_chat_template(turns, add_generation_prompt=not complete, return_dict=True)["input_ids"]
    assert chat_template.ids(tokenizer, turns, complete=complete) == wanted


def test_a_question_has_the_same_ids_wherever_it_is_asked(tokenizer: Any) -> None:
    wanted = chat_template.question_ids(tokenizer, QUESTION)
    assert wanted == chat_template.ids(tokenizer, DIALOGUE[1:2])
    params = SamplingParams(temperature=0.0, max_tokens=8)
    assert Prompter(tokenizer, 2048).build_sync([message("user", QUESTION)], params).token_ids == wanted
    assert list(StepCodec.of(tokenizer, "\n", "step", 512).prompt_ids(QUESTION)) == wanted
    scorer = Scorer.__new__(Scorer)
    scorer.tokenizer, scorer.chat_template = tokenizer, True
    assert scorer.ids(QUESTION, "7")[0] == wanted
    scorer.chat_template = False
    assert scorer.ids(QUESTION, "7")[0] == tokenizer(QUESTION + "\n\n").input_ids
