"""The real transformers engine on small random models, against transformers' own unbatched `generate`."""

import asyncio
import contextlib
import gc
import json
import math
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lora_cases import adapted
from transformers import AutoModelForCausalLM, AutoTokenizer, Gemma2Config, LlamaConfig, Qwen3Config

from agentark.engines import hf
from agentark.engines.hf import HFConfig, HFEngine
from agentark.engines.hf_batching import Row, narrowed, penalise
from agentark.episode import Defaults
from agentark.progress import Progress
from agentark.records import Store, expand, read_records
from agentark.runner import Runner, replay
from agentark.types import (
    Completion,
    EngineFault,
    Message,
    MethodInfo,
    Part,
    RunError,
    Sample,
    SampleError,
    SamplingParams,
    UserError,
    digest,
    message,
)
from methods.llm_debate.llm_debate import LLMDebate, LLMDebateConfig

CONTEXT = 1024
WORDS = ("amber", "basin", "cedar", "delta", "ember", "fjord", "grove", "haven", "inlet", "jetty", "knoll", "larch")


class Served:
    """An engine and the event loop it lives in."""

    def __init__(self, engine: HFEngine, loop: asyncio.Runner) -> None:
        self.engine = engine
        self.loop = loop

    def chat(self, messages: list[Message], **params: Any) -> Completion:
        return self.chat_all([(messages, params)])[0]

    def chat_all(self, calls: Sequence[tuple[list[Message], dict[str, Any]]]) -> list[Completion]:
        async def together() -> list[Completion]:
            return await asyncio.gather(*(call(self.engine, messages, **params) for messages, params in calls))

        return self.loop.run(together())

    def tokens(self, prompts: Sequence[list[int]], length: int, **row: Any) -> list[list[int]]:
        """Reply tokens of prompts that are in flight together."""
        rows = {"temperature": 0.0, "seed": 0} | row

        async def together() -> list[list[int]]:
            return await asyncio.gather(
                *(
                    self.engine._generate(
                        hf.Prompt(prompt, length, None, False), Row(prompt_tokens=len(prompt), **rows)
                    )
                    for prompt in prompts
                )
            )

        return self.loop.run(together())


async def call(engine: HFEngine, messages: list[Message], **params: Any) -> Completion:
    sampling = SamplingParams(**{"temperature": 0.0, "max_tokens": 16} | params)
    return await engine.chat(messages, sampling, session="s", priority=0)


@contextlib.contextmanager
def serving(model: Path, **config: Any) -> Iterator[Served]:
    settings = HFConfig(**{"model": str(model), "served_name": "small", "max_model_len": CONTEXT} | config)
    with asyncio.Runner() as loop:
        engine = loop.run(HFEngine(settings).__aenter__())
        try:
            yield Served(engine, loop)
        finally:
            loop.run(engine.__aexit__(None, None, None))


@pytest.fixture(scope="module", autouse=True)
def _quick_collections() -> Iterator[None]:
    """Every stop collects garbage, half a second with all that transformers and pytest have imported."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def served(small_model: Path) -> Iterator[Served]:
    with serving(small_model) as served:
        yield served


def random_model(folder: Path, tokenizer: Path, config: Any) -> Path:
    """A model whose greedy replies wander: untied embeddings and large weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        model.generation_config.eos_token_id = None
        model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)
    return folder


SHAPE = {
    "vocab_size": 49152,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": False,
    "initializer_range": 0.3,
}
MODELS: dict[str, Callable[[], Any]] = {
    "llama": lambda: LlamaConfig(**SHAPE),
    "sliding": lambda: Qwen3Config(
        **SHAPE, sliding_window=512, use_sliding_window=True, layer_types=["sliding_attention", "full_attention"]
    ),
}


def ask(text: str) -> list[Message]:
    return [message("user", text)]


def test_a_reply_and_its_counts(served: Served) -> None:
    completion = served.chat(ask("Hello"), max_tokens=7)
    assert (completion.completion_tokens, completion.finish_reason, completion.model) == (7, "length", "small")
    prompt = served.engine.prompter.build_sync(ask("Hello"), SamplingParams(0.0, 7))
    assert completion.prompt_tokens == len(prompt.token_ids)
    assert completion.cached_tokens is None
    assert (served.engine.context_length, served.engine.guarantee, served.engine.capacity) == (CONTEXT, "seeded", 32)


