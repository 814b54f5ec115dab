"""The real vLLM engine on the small random model; one engine for the whole module."""

import asyncio
import gc
import importlib
import importlib.util
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from lora_cases import adapted

from agentark.engines.vllm import VLLMConfig, VLLMEngine, left_out
from agentark.types import Completion, Message, Part, SampleError, SamplingParams, UserError, message

CONTEXT = 1024
ROOT = Path(__file__).parents[3]


class Served:
    """An engine and the event loop it lives in."""

    def __init__(self, engine: VLLMEngine, loop: asyncio.Runner) -> None:
        self.engine = engine
        self.loop = loop

    def chat(self, messages: list[Message], session: str = "s", **params: Any) -> Completion:
        return self.chat_all([messages], session=session, **params)[0]

    def chat_all(self, prompts: list[list[Message]], session: str = "s", **params: Any) -> list[Completion]:
        sampling = SamplingParams(**{"temperature": 0.0, "max_tokens": 16} | params)

        async def together() -> list[Completion]:
            calls = (self.engine.chat(prompt, sampling, session=session, priority=0) for prompt in prompts)
            return await asyncio.gather(*calls)

        return self.loop.run(together())


@pytest.fixture(scope="module")
def served(small_model: Path) -> Iterator[Served]:
    config = VLLMConfig(model=str(small_model), served_name="small", max_model_len=CONTEXT, reproducible=True)
    with asyncio.Runner() as loop:
        engine = loop.run(VLLMEngine(config).__aenter__())
        yield Served(engine, loop)
        loop.run(engine.__aexit__(None, None, None))


def ask(text: str) -> list[Message]:
    return [message("user", text)]


def test_a_reply_and_its_counts(served: Served) -> None:
    completion = served.chat(ask("Hello"), max_tokens=7)
    assert (completion.completion_tokens, completion.finish_reason, completion.model) == (7, "length", "small")
    assert completion.prompt_tokens == len(
        served.engine.prompter.build_sync(ask("Hello"), SamplingParams(0.0, 7)).token_ids
    )
    assert served.engine.context_length == CONTEXT
    assert served.engine.guarantee == "seeded"


def test_the_engine_and_its_model_are_one_process(served: Served) -> None:
    children = psutil.Process().children(recursive=True)
    engines = [child for child in children if "VLLM::" in "".join(child.cmdline())]
    assert len(engines) == 1, engines


def test_what_vllm_imported_is_no_longer_looked_through_for_garbage(served: Served) -> None:
    assert gc.isenabled()
    assert gc.get_freeze_count() > 200_000
    assert len(gc.get_objects()) < gc.get_freeze_count()


def test_a_shared_prefix_is_served_from_the_cache(served: Served) -> None:
    long = "Every word of this is shared by both prompts. " * 30
    first, second = served.chat(ask(long + "One?")), served.chat(ask(long + "Two?"))
    assert first.cached_tokens is not None
    assert second.cached_tokens is not None
    assert first.cached_tokens < 64 < second.cached_tokens < second.prompt_tokens


def test_guided_choice_gives_one_of_the_choices(served: Served) -> None:
    choices = ("Agree", "Disagree", "(A)")
    for completion in served.chat_all([ask(f"Is {k} right?") for k in range(8)], choices=choices, temperature=1.0):
        assert completion.text in choices


