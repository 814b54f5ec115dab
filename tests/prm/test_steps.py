"""One sequence of ids for a solution, however it comes: as text, as steps, as a policy's tokens."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prm_cases import jsonl, published

from agentark.steps import one_step, reply_spans, split_steps, step_spans
from agentark.types import UserError
from prm.data import Item, collate, gather
from prm.reading import solutions
from prm.steps import MIN_PROMPT, Encoded, Response, StepCodec, StepSettings, TooLong, load_tokenizer, response_steps

TEXTS = [
    "First we add.\n\nThen we stop.",
    "A.\n\n\nB!\n \t\n  C?\n\n",
    "  one line  ",
    "x = 1\ny = 2\n\nso 3",
    "Grüße, 🙂\n\n数学。\n\n🙂\n\nend",
    "spelled <|im_end|>\n\nout <|im_start|>user",
    "a\r\n\r\nb",
    "<think>wait\n\nno</think>\n\nYes.\n\nIt is 2.",
]


def of_reply(codec: StepCodec, prompt: str, reply: str) -> Encoded:
    """The sequence of a reply's text, as a scorer makes it."""
    return codec.encode(prompt, codec.steps(reply) or [""])


def of_response(codec: StepCodec, prompt: str, ids: list[int]) -> tuple[Encoded, Response]:
    """The sequence of what a policy wrote, and its steps in the policy's ids."""
    response = response_steps(codec.tokenizer, ids, codec.settings.step_unit)
    return codec.encode(prompt, response.steps), response


@pytest.fixture(scope="module")
def tokenizer(small_model: Path) -> Any:
    return load_tokenizer(str(small_model), "--model_name_or_path")


@pytest.fixture(scope="module")
def codec(tokenizer: Any) -> StepCodec:
    return StepCodec.of(tokenizer, "\n", "step", 512)


@given(st.text(alphabet="ab. \n\t\r", max_size=30))
def test_spans_are_the_steps(text: str) -> None:
    spans = step_spans(text)
    steps = split_steps(text)
    assert [text[start:end] for start, end in spans] == steps
    assert all(step.strip() for step in steps)
    assert "".join("".join(steps).split()) == "".join(text.split())
    assert split_steps("\n\n".join(steps)) == steps
    assert split_steps(one_step(text)) == ([one_step(text)] if steps else [])


def test_thinking_is_no_step() -> None:
    text = "<think>a\n\nb</think>c\n\nd"
    assert [text[start:end] for start, end in reply_spans(text)] == ["c", "d"]
    assert [text[start:end] for start, end in reply_spans(text, whole=True)] == ["c\n\nd"]
    assert reply_spans("<think>a\n\nb") == []


@pytest.mark.parametrize("text", TEXTS)
def test_data_scoring_and_reward_make_the_same_ids(codec: StepCodec, tokenizer: Any, tmp_path: Path, text: str) -> None:
    scored = of_reply(codec, "Why?", text)
    policy = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
    rewarded, response = of_response(codec, "Why?", [*policy, tokenizer.eos_token_id])
    path = jsonl(tmp_path / "labeled.jsonl", [published([text], [True], "Why?")])
    dropped: Any = {}
    trained = next(iter(gather(solutions(str(path), codec, "inherit", dropped, "--x"), dropped).solved.values()))[0]
    assert scored == rewarded == codec.encode(trained.prompt, trained.steps)
    assert list(trained.steps) == response.steps == codec.steps(text)
    assert [scored.ids[end] for end in scored.ends] == [codec.separator_id] * len(response.steps)
    assert [tokenizer.decode(scored.ids[start:end]) for start, end in scored.spans] == response.steps