@pytest.mark.parametrize("kind", MODELS)
def test_a_batch_says_token_for_token_what_generate_says_alone(
    kind: str, small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(hf.STEP_TOKENS, "cpu", 96)  # long prompts go in pieces
    folder = random_model(tmp_path, small_model, MODELS[kind]())
    alone = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa").eval()
    draw = random.Random(0)
    shared = [draw.randrange(3, 49000) for _ in range(100)]
    lengths = (1, 2, 7, 31, 32, 33, 64, 90, 150, 311)
    prompts = [[draw.randrange(3, 49000) for _ in range(length)] for length in lengths]
    prompts += [shared + prompts[3], shared + prompts[4], shared]
    expected = [
        alone.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=20, pad_token_id=0)[0, len(prompt) :]
        for prompt in prompts
    ]
    assert len({token for reply in expected for token in reply.tolist()}) > 100  # the replies are worth comparing
    with serving(folder, max_concurrency=8, max_model_len=512) as small:
        together = small.tokens(prompts, 20)
        again = small.tokens(prompts[::-1], 20)[::-1]  # in other company, and with prompts in the cache
        shared_tokens = small.engine._manager.batch_processor.cache._total_prefix_length
    assert together == [reply.tolist() for reply in expected]
    assert again == together
    assert (shared_tokens > 0) == (kind == "llama")


def test_temperatures_and_lengths_mix_in_one_batch(served: Served) -> None:
    prompts = [ask(" ".join(WORDS[: k + 1])) for k in range(12)]
    greedy = [served.chat(prompt, max_tokens=12).text for prompt in prompts]
    params = [{"temperature": (0.0, 1.0)[k % 2], "max_tokens": 1 + 2 * k, "seed": k} for k in range(12)]
    replies = served.chat_all(list(zip(prompts, params, strict=True)))
    assert [reply.completion_tokens for reply in replies] == [1 + 2 * k for k in range(12)]
    longer = served.chat_all([(prompt, {"max_tokens": 12, "temperature": 0.0}) for prompt in prompts])
    assert [reply.text for reply in longer] == greedy
    sampled = served.chat_all([(prompt, {"max_tokens": 12, "temperature": 1.0, "seed": 1}) for prompt in prompts])
    assert all(one.text != two for one, two in zip(sampled, greedy, strict=True))


def test_a_reply_ends_at_an_end_token_and_frees_its_row(served: Served) -> None:
    ends = {"paths": ((700, 701, served.engine._ends[0]),)}
    assert served.tokens([[5, 6, 7]], 50, **ends) == [[700, 701, served.engine._ends[0]]]
    assert served.engine._manager.batch_processor.scheduler.active_requests == {}


def test_a_seed_decides_a_reply_whoever_else_is_in_the_batch(served: Served) -> None:
    mine = (ask("Go"), {"temperature": 1.0, "seed": 7, "max_tokens": 24})
    alone = served.chat_all([mine])[0].text
    others = [(ask(" ".join(WORDS[k:])), {"temperature": 1.3, "seed": k, "max_tokens": 4 * k + 1}) for k in range(10)]
    assert served.chat_all([*others, mine])[-1].text == alone
    assert served.chat_all([mine, *others[3:]])[0].text == alone
    assert served.chat(ask("Go"), temperature=1.0, seed=8, max_tokens=24).text != alone
    assert (
        len({one.text for one in served.chat_all([(ask("Go"), {"temperature": 0.0, "seed": k}) for k in (1, 2)])}) == 1
    )
    unseeded = served.chat_all([(ask("Go"), {"temperature": 1.0})] * 2)
    assert unseeded[0].text != unseeded[1].text


def test_samples_follow_the_model_and_the_temperature(served: Served) -> None:
    choices, temperature, draws = ("Yes", "No"), 0.1, 300
    logprobs = served.chat(ask("Yes?"), choices=choices, choice_logprobs=True).choice_logprobs
    assert logprobs is not None
    yes = 1 / (1 + math.exp((logprobs["No"] - logprobs["Yes"]) / temperature))
    assert 0.02 < abs(yes - 0.5) < 0.45  # neither what temperature 1 nor what greedy would give
    params = {"choices": choices, "temperature": temperature}
    calls = [(ask("Yes?"), params | {"seed": seed}) for seed in range(draws)]
    share = sum(reply.text == "Yes" for reply in served.chat_all(calls)) / draws
    assert abs(share - yes) < 4.5 * math.sqrt(yes * (1 - yes) / draws)