def test_sampling_controls(served: Served) -> None:
    """A penalty changes greedy replies; one token to sample from is the likeliest; a stop text ends the reply."""
    never_again = {"repetition_penalty": 10.0}
    greedy = served.chat(ask("Count."), **never_again).text
    assert greedy != served.chat(ask("Count.")).text
    for narrow in ({"top_k": 1}, {"min_p": 1.0}, {"top_k": 1, "top_p": 0.5}):
        assert served.chat(ask("Count."), temperature=1.0, seed=3, **narrow, **never_again).text == greedy
    assert served.chat(ask("Count."), temperature=1.0, seed=3, **never_again).text != greedy
    stop = greedy[len(greedy) // 2 :][:3]
    cut = served.chat(ask("Count."), stop=("no such text", stop), **never_again)
    assert (cut.text, cut.finish_reason) == (greedy[: greedy.index(stop)].strip(), "stop")
    assert cut.completion_tokens < 16


def test_log_probabilities_of_choices_are_those_before_guidance(served: Served) -> None:
    choices = ("true", "false")
    params = {"choices": choices, "choice_logprobs": True, "max_tokens": 1}
    for completion in served.chat_all([ask(f"Is {k} right?") for k in range(6)], **params):
        assert completion.choice_logprobs is not None
        assert tuple(completion.choice_logprobs) == choices
        assert completion.text == max(choices, key=completion.choice_logprobs.__getitem__)
        assert completion.completion_tokens == 1
        assert sum(map(math.exp, completion.choice_logprobs.values())) < 0.1  # untrained: all tokens are alike
    shared = served.chat(ask("Which?"), choices=("1", "10", "none"), choice_logprobs=True)
    assert shared.choice_logprobs is None
    assert shared.text in ("1", "10", "none")


def test_calls_with_unlike_choices_do_not_disturb_each_other(served: Served) -> None:
    """Nor those without; vLLM reorders its batch while they run."""
    kinds = [
        SamplingParams(0.0, 1, choices=("true", "false"), choice_logprobs=True),
        SamplingParams(0.0, 8, choices=("1", "2", "10", "none")),
        SamplingParams(0.0, 24),
    ]

    async def together() -> list[Completion]:
        asked = [(ask(f"Number {k}. " * (1 + k % 5)), kinds[k % 3]) for k in range(48)]
        return await asyncio.gather(
            *(served.engine.chat(prompt, params, session="s", priority=0) for prompt, params in asked)
        )

    for k, completion in enumerate(served.loop.run(together())):
        choices = kinds[k % 3].choices
        assert completion.text in choices if choices else completion.completion_tokens == 24


def test_a_schema_is_followed_without_free_whitespace_and_beside_other_calls(served: Served) -> None:
    schema = {
        "type": "object",
        "properties": {
            "side": {"type": "string", "enum": ["yes", "no"]},
            "scores": {"type": "array", "items": {"type": "integer", "minimum": 1, "maximum": 5}, "minItems": 3,
                       "maxItems": 3},
        },
        "required": ["side", "scores"],
        "additionalProperties": False,
    }  # fmt: skip
    kinds = [SamplingParams(1.0, 64, schema=schema), SamplingParams(0.0, 8, choices=("1", "2")), SamplingParams(0.0, 9)]

    async def together() -> list[Completion]:
        asked = [(ask(f"Number {k}."), kinds[k % 3]) for k in range(12)]
        return await asyncio.gather(
            *(served.engine.chat(prompt, params, session="s", priority=0) for prompt, params in asked)
        )

    for completion in served.loop.run(together())[::3]:
        reply = json.loads(completion.text)
        assert reply["side"] in ("yes", "no")
        assert len(reply["scores"]) == 3
        assert all(1 <= score <= 5 for score in reply["scores"])
        assert completion.text == json.dumps(reply)


def test_seeds_decide_samples_and_zero_is_a_temperature(served: Served) -> None:
    def texts(**params: Any) -> list[str]:
        return [one.text for one in served.chat_all([ask("Go")] * 2, **params)]

    assert texts(temperature=1.0, seed=1) == texts(temperature=1.0, seed=1)
    assert texts(temperature=1.0, seed=1) != texts(temperature=1.0, seed=2)
    assert len(set(texts(temperature=0.0, seed=1) + texts(temperature=0.0, seed=2))) == 1


def test_a_document_yields_its_middle(served: Served) -> None:
    document = Part(" ".join(f"w{k}" for k in range(3000)), "middle", "document")
    completion = served.chat([message("user", document, "\n\nWho?")])
    assert completion.truncation is not None
    assert CONTEXT - 100 <= completion.prompt_tokens <= CONTEXT - 16


def test_a_prompt_that_cannot_fit_names_both_lengths(served: Served) -> None:
    with pytest.raises(SampleError, match=rf"prompt of \d+ tokens .* context of {CONTEXT}"):
        served.chat(ask("word " * 2000))


def test_a_call_is_cut_to_what_the_context_leaves(served: Served) -> None:
    completion = served.chat(ask("word " * 900), max_tokens=4096)
    assert completion.max_tokens == CONTEXT - completion.prompt_tokens


def test_a_reply_is_told_while_it_is_written(served: Served) -> None:
    def streamed(params: SamplingParams) -> tuple[list[str], Completion]:
        told: list[str] = []
        call = served.engine.stream(ask("Hello"), params, told.append, session="s", priority=0)
        return told, served.loop.run(call)

    told, completion = streamed(SamplingParams(1.0, 24, seed=5))
    assert completion.text == served.chat(ask("Hello"), temperature=1.0, max_tokens=24, seed=5).text
    assert "".join(told) == completion.text
    assert len(told) > 3
    told, completion = streamed(SamplingParams(0.0, 4, choices=("yes", "no")))
    assert told == [completion.text]


def test_many_calls_at_once(served: Served) -> None:
    completions = served.chat_all([ask(f"Number {k}") for k in range(64)])
    assert len(completions) == 64
    assert all(one.completion_tokens == 16 for one in completions)


@pytest.mark.slow
def test_a_model_that_does_not_fit_is_one_line(small_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import json
    import shutil

    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    huge = small_model.parent / "huge-context"
    if not huge.exists():
        shutil.copytree(small_model, huge)
        config = json.loads((huge / "config.json").read_text())
        (huge / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 1 << 24}))
    with pytest.raises(
        UserError, match=r"vLLM cannot serve .*huge-context: .*does not fit: lower --max_model_len"
    ) as raised:
        asyncio.run(VLLMEngine(VLLMConfig(model=str(huge), served_name="huge")).__aenter__())
    assert "\n" not in str(raised.value)


