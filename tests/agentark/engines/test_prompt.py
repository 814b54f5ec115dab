"""Template, token budget, truncation and thinking, on the embedded model's real tokenizer."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentark.cuts import apply_cuts
from agentark.engines.prompt import MIN_NEW_TOKENS, Prompter
from agentark.thinking import split_thinking
from agentark.types import Message, Part, SampleError, SamplingParams, UserError, message


@pytest.fixture(scope="module")
def tokenizer(small_model: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(small_model)


PARAMS = SamplingParams(temperature=0.0, max_tokens=100)


def test_the_template_is_applied_once(tokenizer: Any) -> None:
    prompt = Prompter(tokenizer, 2048).build_sync([message("user", "Hello ", "there")], PARAMS)
    text = tokenizer.decode(prompt.token_ids)
    assert text.count("<|im_start|>user\nHello there<|im_end|>") == 1
    assert text.endswith("<|im_start|>assistant\n")
    assert (prompt.max_tokens, prompt.truncation, prompt.thinking) == (100, None, False)


@settings(deadline=None, max_examples=40)
@given(
    words=st.lists(st.text(min_size=1, max_size=12), min_size=300, max_size=900),
    context=st.integers(260, 700),
    max_tokens=st.integers(1, 600),
)
def test_only_the_document_yields_and_the_cut_can_be_rebuilt(
    tokenizer: Any, words: list[str], context: int, max_tokens: int
) -> None:
    prompter = Prompter(tokenizer, context)
    params = SamplingParams(temperature=0.0, max_tokens=max_tokens)
    messages = [
        message("system", "Read closely."),
        message("user", Part(" ".join(words), "middle", "document"), "\n\nWho spoke first?"),
    ]
    prompt = prompter.build_sync(messages, params)
    reserve = max(MIN_NEW_TOKENS, min(max_tokens, context // 2))
    assert len(prompt.token_ids) + reserve <= context
    assert prompt.max_tokens == min(max_tokens, context - len(prompt.token_ids))
    assert "Who spoke first?" in tokenizer.decode(prompt.token_ids)
    if prompt.truncation is not None:
        sent = apply_cuts(messages, prompt.truncation)
        assert prompter.build_sync(
            [message("system", sent[0].text), message("user", sent[1].text)], params
        ).token_ids == (prompt.token_ids)


def test_truncation_keeps_as_much_as_fits(tokenizer: Any) -> None:
    document = Part(" ".join(f"word{k}" for k in range(3000)), "middle", "document")
    prompt = Prompter(tokenizer, 2048).build_sync([message("user", document, "\n\nWhat?")], PARAMS)
    assert 2048 - 100 - 16 <= len(prompt.token_ids) <= 2048 - 100
    text = tokenizer.decode(prompt.token_ids)
    assert "word0 " in text
    assert "word2999" in text


def test_two_documents_share_the_room(tokenizer: Any) -> None:
    parts = [Part(f"{name} " * 2000, "middle", "document") for name in ("left", "right")]
    prompt = Prompter(tokenizer, 1024).build_sync([message("user", parts[0], "\n", parts[1])], PARAMS)
    assert prompt.truncation is not None
    assert len(prompt.truncation) == 2
    text = tokenizer.decode(prompt.token_ids)
    assert min(text.count("left"), text.count("right")) > 300


def test_a_prompt_that_cannot_fit_is_an_error_of_its_sample(tokenizer: Any) -> None:
    with pytest.raises(SampleError, match=r"prompt of \d+ tokens leaves -?\d+ of the context of 256, fewer than 64"):
        Prompter(tokenizer, 256).build_sync([message("user", "word " * 300)], PARAMS)


def test_a_shortened_reply_is_recorded(tokenizer: Any) -> None:
    prompter = Prompter(tokenizer, 256)
    params = SamplingParams(temperature=0.0, max_tokens=4096)
    prompt = prompter.build_sync([message("user", "word " * 100)], params)
    assert prompt.max_tokens == 256 - len(prompt.token_ids)
    fields = {"finish_reason": "stop", "completion_tokens": 1, "model": "m", "seconds": 0.0}
    assert prompter.completion("hi", prompt, params, **fields).max_tokens == prompt.max_tokens
    assert prompter.completion("hi", prompt, SamplingParams(temperature=0.0, max_tokens=9), **fields).max_tokens is None


def test_a_context_too_small_for_any_call_is_refused(tokenizer: Any) -> None:
    with pytest.raises(UserError, match="--max_model_len 100: too small"):
        Prompter(tokenizer, 100)


def test_a_model_without_template_gets_plain_text(tokenizer: Any, caplog: pytest.LogCaptureFixture) -> None:
    import copy

    plain = copy.deepcopy(tokenizer)
    plain.chat_template = None
    prompt = Prompter(plain, 2048).build_sync([message("system", "Be brief."), message("user", "Hi")], PARAMS)
    assert plain.decode(prompt.token_ids).endswith("System: Be brief.\n\nUser: Hi\n\nAssistant:")
    assert "no chat template" in caplog.text


@pytest.mark.parametrize(
    ("text", "opened", "expected"),
    [
        ("plain answer", False, ("plain answer", None)),
        ("<think>\nhm\n</think>\n\nyes", False, ("yes", "hm")),
        ("hm</think>yes", True, ("yes", "hm")),
        ("<think>a</think>b</think>c", False, ("c", "a</think>b")),
        ("<think>never ends", False, ("", "never ends")),
        ("never ends", True, ("", "never ends")),
        ("the tag <think> in prose", False, ("the tag <think> in prose", None)),
    ],
)
def test_thinking_is_kept_apart(text: str, opened: bool, expected: tuple[str, str | None]) -> None:
    assert split_thinking(text, opened) == expected


VERDICT = SamplingParams(temperature=0.0, max_tokens=1, choices=("true", "false"), choice_logprobs=True)


def test_the_first_tokens_of_choices(tokenizer: Any) -> None:
    prompter = Prompter(tokenizer, 2048)
    ids = prompter.build_sync([message("user", "Right?")], VERDICT).choice_ids
    assert ids is not None
    assert [tokenizer.decode([one]) for one in ids] == ["true", "false"]
    asked = SamplingParams(temperature=0.0, max_tokens=8, choices=("1", "10", "none"), choice_logprobs=True)
    assert prompter.build_sync([message("user", "Which?")], asked).choice_ids is None
    plain = SamplingParams(temperature=0.0, max_tokens=8, choices=("true", "false"))
    assert prompter.build_sync([message("user", "Which?")], plain).choice_ids is None


def test_calls_with_choices_cut_a_document_alike(tokenizer: Any) -> None:
    """Candidates of unlike length then share the prefix up to where they begin."""
    prompter = Prompter(tokenizer, 1024)
    document = Part(" ".join(f"word{k}" for k in range(3000)), "middle", "document")

    def cuts(params: SamplingParams) -> set[Any]:
        prompts = [[message("user", document, "\n\n" + "again " * length)] for length in range(10, 58, 8)]
        built = [prompter.build_sync(prompt, params) for prompt in prompts]
        assert all(len(one.token_ids) + MIN_NEW_TOKENS <= 1024 for one in built)
        return {one.truncation for one in built}

    assert len(cuts(VERDICT)) <= 2
    assert len(cuts(PARAMS)) == 6


STRICT = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
    "<{{ m.role }}>{{ m.content }}</{{ m.role }}>{% endfor %}{% if add_generation_prompt %}<model>{% endif %}"
)


def test_a_template_that_takes_user_and_assistant_in_turn_gets_them_so(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Gemma's and Mistral's templates raise on a system message and on two user messages in a row."""
    monkeypatch.setattr(tokenizer, "chat_template", STRICT)
    dialogue = [
        *(message("system", "You are a cook."), message("user", "Name a soup."), message("user", "A cold one.")),
        *(Message("assistant", (Part("Gazpacho."),)), message("user", "And a hot one?")),
    ]
    text = tokenizer.decode(Prompter(tokenizer, 2048).build_sync(dialogue, PARAMS).token_ids)
    assert text == (
        "<user>You are a cook.\n\nName a soup.\n\nA cold one.</user><assistant>Gazpacho.</assistant>"
        "<user>And a hot one?</user><model>"
    )
    assert "user and assistant in turn" in caplog.text


def test_a_template_that_takes_all_roles_is_left_alone(tokenizer: Any) -> None:
    dialogue = [message("system", "You are a cook."), message("user", "Name a soup."), message("user", "A cold one.")]
    text = tokenizer.decode(Prompter(tokenizer, 2048).build_sync(dialogue, PARAMS).token_ids)
    assert [text.count(f"<|im_start|>{role}\n") for role in ("system", "user")] == [1, 2]