def test_every_place_has_its_own_noise(served: Served) -> None:
    pairs = ((50, 50), (50, 60), (60, 50), (60, 60))
    replies = [served.tokens([[5, 6, 7]], 2, paths=pairs, temperature=50.0, seed=seed)[0] for seed in range(40)]
    assert {tuple(reply) for reply in replies} == set(pairs)


def test_guided_choice_gives_one_of_the_choices(served: Served) -> None:
    choices = ("Agree", "Agree strongly", "Disagree", "(A)")
    calls = [(ask(f"Is {k} right?"), {"choices": choices, "temperature": 3.0, "seed": k}) for k in range(40)]
    texts = {reply.text for reply in served.chat_all(calls)}
    assert texts == set(choices)
    assert served.chat(ask("Is it?"), choices=("(B)",)).text == "(B)"


def test_the_first_token_decides_and_its_logprobs_are_the_models(served: Served, small_model: Path) -> None:
    choices = ("true", "false")
    completion = served.chat(ask("Is it?"), choices=choices, choice_logprobs=True, temperature=2.0, seed=1)
    prompt = served.engine.prompter.build_sync(
        ask("Is it?"), SamplingParams(0, 1, choices=choices, choice_logprobs=True)
    )
    with torch.no_grad():
        model = AutoModelForCausalLM.from_pretrained(small_model).eval()
        expected = model(torch.tensor([prompt.token_ids])).logits[0, -1].log_softmax(-1)[list(prompt.choice_ids or ())]
    assert completion.choice_logprobs == pytest.approx(dict(zip(choices, expected.tolist(), strict=True)), abs=1e-3)
    assert completion.text in choices
    assert completion.completion_tokens == 1


def test_a_document_yields_its_middle(served: Served) -> None:
    document = Part(" ".join(f"w{k}" for k in range(3000)), "middle", "document")
    completion = served.chat([message("user", document, "\n\nWho?")])
    assert completion.truncation is not None
    assert CONTEXT - 100 <= completion.prompt_tokens <= CONTEXT - 16


def test_a_prompt_that_cannot_fit_is_an_error_of_its_sample(served: Served) -> None:
    with pytest.raises(SampleError, match=rf"prompt of \d+ tokens .* context of {CONTEXT}"):
        served.chat(ask("word " * 2000))
    with pytest.raises(SampleError, match=rf"prompt of \d+ tokens fills the context of {CONTEXT}"):
        served.chat(ask("word " * 2000), choices=("A", "B"))


def test_a_call_is_cut_to_what_the_context_leaves(served: Served) -> None:
    completion = served.chat(ask("word " * 900), max_tokens=4096)
    assert completion.max_tokens == CONTEXT - completion.prompt_tokens == completion.completion_tokens


def test_a_cancelled_call_leaves_queue_and_batch(small_model: Path) -> None:
    with serving(small_model, max_concurrency=1) as small:
        scheduler = small.engine._manager.batch_processor.scheduler

        async def until(met: Callable[[], bool]) -> None:
            async with asyncio.timeout(20):
                while not met():
                    await asyncio.sleep(0.002)

        async def scenario() -> Completion:
            first = asyncio.create_task(call(small.engine, ask("One"), max_tokens=600))
            await until(lambda: len(scheduler.active_requests) == 1)
            second = asyncio.create_task(call(small.engine, ask("Two"), max_tokens=600))
            await until(lambda: len(scheduler.waiting_requests) == 1)
            second.cancel()
            await until(lambda: len(scheduler.waiting_requests) == 0)
            assert not first.done()
            first.cancel()
            await until(lambda: len(scheduler.active_requests) == 0)
            assert small.engine._manager.output_router.result_handlers == {}
            return await call(small.engine, ask("Three"), max_tokens=5)

        assert small.loop.run(scenario()).completion_tokens == 5


def test_a_call_that_takes_too_long_fails_alone(small_model: Path) -> None:
    with serving(small_model, timeout=0.4) as small:
        scheduler = small.engine._manager.batch_processor.scheduler

        async def scenario() -> list[Completion | BaseException]:
            slow = call(small.engine, ask("Slow"), max_tokens=900)
            return await asyncio.gather(slow, call(small.engine, ask("Quick"), max_tokens=2), return_exceptions=True)

        slow, quick = small.loop.run(scenario())
        assert isinstance(slow, EngineFault)
        assert str(slow) == "no reply within --model_timeout 0.4 s"
        assert isinstance(quick, Completion)
        deadline = time.monotonic() + 20
        while scheduler.active_requests and time.monotonic() < deadline:
            time.sleep(0.01)
        assert scheduler.active_requests == {}