@pytest.mark.slow
def test_a_lora_adapter_answers_as_peft_says(served: Served, small_model: Path, tmp_path: Path) -> None:
    import torch

    model = adapted(small_model, tmp_path / "adapter")
    config = VLLMConfig(
        model=str(small_model), served_name="small", max_model_len=CONTEXT, lora_path=tmp_path / "adapter"
    )
    params = SamplingParams(0.0, 1, choices=("true", "false"), choice_logprobs=True)
    prompt = served.engine.prompter.build_sync(ask("Is it?"), params)
    with torch.no_grad():
        logprobs = model(torch.tensor([prompt.token_ids])).logits[0, -1].log_softmax(-1)
    expected = dict(zip(("true", "false"), logprobs[list(prompt.choice_ids or ())].tolist(), strict=True))

    async def said() -> Completion:
        async with VLLMEngine(config) as engine:
            return await engine.chat(ask("Is it?"), params, session="s", priority=0)

    plain = served.chat(ask("Is it?"), choices=("true", "false"), choice_logprobs=True, max_tokens=1).choice_logprobs
    assert asyncio.run(said()).choice_logprobs == pytest.approx(expected, abs=1e-2)
    assert plain is not None
    assert abs(plain["true"] - expected["true"]) > 0.1


@pytest.mark.slow
def test_an_adapter_of_another_model_is_one_line_before_the_first_call(small_model: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    adapted(small_model, tmp_path / "adapter")
    weights = tmp_path / "adapter/adapter_model.safetensors"
    save_file({name: torch.cat([one, one], -1) for name, one in load_file(weights).items()}, weights)

    async def start() -> None:
        adapters = {"x": tmp_path / "adapter"}
        async with VLLMEngine(VLLMConfig(model=str(small_model), served_name="small", adapters=adapters)):
            pass

    with pytest.raises(UserError, match=r"vLLM cannot serve .* with .*/adapter: ") as raised:
        asyncio.run(start())
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"max_num_seq": 4}, "max_num_seq: unknown to vLLM; the nearest: max_num_seqs, "),
        ({"zzz": 4}, "zzz: unknown to vLLM; the nearest: none"),
        ({"dtype": "half"}, "dtype: has a flag of its own, --dtype"),
        ({"trust_remote_code": True}, "trust_remote_code: may not be changed"),
        ({"scheduling_policy": "fcfs"}, "scheduling_policy: may not be changed"),
    ],
)
def test_more_arguments_of_vllm_are_checked_before_it_loads(small_model: Path, more: dict[str, Any], says: str) -> None:
    async def start() -> None:
        async with VLLMEngine(VLLMConfig(model=str(small_model), served_name="small", engine_args=more)):
            pass

    with pytest.raises(UserError, match=f"--engine_args {says}"):
        asyncio.run(start())