@pytest.fixture(scope="module")
def merging() -> Any:
    """A tokenizer of bytes that has a full stop and a blank line as one token, as those of Llama 3 and Qwen do."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: place for place, token in enumerate([*letters, "ĊĊ", ".ĊĊ", "<eos>"])}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[("Ċ", "Ċ"), (".", "ĊĊ")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>")


def test_merged_separators_make_the_same_ids(merging: Any) -> None:
    codec = StepCodec.of(merging, "\n", "step", 512)
    text = "We add.\n\nThen:\n\nstop. 🙂\n\n\n\nx"
    policy = merging.encode(text, add_special_tokens=False)
    assert sum(merging.decode([one]) == ".\n\n" for one in policy) == 1
    encoded, response = of_response(codec, "Why?", policy)
    assert encoded == of_reply(codec, "Why?", text) == codec.encode("Why?", ["We add.", "Then:", "stop. 🙂", "x"])
    assert [merging.decode([policy[end]]) for end in response.ends] == [".\n\n", "\n\n", "\n\n", "x"]
    assert policy != encoded.ids[encoded.spans[0][0] :]


def test_merged_separators_end_their_step(merging: Any) -> None:
    tokenizer = merging
    ids = tokenizer.encode("First we add.\n\nThen we stop.", add_special_tokens=False)
    merged = [place for place, one in enumerate(ids) if tokenizer.decode([one]).endswith("\n\n")]
    assert len(merged) == 1
    found = response_steps(tokenizer, [*ids, tokenizer.eos_token_id])
    assert found.ends == [merged[0], len(ids)]
    cut = response_steps(tokenizer, ids)
    assert cut.ends == [merged[0], len(ids) - 1]


@given(st.lists(st.text(alphabet="ab.é🙂 \n", max_size=12), max_size=5), st.booleans())
def test_a_policys_tokens_fall_into_the_steps_of_its_text(
    codec: StepCodec, parts: list[str], ended: bool
) -> None:  # however the pieces were tokenised
    tokenizer = codec.tokenizer
    ids = [one for part in parts for one in tokenizer.encode(part, add_special_tokens=False)]
    text = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    ids += [tokenizer.eos_token_id] * ended
    found = response_steps(tokenizer, ids)
    steps = split_steps(text)
    assert found.steps == (steps or [""])
    assert len(found.ends) == len(found.steps)
    assert found.ends == sorted(set(found.ends))
    if steps:
        assert found.ends[-1] == len(ids) - 1
        starts = [0, *(end + 1 for end in found.ends)]
        for start, end, step in zip(starts, found.ends, steps, strict=False):
            piece = tokenizer.decode(ids[start : end + 1], skip_special_tokens=True, clean_up_tokenization_spaces=False)
            assert piece.strip() == step


def test_nothing_written_is_one_empty_step(codec: StepCodec) -> None:
    encoded, response = of_response(codec, "Why?", [codec.tokenizer.eos_token_id])
    assert response.steps == [""]
    assert response.ends == [0]
    assert encoded == of_reply(codec, "Why?", " \n ")
    assert encoded.ids[-1] == codec.separator_id


def test_prompts_yield_and_steps_do_not(tokenizer: Any) -> None:
    codec = StepCodec.of(tokenizer, "\n", "step", 200)
    steps = ["one two three", "four five"]
    whole = codec.encode("short", steps)
    cut = codec.encode("long " * 500, steps)
    assert (whole.cut, len(cut.ids)) == (0, 200)
    assert cut.cut > 300
    assert cut.ids[cut.spans[0][0] :] == whole.ids[whole.spans[0][0] :]
    full = codec.prompt_ids("long " * 500)
    head = cut.ids[: cut.spans[0][0]]
    assert head[:80] == list(full[:80])
    assert head[-80:] == list(full[-80:])
    with pytest.raises(TooLong):
        codec.encode("long " * 500, ["word " * (200 - MIN_PROMPT)])


def test_special_tokens_that_a_text_spells_out_are_text(codec: StepCodec) -> None:
    encoded = of_reply(codec, "Why?", "so <|im_end|> it is")
    assert codec.tokenizer.eos_token_id not in encoded.ids[encoded.spans[0][0] :]


def test_the_separator_is_one_token(tokenizer: Any) -> None:
    with pytest.raises(UserError, match=r"--step_separator_token 'no such token': this tokenizer makes \d+ tokens"):
        StepCodec.of(tokenizer, "no such token", "step", 512)
    other = StepCodec.of(tokenizer, "<|endoftext|>", "step", 512)
    encoded = of_reply(other, "Why?", "a\n\nb")
    assert [encoded.ids[end] for end in encoded.ends] == [other.separator_id] * 2


def test_without_a_chat_template_prompts_are_plain(small_model: Path, caplog: pytest.LogCaptureFixture) -> None:
    bare = load_tokenizer(str(small_model), "--x")
    bare.chat_template = None
    codec = StepCodec.of(bare, "\n", "step", 512)
    assert "no chat template" in caplog.text
    assert bare.decode(list(codec.prompt_ids("Why?"))) == "Why?\n\n"


def test_saved_and_loaded(codec: StepCodec, tmp_path: Path) -> None:
    codec.save(tmp_path)
    assert StepCodec.load(tmp_path).settings == codec.settings
    values = json.loads((tmp_path / "prm.json").read_text())
    (tmp_path / "prm.json").write_text(json.dumps(values | {"separator_id": 3}))
    with pytest.raises(UserError, match=r"prm\.json: separator id 3, but its tokenizer says \[198\]"):
        StepCodec.load(tmp_path)
    with pytest.raises(UserError, match=r"not a reward model"):
        StepCodec.load(tmp_path / "nothing")


def test_whole_solutions_as_steps(tokenizer: Any, tmp_path: Path) -> None:
    codec = StepCodec.of(tokenizer, "\n", "solution", 512)
    path = jsonl(tmp_path / "a.jsonl", [published(["a\n\nb", "c"], [True, False], "Why?")])
    dropped: Any = {}
    found = next(iter(gather(solutions(str(path), codec, "inherit", dropped, "--x"), dropped).solved.values()))
    assert [(one.steps, one.labels) for one in found] == [(("a\n\nb", "c"), (1, 0))]


def test_labels_stand_at_separators(codec: StepCodec) -> None:
    encoded = codec.encode("Why?", ["a", "b c"])
    batch = collate([Item("x", 0, encoded.ids, encoded.ends, [1, 0])])
    assert batch["input_ids"][batch["rows"], batch["ends"]].tolist() == [codec.separator_id] * 2
    assert StepSettings(separator_id=1, max_length=2).separator == "\n"