def test_the_event_loop_is_never_blocked(served: Served) -> None:
    async def scenario() -> int:
        reply = asyncio.create_task(call(served.engine, ask("Go"), max_tokens=150))
        turns = 0
        while not reply.done():
            await asyncio.sleep(0.001)
            turns += 1
        return turns

    assert served.loop.run(scenario()) > 20


def test_leaving_stops_every_thread_with_calls_in_flight(small_model: Path) -> None:
    settings = HFConfig(model=str(small_model), served_name="small", max_model_len=CONTEXT)

    async def scenario() -> None:
        async with HFEngine(settings) as engine, asyncio.timeout(0.2), asyncio.TaskGroup() as group:
            for k in range(4):
                group.create_task(call(engine, ask(f"{k}"), max_tokens=900))

    before = set(threading.enumerate())
    with pytest.raises(TimeoutError):
        asyncio.run(scenario())
    assert not [thread for thread in set(threading.enumerate()) - before if not thread.daemon and thread.is_alive()]


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


@pytest.mark.parametrize("controls", [{"top_p": 0.7}, {"top_k": 9}, {"min_p": 0.2}, {"top_k": 30, "top_p": 0.5}])
def test_the_tokens_left_to_sample_from_are_those_of_transformers(controls: dict[str, Any]) -> None:
    from transformers import MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    scores = torch.randn(4, 100, generator=torch.Generator().manual_seed(1)) * 2
    expected = scores
    for name, warper in (("min_p", MinPLogitsWarper), ("top_k", TopKLogitsWarper), ("top_p", TopPLogitsWarper)):
        if name in controls:
            expected = warper(controls[name])(None, expected)
    for row, wanted in zip(scores, expected, strict=True):
        left = narrowed(row.softmax(-1), Row(1.0, 0, 1, **controls))
        assert torch.equal(left > 0, wanted > -torch.inf)
        torch.testing.assert_close(left / left.sum(), wanted.softmax(-1))


def test_penalties_are_those_of_transformers_and_of_the_openai_api() -> None:
    from transformers import RepetitionPenaltyLogitsProcessor

    scores, tokens = torch.tensor([2.0, -2.0, 1.0, 0.5]), (0, 1, 1, 2)
    repeated = scores.clone()
    penalise(repeated, Row(0.0, 0, 2, repetition_penalty=1.5), tokens)
    assert repeated.equal(RepetitionPenaltyLogitsProcessor(1.5)(torch.tensor([tokens]), scores[None].clone())[0])
    present = scores.clone()
    penalise(present, Row(0.0, 0, 2, presence_penalty=0.5), tokens)  # the reply is 1, 2
    assert present.tolist() == [2.0, -2.5, 0.5, 0.5]


def test_leaving_while_the_model_loads_stops_it(small_model: Path) -> None:
    async def scenario() -> None:
        start = asyncio.create_task(HFEngine(HFConfig(model=str(small_model), served_name="small")).__aenter__())
        await asyncio.sleep(0.01)
        start.cancel()
        await start

    before = set(threading.enumerate())
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(scenario())
    deadline = time.monotonic() + 30
    while (left := set(threading.enumerate()) - before) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left


def failing(error: type[Exception], rows: int) -> Callable[..., Any]:
    """`attend` that fails where a batch has more than so many rows."""

    def attend(*given: Any, **named: Any) -> Any:
        if len(named["cu_seq_lens_q"]) - 1 > rows:
            raise error("too much")
        return hf_attend(*given, **named)

    return attend


hf_attend = hf.attend


def test_a_batch_that_does_not_fit_is_halved(small_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hf, "attend", failing(torch.OutOfMemoryError, rows=2))
    with serving(small_model, max_concurrency=8) as small:
        replies = small.chat_all([(ask(f"{k}"), {"max_tokens": 40}) for k in range(8)])
        assert [reply.completion_tokens for reply in replies] == [40] * 8
        assert small.engine._share == 1 / 4


@pytest.mark.parametrize(("error", "share"), [(torch.OutOfMemoryError, hf.SMALLEST), (RuntimeError, 1.0)])
def test_a_model_that_fails_for_good_ends_the_run(
    error: type[Exception], share: float, small_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hf, "attend", failing(error, rows=1))
    with serving(small_model, max_concurrency=16) as small:
        with pytest.raises(RunError, match=r"stopped: \w+: too much"):
            small.chat_all([(ask(f"{k}"), {"max_tokens": 40}) for k in range(16)])
        assert small.engine._share == share