def test_a_package_that_is_left_out_is_there_again_afterwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "heavy_package.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "transformers", raising=False)
    with left_out(["heavy_package", "json"]):
        assert importlib.util.find_spec("heavy_package") is None
        with pytest.raises(ModuleNotFoundError, match="heavy_package"):
            importlib.import_module("heavy_package")
        assert sys.modules["json"] is json, "what is imported already stays"
    assert importlib.import_module("heavy_package")


def test_nothing_is_left_out_once_transformers_knows_what_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other_package.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "transformers", json)
    with left_out(["other_package"]):
        assert importlib.import_module("other_package")


@pytest.mark.slow
def test_vllm_imports_without_the_packages_that_it_needs_for_audio_and_pictures_only(small_model: Path) -> None:
    """And what needs them afterwards finds them."""
    script = (
        "import asyncio, sys\n"
        "from agentark.engines.vllm import VLLMConfig, VLLMEngine\n"
        "from agentark.types import SamplingParams, message\n"
        "async def main():\n"
        f"    config = VLLMConfig(model={str(small_model)!r}, served_name='small', max_model_len={CONTEXT})\n"
        "    async with VLLMEngine(config) as engine:\n"
        "        say = [message('user', 'Hello')]\n"
        "        reply = await engine.chat(say, SamplingParams(0.0, 5), session='s', priority=0)\n"
        "        print(reply.completion_tokens, 'scipy' in sys.modules)\n"
        "asyncio.run(main())\n"
        "import scipy.optimize\n"
        "print(callable(scipy.optimize.linear_sum_assignment))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["5 False", "True"], done.stderr


@pytest.mark.slow
def test_engines_are_forked_until_one_is_asked(small_model: Path) -> None:
    """A fork needs no import of its own, and lacks the threads of what was computed before."""
    script = (
        "import asyncio, os\n"
        "from agentark.engines.vllm import VLLMConfig, VLLMEngine\n"
        "from agentark.types import SamplingParams, message\n"
        "async def main():\n"
        f"    config = VLLMConfig(model={str(small_model)!r}, served_name='s', max_model_len={CONTEXT}, sharing=3)\n"
        "    ways, engines, say = [], [], [message('user', 'Hello')]\n"
        "    for _ in range(3):\n"
        "        engines.append(await VLLMEngine(config).__aenter__())\n"
        "        ways.append(os.environ['VLLM_WORKER_MULTIPROC_METHOD'])\n"
        "        if len(ways) == 2:\n"
        "            await engines[0].chat(say, SamplingParams(0.0, 5), session='s', priority=0)\n"
        "    replies = [await one.chat(say, SamplingParams(0.0, 5), session='s', priority=0) for one in engines]\n"
        "    print(*ways, len({reply.text for reply in replies}))\n"
        "    for engine in engines:\n"
        "        await engine.__aexit__(None, None, None)\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1:] == ["fork fork spawn 1"], done.stderr


def test_a_missing_package_names_flag_and_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="--use_vllm: the package vllm is not installed"):
        VLLMEngine(VLLMConfig(model="m", served_name="m"))