def _damaged(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])


def _pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"a": torch.zeros(1)}, folder / "pytorch_model.bin")


def _endless(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 1 << 26}))


def _windowed(folder: Path) -> None:
    random_model(folder, folder, MODELS["sliding"]())


def _softcapped(folder: Path) -> None:
    random_model(folder, folder, Gemma2Config(**SHAPE))


@pytest.mark.parametrize(
    ("change", "config", "words"),
    [
        (None, {"model": "/no/such/folder"}, r"transformers cannot serve /no/such/folder: "),
        (_damaged, {}, r"transformers cannot serve .*: SafetensorError: "),
        (_pickled, {}, r"transformers cannot serve .* no file named model\.safetensors"),
        (_endless, {"max_model_len": None}, r"--max_model_len 67108864: there is memory for \d+ tokens"),
        (_windowed, {}, r"--max_model_len 1024: beyond this model's attention window of 512, .* use --use_vllm"),
        (_softcapped, {}, r"transformers cannot serve .*softcap"),
        (None, {"max_model_len": 8193}, r"--max_model_len 8193: the model's own is 8192"),
        (None, {"max_model_len": 100}, r"--max_model_len 100: too small"),
        (None, {"lora_path": Path("/nowhere")}, r"--lora_path /nowhere: no such folder"),
    ],
)
def test_what_cannot_be_served_is_one_line(
    change: Callable[[Path], None] | None, config: dict[str, Any], words: str, small_model: Path, tmp_path: Path
) -> None:
    if change is not None:
        for file in small_model.iterdir():
            (tmp_path / file.name).write_bytes(file.read_bytes())
        change(tmp_path)
    settings = HFConfig(
        **{"model": str(tmp_path if change else small_model), "served_name": "small", "max_model_len": CONTEXT} | config
    )
    with pytest.raises(UserError, match=words) as raised:
        asyncio.run(HFEngine(settings).__aenter__())
    assert "\n" not in str(raised.value)


def test_a_missing_package_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="the hf engine needs torch, which is not installed"):
        HFEngine(HFConfig(model="m", served_name="m"))


def test_a_lora_adapter_changes_the_replies(served: Served, small_model: Path, tmp_path: Path) -> None:
    model = adapted(small_model, tmp_path)
    prompt = list(range(40, 80))
    with torch.no_grad():
        expected = model(torch.tensor([prompt])).logits[0, -1].log_softmax(-1)[[50, 60]].tolist()
    row = {"first": (50, 60), "logprobs": {}}
    with serving(small_model, lora_path=tmp_path) as engine:
        engine.tokens([prompt], 1, **row)
    assert [row["logprobs"][50], row["logprobs"][60]] == pytest.approx(expected, abs=1e-3)
    plain: dict[str, Any] = {"first": (50, 60), "logprobs": {}}
    served.tokens([prompt], 1, **plain)
    assert abs(plain["logprobs"][50] - expected[0]) > 0.1


def test_a_whole_debate(served: Served, tmp_path: Path) -> None:
    samples = [
        Sample(id=f"T/test/{k}", source="T", query=f"What is {k} + {k}?", gt=str(2 * k), answer_type="number")
        for k in range(4)
    ]
    method, info = LLMDebate(LLMDebateConfig()), MethodInfo("llm_debate", "config_main", {})
    path = tmp_path / "debate_infer.jsonl"
    store = Store(path, {})
    store.start({})

    async def run() -> None:
        with Progress(len(samples), quiet=True) as progress:
            await Runner(
                method=method,
                info=info,
                model="small",
                engines={"main": served.engine},
                defaults=Defaults(0.8, 12, 0),
                store=store,
                progress=progress,
            ).run(samples)

    served.loop.run(run())
    store.close({sample.id: place for place, sample in enumerate(samples)})
    records = list(read_records(path))
    assert [record.id for record in records] == [sample.id for sample in samples]
    for record in records:
        assert record.error is None
        assert len(record.trajectory) == 3 * 2 + 1
        assert record.token_stats["small"].num_llm_calls == 7
        assert len({turn.text for turn in record.trajectory}) == 7
        assert served.loop.run(replay(record, method)) == record
        second = next(turn for turn in record.trajectory if turn.round == 2)
        alone = served.chat(expand(record, second), temperature=0.8, max_tokens=12, seed=_seed(record.id, second.id))
        assert alone.text == second.text


def _seed(sample: str, turn: str) -> int:
    return int(digest((0, sample, turn))[:15], 16)
