"""The openai engine against servers that fail in every way we know of: right rows or recorded errors, in bounds."""

import asyncio
import base64
import json
import logging
import re
import ssl
import time
import urllib.parse
import zlib
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from email.utils import formatdate
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr
from stub_server import Behaviour, StubServer

from agentark.cuts import apply_cuts
from agentark.engines.__main__ import main as list_engines
from agentark.engines.endpoints import DEFAULT_FILE, Endpoint, endpoints_of, read_endpoints
from agentark.engines.fitting import Fitter, TooLong, characters, complaint
from agentark.engines.openai import CHOICE_REQUEST, SHRINKS, START_TRIES, OpenAIConfig, OpenAIEngine, _match
from agentark.engines.pool import MAX_WAIT, Fault, Pool, Slot
from agentark.engines.prompt import MIN_NEW_TOKENS
from agentark.engines.request import extra_body
from agentark.episode import Defaults, gather
from agentark.progress import Progress
from agentark.records import Store, read_records
from agentark.runner import Runner
from agentark.types import (
    Chat,
    Completion,
    EngineFault,
    Message,
    MethodInfo,
    Outcome,
    Part,
    RunError,
    Sample,
    SampleError,
    SamplingParams,
    Solution,
    UserError,
    message,
)

SECRET = "sk-do-not-show-me-123"
QUESTION = [message("user", "What is 2 + 2?")]
PARAMS = SamplingParams(temperature=0.0, max_tokens=64, seed=7)
FAST: dict[str, Any] = {"rest": 0.01, "max_rest": 0.05, "timeout": 5.0}


@pytest.fixture(autouse=True)
def _loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy in between, and no reading of certificates (0.1 s a client)."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", lambda *_, **__: None)


def engine_for(*servers: StubServer, workers: int = 8, **options: Any) -> OpenAIEngine:
    key = {"api_key": SecretStr(SECRET)}
    endpoints = tuple(
        Endpoint(model_name=server.model, model_url=server.url, max_workers=workers, **key) for server in servers
    )
    return OpenAIEngine(OpenAIConfig(model="served-name", endpoints=endpoints, **{**FAST, **options}))


def run(
    scenario: Callable[[OpenAIEngine], Awaitable[Any]], *servers: StubServer, workers: int = 8, **options: Any
) -> Any:
    """Start the servers and an engine on them, and run the scenario."""

    async def all_of_it() -> Any:
        async with AsyncExitStack() as stack:
            for server in servers:
                await stack.enter_async_context(server)
            engine = await stack.enter_async_context(engine_for(*servers, workers=workers, **options))
            return await scenario(engine)

    return asyncio.run(all_of_it())


async def ask(
    engine: OpenAIEngine,
    messages: list[Message] = QUESTION,
    params: SamplingParams = PARAMS,
    session: str = "s",
    priority: int = 0,
) -> Completion:
    return await engine.chat(messages, params, session=session, priority=priority)


# ---------------------------------------------------------------- a server that behaves


def test_a_plain_call() -> None:
    server = StubServer(key=SECRET)
    completion = run(ask, server)
    assert completion.text.startswith("Thought ")
    assert (completion.finish_reason, completion.model) == ("stop", "served-name")
    assert (completion.prompt_tokens, completion.completion_tokens, completion.cached_tokens) == (9, 7, 3)
    assert (completion.max_tokens, completion.truncation, completion.reasoning) == (None, None, None)
    assert server.chats == 1
    assert server.seen[0] == {
        "model": "stub",
        "messages": [{"role": "user", "content": "What is 2 + 2?"}],
        "temperature": 0.0,
        "max_tokens": 64,
        "top_p": 1.0,
        "top_k": -1,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
    }


def test_sampling_controls_and_extra_fields_reach_the_server() -> None:
    """A server like vLLM is told neutral values, where it would take the model's own; others only what is set."""
    set_ = {"top_p": 0.9, "top_k": 7, "presence_penalty": 0.5, "stop": ("###",)}
    params = SamplingParams(temperature=1.0, max_tokens=8, **set_)
    for server, neutral in (
        (StubServer(), {"min_p": 0.0, "repetition_penalty": 1.0}),
        (StubServer(tokenizes=False), {}),
    ):
        run(partial(ask, params=params), server, extra_body={"ignore_eos": True})
        body = server.seen[0]
        sent = {key: body[key] for key in body.keys() - {"model", "messages", "temperature", "max_tokens"}}
        assert sent == {**set_, "stop": ["###"], "ignore_eos": True, **neutral}


def test_a_server_that_refuses_neutral_values_is_no_longer_sent_them() -> None:
    server = StubServer(behaviours=[("refuse", "Unrecognized request argument supplied: top_k")])

    async def twice(engine: OpenAIEngine) -> None:
        await ask(engine)
        await ask(engine)

    run(twice, server)
    assert [("top_k" in body, "top_p" in body) for body in server.seen] == [
        (True, True),
        (False, False),
        (False, False),
    ]


def test_a_refused_control_names_the_flag_that_was_given() -> None:
    server = StubServer(always=("refuse", "Unrecognized request argument supplied: top_k"))
    with pytest.raises(RunError, match="takes no such top_k; use a run without --top_k"):
        run(partial(ask, params=SamplingParams(0.0, 8, top_k=3)), server)
    assert server.chats == 1


@pytest.mark.parametrize(
    ("pair", "says"),
    [
        ("top_p=1", "--extra_body top_p: has a flag of its own, --top_p"),
        ("messages=[]", "--extra_body messages: is set by this project"),
        ("stream=true", "--extra_body stream: is set by this project"),
        ("seed=1", "--extra_body seed: is set by this project"),
        ("ignore_eos", "--extra_body 'ignore_eos': expected key=value"),
        ("a={b", "--extra_body 'a={b': not valid YAML"),
    ],
)
def test_extra_fields_that_are_ours_are_refused(pair: str, says: str) -> None:
    with pytest.raises(UserError, match=re.escape(says)):
        extra_body([pair])


def test_a_seed_is_sent_only_when_asked_for_and_thinking_only_when_set() -> None:
    server = StubServer()

    async def guarantee(engine: OpenAIEngine) -> str:
        await ask(engine)
        return engine.guarantee

    assert run(guarantee, server, reproducible=True, enable_thinking=True) == "seeded"
    assert run(guarantee, StubServer()) == "engine"
    assert run(guarantee, StubServer(tokenizes=False), reproducible=True) == "engine"
    assert server.seen[0]["seed"] == 7
    assert server.seen[0]["chat_template_kwargs"] == {"enable_thinking": True}


def test_newer_models_are_asked_for_completion_tokens() -> None:
    server = StubServer(newer_limit=True)

    async def twice(engine: OpenAIEngine) -> None:
        await ask(engine)
        await ask(engine)

    run(twice, server)
    assert [("max_completion_tokens" in body) for body in server.seen] == [False, True, True]


@pytest.mark.parametrize(
    ("reply", "opened", "expected"),
    [
        ("<think>hm</think>yes", False, ("yes", "hm")),
        ({"content": "yes", "reasoning": "hm"}, False, ("yes", "hm")),
        ({"content": "\nyes", "reasoning_content": "hm"}, True, ("yes", "hm")),
        ({"content": None, "reasoning": "never ends"}, False, ("", "never ends")),
        ("hm</think>yes", True, ("yes", "hm")),
        ("never ends \\boxed{3}", True, ("", "never ends \\boxed{3}")),
    ],
)
def test_thinking_is_kept_apart(reply: Any, opened: bool, expected: tuple[str, str]) -> None:
    completion = run(ask, StubServer(reply=lambda _: reply, opens_thinking=opened))
    assert (completion.text, completion.reasoning) == expected


def test_missing_usage_is_told_and_unknown_cache_is_none(caplog: pytest.LogCaptureFixture) -> None:
    completion = run(ask, StubServer(usage=False))
    assert (completion.prompt_tokens, completion.cached_tokens) == (0, None)
    assert caplog.text.count("reports no usage") == 1


# ---------------------------------------------------------------- a server that misbehaves

FAULTS: dict[str, Behaviour] = {
    "500": "500",
    "503": ("503", 0.01),
    "half a body": "half",
    "no choices": "empty",
    "HTML page": "html",
    "HTML error page": "html500",
    "cut JSON": "junk",
    "JSON of something else": ("wrong", {"answer": 4}),
    "a JSON list": ("wrong", [1]),
    "content of a wrong type": ("wrong", {"choices": [{"message": {"content": 4}, "finish_reason": "stop"}]}),
    "no content": ("wrong", {"choices": [{"message": {"content": None}, "finish_reason": "stop"}]}),
    "aborted": ("finish", "abort"),
    "unfinished": ("finish", None),
}


@pytest.mark.parametrize("behaviour", FAULTS.values(), ids=FAULTS)
def test_a_fault_is_tried_again_and_the_reply_is_the_servers(behaviour: Behaviour) -> None:
    server = StubServer(behaviours=[behaviour, behaviour])
    assert run(ask, server).text == run(ask, StubServer()).text
    assert server.chats == 3


@pytest.mark.parametrize("behaviour", FAULTS.values(), ids=FAULTS)
def test_a_fault_that_stays_ends_the_call_within_bounds(behaviour: Behaviour) -> None:
    server = StubServer(always=behaviour)
    with pytest.raises(RunError, match=r"no endpoint of served-name works.*127\.0\.0\.1:.*after 4 tries") as caught:
        run(ask, server, tries=4)
    assert f":{server.port}" in str(caught.value)
    assert server.chats == 4


def test_while_other_calls_succeed_a_failing_one_is_only_its_samples_fault() -> None:
    server = StubServer(reply=lambda body: "fine" if "good" in body["messages"][0]["content"] else {"content": 4})

    async def scenario(engine: OpenAIEngine) -> None:
        async def keep_busy() -> None:
            while True:
                await ask(engine, [message("user", "good")], session="other")
                await asyncio.sleep(0.001)

        busy = asyncio.create_task(keep_busy())
        with pytest.raises(EngineFault, match=r"something else than a chat API would.*given up after 3 tries"):
            await ask(engine, [message("user", "bad")])
        busy.cancel()

    run(scenario, server, tries=3)


def test_a_stall_is_cut_off_and_tried_once_more() -> None:
    server = StubServer(behaviours=["stall"])
    assert run(ask, server, timeout=1.0).text.startswith("Thought")
    assert server.chats == 2
    dead = StubServer(always="stall")
    start = time.perf_counter()
    with pytest.raises(EngineFault, match=r"no reply within 0\.3 s; given up after 2 tries"):
        run(ask, dead, timeout=0.3)
    assert dead.chats == 2
    assert time.perf_counter() - start < 3


def test_stalls_of_every_call_stop_the_run() -> None:
    async def scenario(engine: OpenAIEngine) -> list[Any]:
        return await asyncio.gather(*(ask(engine, session=str(k)) for k in range(3)), return_exceptions=True)

    server = StubServer(always="stall")
    ends = run(scenario, server, timeout=0.2)
    assert [type(end) for end in ends].count(RunError) >= 1
    assert server.chats <= 6


def test_wrong_key_stops_at_once_and_is_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    server = StubServer(key="another")
    with pytest.raises(RunError, match=r"refuses access: HTTP 401.*Bearer \[key\]") as caught:
        run(ask, server)
    assert server.requests == {"/v1/models": 1}
    assert SECRET not in str(caught.value) + repr(caught.value) + caplog.text


@pytest.mark.parametrize(
    ("behaviour", "text"), [("401", "HTTP 401"), ("403", "HTTP 403"), ("quota", "HTTP 429.*quota")]
)
def test_denied_access_mid_run_stops_at_once(behaviour: str, text: str) -> None:
    server = StubServer(always=behaviour)
    with pytest.raises(RunError, match=text) as caught:
        run(ask, server)
    assert server.chats == 1
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "form",
    [
        SECRET,
        "".join(f"\\u{ord(letter):04x}" for letter in SECRET),
        urllib.parse.quote("/+" + SECRET, safe=""),
        "".join(f"%{ord(letter):02x}" for letter in SECRET),
        "".join(f"&#{ord(letter)};" for letter in SECRET),
        SECRET.encode().hex().upper(),
        base64.b64encode(SECRET.encode()).decode(),
        base64.b64encode(f"Bearer {SECRET}".encode()).decode(),
        base64.b64encode(f"user:{SECRET}:more".encode()).decode(),
    ],
)
def test_a_key_that_comes_back_is_masked_in_every_form(form: str, tmp_path: Path) -> None:
    """In a reply, and in a message about one; what is left of base64 is too little to be the key."""
    decoded = json.loads(f'"{form}"')
    completion = run(ask, StubServer(reply=lambda body: {"content": f"a {form} b", "reasoning": form}))
    kept = completion.text + (completion.reasoning or "")
    with pytest.raises(EngineFault) as caught:
        run(ask, StubServer(always=("finish", form)), tries=1)
    for text in (kept, str(caught.value)):
        assert "[key]" in text or decoded not in text
        assert SECRET not in text
        assert decoded not in text


def test_an_unserved_model_is_a_user_error_naming_what_is_served() -> None:
    server = StubServer(model="real-one")

    async def scenario() -> None:
        async with server:
            endpoint = Endpoint(model_name="other", model_url=server.url)
            with pytest.raises(UserError, match=r"does not serve 'other' \(served there: real-one\)"):
                async with OpenAIEngine(OpenAIConfig(model="m", endpoints=(endpoint,), **FAST)):
                    pass

    asyncio.run(scenario())
    assert server.chats == 1


def test_a_server_without_a_list_of_models_is_asked_for_a_token() -> None:
    server = StubServer(lists_models=False)
    assert run(ask, server).text.startswith("Thought")
    assert [body["max_tokens"] for body in server.seen] == [1, 64]


def test_unreachable_at_the_start_names_endpoint_and_tries() -> None:
    endpoint = Endpoint(model_name="m", model_url="http://127.0.0.1:9/v1")

    async def scenario() -> None:
        async with OpenAIEngine(OpenAIConfig(model="m", endpoints=(endpoint,), **FAST)):
            pass

    with pytest.raises(UserError, match=rf"after {START_TRIES} tries: http://127\.0\.0\.1:9/v1 cannot be reached"):
        asyncio.run(scenario())


def test_a_missing_key_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STUB_KEY", raising=False)
    endpoint = Endpoint(model_name="m", model_url="http://127.0.0.1:9/v1", api_key_env="STUB_KEY")
    with pytest.raises(UserError, match=r"\$STUB_KEY, which is not set"):
        OpenAIEngine(OpenAIConfig(model="m", endpoints=(endpoint,)))


def test_one_of_two_away_at_the_start_joins_when_it_comes(caplog: pytest.LogCaptureFixture) -> None:
    here, late = StubServer(), StubServer()

    async def scenario() -> None:
        async with here:
            async with late:
                pass  # takes a port and gives it back
            async with engine_for(here, late) as engine:
                assert "going on without" in caplog.text
                assert f":{late.port}" in caplog.text
                await ask(engine)
                async with late:
                    await asyncio.sleep(0.06)
                    await asyncio.gather(*(ask(engine, session=str(k)) for k in range(6)))
                    assert late.chats >= 1

    asyncio.run(scenario())


def test_a_content_filter_is_an_error_of_the_sample() -> None:
    server = StubServer(always=("finish", "content_filter"))
    with pytest.raises(SampleError, match="content filter"):
        run(ask, server)
    assert server.chats == 1


@pytest.mark.parametrize(
    ("refusal", "expected"),
    [
        (
            "Unsupported value: 'temperature' does not support 0.0 with this model. Only the default (1) is supported.",
            r"takes no such temperature; use --model_temperature 1",
        ),
        ("Unrecognized request argument supplied: seed", r"takes no such seed; use a run without --reproducible"),
        ("extra_forbidden: max_tokens", r"takes no such max_tokens; use another --model_max_tokens"),
    ],
)
def test_a_refused_parameter_stops_the_run_once_with_the_flag_that_removes_it(refusal: str, expected: str) -> None:
    server = StubServer(always=("refuse", refusal))
    with pytest.raises(RunError, match=expected):
        run(ask, server, reproducible=True)
    assert server.chats == 1


def test_a_server_that_answers_every_path_with_a_chat_reply_is_used_without_the_extras() -> None:
    server = StubServer(nonsense=True)

    async def known(engine: OpenAIEngine) -> tuple[str, bool]:
        return (await ask(engine)).text, engine.servers[0].tokenizes

    text, tokenizes = run(known, server)
    assert text.startswith("Thought ")
    assert not tokenizes


def test_content_in_parts_is_joined() -> None:
    parts = [{"type": "text", "text": "It is "}, {"type": "text", "text": "4."}, {"type": "image"}]
    assert run(ask, StubServer(reply=lambda body: {"content": parts})).text == "It is 4."


@pytest.mark.parametrize("told", [-5, 1 << 40])
def test_impossible_usage_is_unknown(told: int, caplog: pytest.LogCaptureFixture) -> None:
    usage = {"prompt_tokens": told, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": told}}
    completion = run(ask, StubServer(told_usage=usage))
    assert (completion.prompt_tokens, completion.cached_tokens) == (0, None)
    assert "reports no usage" in caplog.text


def test_a_redirect_to_another_host_is_not_followed() -> None:
    other = StubServer()

    async def redirected() -> None:
        server = StubServer()
        async with other, server, engine_for(server) as engine:
            server.always = ("redirect", f"{other.url}/chat/completions")
            with pytest.raises(RunError, match=rf"redirects to http://127\.0\.0\.1:{other.port}; .*model_url"):
                await ask(engine)

    asyncio.run(redirected())
    assert other.chats == 0


def test_a_body_beyond_reason_is_a_fault_and_is_not_kept_in_memory() -> None:
    """A gigabyte that comes as a megabyte, and one reply too long as it is."""
    import resource

    packer = zlib.compressobj(wbits=31)
    body = b"".join([*(packer.compress(b"0" * (1 << 20)) for _ in range(512)), packer.flush()])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(EngineFault, match="longer than 262144 bytes"):
        run(ask, StubServer(always=("packed", body)), tries=2)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 600 << 10
    with pytest.raises(EngineFault, match="longer than 16777216 bytes"):
        run(ask, StubServer(always=("text", "0" * (1 << 24))), tries=2)


def test_a_refused_call_is_an_error_of_the_sample() -> None:
    server = StubServer(always=("refuse", "questions about zebras are refused"))
    with pytest.raises(SampleError, match=r"refuses this call: HTTP 400.*questions about zebras are refused") as caught:
        run(ask, server)
    assert not isinstance(caught.value, EngineFault)
    assert server.chats == 1


# ---------------------------------------------------------------- limits


def test_calls_in_flight_never_exceed_the_cap_and_fill_it() -> None:
    servers = [StubServer(latency=0.01, always="ok"), StubServer(latency=0.01)]

    async def scenario(engine: OpenAIEngine) -> None:
        assert engine.capacity == 10
        await asyncio.gather(*(ask(engine, session=str(k)) for k in range(60)))

    run(scenario, *servers, workers=5)
    assert [server.peak for server in servers] == [5, 5]


def test_a_rate_limit_lowers_concurrency_which_then_grows_back() -> None:
    server = StubServer(latency=0.005, behaviours=["429"] * 8)

    async def scenario(engine: OpenAIEngine) -> int:
        await asyncio.gather(*(ask(engine, session=str(k)) for k in range(8)))
        lowered = engine.servers[0].limit
        server.peak = 0
        await asyncio.gather(*(ask(engine, session=str(k)) for k in range(60)))
        assert server.peak <= 8
        return lowered

    lowered = run(scenario, server)
    assert 4 <= lowered <= 6  # halved once for the whole burst
    assert server.chats == 8 + 8 + 60


def test_retry_after_is_honoured() -> None:
    for value in ("0.4", formatdate(time.time() + 1.9, usegmt=True)):
        server = StubServer(behaviours=[("429", value)])
        start = time.perf_counter()
        run(ask, server)
        assert time.perf_counter() - start > 0.4
        assert server.chats == 2


def test_a_retry_after_beyond_reason_ends_the_call() -> None:
    server = StubServer(behaviours=[("429", MAX_WAIT + 60)])
    with pytest.raises(EngineFault, match="asked to be left alone for 3"):
        run(ask, server)


def test_endless_rate_limits_end_the_call() -> None:
    server = StubServer(always="429")
    with pytest.raises(EngineFault, match=r"limits the rate.*after 6 tries"):
        run(ask, server, tries=3)
    assert server.chats == 6


def test_turns_of_a_session_stay_together_and_load_is_spread() -> None:
    servers = [StubServer(latency=0.01), StubServer(latency=0.01)]

    async def episode(engine: OpenAIEngine, name: str) -> None:
        for turn in range(4):
            await ask(engine, [message("user", f"{name} turn {turn}")], session=name)

    async def scenario(engine: OpenAIEngine) -> None:
        await asyncio.gather(*(episode(engine, f"session{k}") for k in range(8)))

    run(scenario, *servers)
    met = [{body["messages"][0]["content"].split()[0] for body in server.seen} for server in servers]
    assert not met[0] & met[1]
    assert [len(names) for names in met] == [4, 4]


def test_an_overloaded_home_lends_calls_and_stays_home() -> None:
    servers = [StubServer(latency=0.02), StubServer(latency=0.02)]

    async def scenario(engine: OpenAIEngine) -> None:
        await ask(engine, session="a")
        await asyncio.gather(*(ask(engine, session="a") for _ in range(4)))
        await ask(engine, session="a")

    run(scenario, *servers, workers=2)
    assert [server.chats for server in servers] == [4, 2]


def test_a_failing_endpoint_rests_is_probed_by_one_call_and_recovers() -> None:
    good, bad = StubServer(latency=0.002), StubServer(latency=0.002, behaviours=["500"] * 3)

    async def scenario(engine: OpenAIEngine) -> None:
        for _ in range(12):
            await asyncio.gather(*(ask(engine, session=str(k)) for k in range(8)))
            await asyncio.sleep(0.02)
        assert engine.servers[1].failures == 0

    run(scenario, good, bad, workers=4)
    assert bad.chats > 10
    assert good.chats + bad.chats == 12 * 8 + 3


@settings(deadline=None, max_examples=60)
@given(
    rests=st.lists(st.floats(0, 0.004), min_size=1, max_size=3),
    ends=st.lists(st.sampled_from(["ok", "broken", "limited", "cancel"]), min_size=1, max_size=30),
    workers=st.integers(1, 4),
)
def test_the_pool_keeps_every_bound_and_loses_no_place(rests: list[float], ends: list[str], workers: int) -> None:
    async def scenario() -> None:
        slots = [
            Slot(Endpoint(model_name="m", model_url="http://h", max_workers=workers), rest, 0.01) for rest in rests
        ]
        pool = Pool(slots)

        async def call(place: int, end: str) -> None:
            try:
                async with pool.lease(str(place % 4), place) as slot:
                    assert slot.in_flight <= workers
                    await asyncio.sleep(0.0005)
                    if end in ("broken", "limited"):
                        raise Fault("no", end)  # type: ignore[arg-type]
            except Fault:
                pass

        tasks = [asyncio.create_task(call(place, end)) for place, end in enumerate(ends)]
        await asyncio.sleep(0.0007)
        for task, end in zip(tasks, ends, strict=True):
            if end == "cancel":
                task.cancel()
        async with asyncio.timeout(20):
            results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(result is None or isinstance(result, asyncio.CancelledError) for result in results)
        assert all(slot.in_flight == 0 and 1 <= slot.limit <= workers for slot in slots)

    asyncio.run(scenario())


def test_who_waits_is_served_by_priority() -> None:
    server = StubServer(latency=0.005)

    async def scenario(engine: OpenAIEngine) -> None:
        calls = [asyncio.create_task(ask(engine, [message("user", "first")], session="x", priority=99))]
        await asyncio.sleep(0)
        for priority in (5, 1, 3):
            calls.append(asyncio.create_task(ask(engine, [message("user", str(priority))], priority=priority)))
        await asyncio.gather(*calls)

    run(scenario, server, workers=1)
    assert [body["messages"][0]["content"] for body in server.seen] == ["first", "1", "3", "5"]


# ---------------------------------------------------------------- guided choice

CHOICE = SamplingParams(temperature=0.0, max_tokens=16, choices=("True", "False"))


def test_guided_choice_is_probed_once_and_used(caplog: pytest.LogCaptureFixture) -> None:
    server = StubServer()

    async def scenario(engine: OpenAIEngine) -> list[Completion]:
        return [await ask(engine, params=CHOICE) for _ in range(2)]

    assert [completion.text for completion in run(scenario, server)] == ["True", "True"]
    assert server.chats == 3
    assert [body["structured_outputs"]["choice"] for body in server.seen[1:]] == [["True", "False"]] * 2
    assert caplog.text == ""


def test_a_server_that_ignores_guided_choice_is_asked_in_words(caplog: pytest.LogCaptureFixture) -> None:
    server = StubServer(guided=False, reply=lambda _: "**false**.")

    async def scenario(engine: OpenAIEngine) -> list[Completion]:
        return [await ask(engine, params=CHOICE) for _ in range(2)]

    assert [completion.text for completion in run(scenario, server)] == ["False", "False"]
    assert caplog.text.count("does not honour guided choice") == 1
    assert server.seen[1]["messages"][0]["content"] == "What is 2 + 2?" + CHOICE_REQUEST.format(choices="True | False")
    assert "structured_outputs" not in server.seen[1]


def test_a_server_that_refuses_the_field_is_asked_in_words() -> None:
    server = StubServer(
        guided=False, reply=lambda _: "True", behaviours=[("refuse", "Unknown field structured_outputs")]
    )
    assert run(lambda engine: ask(engine, params=CHOICE), server).text == "True"


@pytest.mark.parametrize("reply", ["I think that is True.", "True or False", "", "truthful"])
def test_a_reply_that_is_no_choice_is_never_taken_for_one(reply: str) -> None:
    with pytest.raises(SampleError, match="is not one of") as caught:
        run(lambda engine: ask(engine, params=CHOICE), StubServer(guided=False, reply=lambda _: reply))
    assert not isinstance(caught.value, EngineFault)


def test_a_guided_reply_that_is_no_choice_is_a_fault() -> None:
    server = StubServer(behaviours=["ok", *[("text", "Tru")] * 3])
    with pytest.raises((EngineFault, RunError), match=r"guided choice gave 'Tru', not one of.*after 3 tries"):
        run(lambda engine: ask(engine, params=CHOICE), server, tries=3)
    assert server.chats == 4


@pytest.mark.parametrize(
    ("text", "choices", "expected"),
    [
        ("(a)", ("A", "B"), "A"),
        ("a", ("A", "a"), "a"),
        ("b", ("B", "b."), None),
        ("+", ("+", "-"), "+"),
        ("*", ("+", "-"), None),
        ("yes", (" yes", "no"), " yes"),
    ],
)
def test_matching_is_strict(text: str, choices: tuple[str, ...], expected: str | None) -> None:
    assert _match(text, choices, exactly=False) == expected


SCHEMA = {
    "type": "object",
    "properties": {"scores": {"type": "array", "items": {"type": "integer", "minimum": 1}, "minItems": 2}},
    "required": ["scores"],
}
FORMED = SamplingParams(temperature=0.0, max_tokens=16, schema=SCHEMA)


def test_a_json_schema_is_probed_once_and_used() -> None:
    server = StubServer()

    async def scenario(engine: OpenAIEngine) -> list[Completion]:
        return [await ask(engine, params=FORMED) for _ in range(2)]

    assert [completion.text for completion in run(scenario, server)] == ['{"scores": [1, 1]}'] * 2
    assert server.chats == 3
    assert [body["response_format"]["json_schema"]["schema"] for body in server.seen[1:]] == [SCHEMA] * 2


@pytest.mark.parametrize("behaviours", [[], [("refuse", "Unknown field response_format")]])
def test_a_server_that_does_not_honour_schemas_is_asked_without(
    behaviours: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    server = StubServer(guided=False, reply=lambda _: "about 3", behaviours=behaviours)

    async def scenario(engine: OpenAIEngine) -> list[Completion]:
        return [await ask(engine, params=FORMED) for _ in range(2)]

    assert [completion.text for completion in run(scenario, server)] == ["about 3"] * 2
    assert all("response_format" not in body for body in server.seen[1:])
    assert caplog.text.count("does not honour JSON schemas") == 1


VERDICT = SamplingParams(temperature=0.0, max_tokens=1, choices=("true", "false"), choice_logprobs=True)


def verdict(text: str, top: dict[str, float] | None) -> Behaviour:
    """An answer with the log-probabilities of its first token."""
    tokens = [{"token": token, "logprob": logprob, "bytes": None} for token, logprob in (top or {}).items()]
    logprobs = {"content": [{"token": text, "logprob": -0.1, "top_logprobs": tokens}]} if top is not None else None
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "logprobs": logprobs}
    return "wrong", {"choices": [choice | {"finish_reason": "length"}]}


@pytest.mark.parametrize(
    ("text", "top", "choice", "expected"),
    [
        ("true", {"true": -0.5, "false": -1.5, "The": -3.0}, "true", {"true": -0.5, "false": -1.5}),
        ("fa", {"fa": -0.2, "true": -2.0, "f": -4.0}, "false", {"true": -2.0, "false": -0.2}),
        ("true", {"true": -0.1, " true": -0.05, "False": -3.0}, "true", {"true": -0.1, "false": -3.0}),
        ("true", {"true": -0.1, "Yes": -9.0}, "true", {"true": -0.1, "false": -9.0}),
        ("true", {"Yes": -0.1, "": -9.0}, "true", None),
        ("true", {}, "true", None),
        ("true", None, "true", None),
    ],
)
def test_log_probabilities_of_choices(
    text: str, top: dict[str, float] | None, choice: str, expected: dict[str, float] | None
) -> None:
    server = StubServer(behaviours=["ok", verdict(text, top)])
    completion = run(lambda engine: ask(engine, params=VERDICT), server)
    assert (completion.text, completion.choice_logprobs) == (choice, expected)
    assert server.seen[1]["max_tokens"] == 1
    assert (server.seen[1]["logprobs"], server.seen[1]["top_logprobs"]) == (True, 20)
    assert "logprobs" not in server.seen[0]


def test_a_server_that_tells_no_log_probabilities_is_asked_once() -> None:
    refusal = ("refuse", "Unsupported parameter: 'logprobs' is not supported with this model.")
    server = StubServer(behaviours=["ok", refusal])

    async def scenario(engine: OpenAIEngine) -> list[Completion]:
        return [await ask(engine, params=VERDICT) for _ in range(2)]

    assert [(one.text, one.choice_logprobs) for one in run(scenario, server)] == [("true", None)] * 2
    assert ["logprobs" in body for body in server.seen] == [False, True, False, False]


def test_words_for_a_choice_get_more_than_one_token() -> None:
    server = StubServer(guided=False, reply=lambda body: "True.")
    assert run(lambda engine: ask(engine, params=VERDICT), server).text == "true"
    assert server.seen[1]["max_tokens"] == 16


def test_documents_are_cut_alike_for_candidates_of_unlike_length() -> None:
    server = StubServer(context=4096)
    document = Part(" ".join(f"word{k}" for k in range(6000)), "middle", "document")

    async def scenario(engine: OpenAIEngine) -> set[Any]:
        lengths = range(10, 130, 20)
        prompts = [[message("user", document, "\n\n" + "again " * length)] for length in lengths]
        cuts = [(await ask(engine, prompt, VERDICT)).truncation for prompt in prompts]
        return set(cuts)

    assert len(run(scenario, server)) <= 2


# ---------------------------------------------------------------- context

WORDS = " ".join(f"word{k}" for k in range(3000))
LONG = [message("user", Part(WORDS, "middle", "document"), "\n\nWho spoke first?")]


@pytest.mark.parametrize("told", ["counted", "told when refused", "estimated"])
def test_a_document_yields_and_the_cut_can_be_rebuilt(told: str) -> None:
    server = StubServer(context=1000, tokenizes=told == "counted", tells_context=told == "counted")
    if told == "estimated":
        server.tells_context = True

    async def twice(engine: OpenAIEngine) -> Completion:
        await ask(engine, LONG)
        return await ask(engine, LONG)

    completion = run(twice, server)
    assert completion.truncation is not None
    sent = server.seen[-1]["messages"]
    assert sent == [{"role": "user", "content": apply_cuts(LONG, completion.truncation)[0].text}]
    assert sent[0]["content"].startswith("word0 ")
    assert sent[0]["content"].endswith("word2999\n\nWho spoke first?")
    assert completion.max_tokens is None
    room = 1000 - 64
    used = server.tokens(sent)
    assert used <= room
    if told == "counted":
        assert used >= 0.95 * room
        assert server.chats == 2
        assert server.requests["/tokenize"] <= 1 + 2 * 6
    else:
        assert used >= 0.5 * room  # the ratio of the first call is known
        assert server.chats <= 3


def test_two_documents_share_the_room() -> None:
    server = StubServer(context=1000)
    parts = [Part(f"{name} " * 2000, "middle", "document") for name in ("left", "right")]
    completion = run(lambda engine: ask(engine, [message("user", parts[0], "\n", parts[1])]), server)
    assert len(completion.truncation) == 2
    text = server.seen[-1]["messages"][0]["content"]
    assert min(text.count("left"), text.count("right")) > 400


@pytest.mark.parametrize("tokenizes", [True, False])
def test_a_reply_is_clipped_to_what_the_context_leaves(tokenizes: bool) -> None:
    server = StubServer(context=400, tokenizes=tokenizes)
    params = SamplingParams(temperature=0.0, max_tokens=4096)
    completion = run(lambda engine: ask(engine, [message("user", "word " * 96)], params), server)
    assert completion.max_tokens == server.seen[-1]["max_tokens"]
    assert completion.max_tokens <= 300
    if tokenizes:
        assert completion.max_tokens == 300


def test_nothing_is_counted_or_cut_while_there_is_room() -> None:
    server = StubServer(context=100_000)
    assert run(lambda engine: ask(engine, LONG), server).truncation is None
    assert server.requests["/tokenize"] == 1  # at the start


@pytest.mark.parametrize("tokenizes", [True, False])
def test_a_prompt_that_cannot_fit_is_an_error_naming_both_lengths(tokenizes: bool) -> None:
    server = StubServer(context=256, tokenizes=tokenizes, tells_context=tokenizes)
    with pytest.raises(SampleError, match="prompt of 304 tokens leaves -48 of the context of 256, fewer than 64"):
        run(lambda engine: ask(engine, [message("user", "word " * 300)]), server)
    assert server.chats == (0 if tokenizes else 1)


def test_refusals_without_numbers_are_bounded() -> None:
    server = StubServer(always=("refuse", "context length exceeded"))
    with pytest.raises(SampleError, match=r"could not be made to fit.*context length exceeded"):
        run(lambda engine: ask(engine, LONG), server)
    assert server.chats == 1 + SHRINKS


def test_a_context_learned_from_a_refusal_stays_known() -> None:
    server = StubServer(context=1000, tells_context=False)

    async def scenario(engine: OpenAIEngine) -> None:
        assert engine.context_length == 1 << 20
        await ask(engine, LONG)
        assert engine.context_length == 1000
        before = server.chats
        await ask(engine, LONG)
        assert server.chats == before + 1

    run(scenario, server)


@settings(deadline=None, max_examples=40)
@given(
    documents=st.lists(st.lists(st.text("ab \n", max_size=9), max_size=400).map("".join), min_size=1, max_size=3),
    context=st.integers(2 * MIN_NEW_TOKENS, 900),
    max_tokens=st.integers(1, 600),
)
def test_what_is_counted_fits(documents: list[str], context: int, max_tokens: int) -> None:
    messages = [message("user", *(Part(text, "middle", "document") for text in documents), "Why?")]
    params = SamplingParams(temperature=0.0, max_tokens=max_tokens)
    counts = 0

    async def count(messages: Any) -> float:
        nonlocal counts
        counts += 1
        return sum(len(message.text) for message in messages) // 2 + 4

    plan = asyncio.run(Fitter().plan(messages, params, context, count, None))
    assert asyncio.run(count(plan.messages)) + plan.max_tokens <= context
    assert counts <= 7
    assert plan.max_tokens >= min(max_tokens, MIN_NEW_TOKENS)
    if plan.truncation is not None:
        assert apply_cuts(messages, plan.truncation) == list(plan.messages)


@pytest.mark.parametrize(
    ("text", "context", "prompt"),
    [
        (
            "This model's maximum context length is 2048 tokens. However, you requested 64 output tokens and your "
            "prompt contains 3000 input tokens, for a total of 3064 tokens.",
            2048,
            3000,
        ),
        (
            "This model's maximum context length is 2048 tokens. However, you requested 64 output tokens and your "
            "prompt contains at least 1985 input tokens, for a total of at least 2049 tokens.",
            2048,
            None,
        ),
        (
            "This model's maximum context length is 8192 tokens. However, your messages resulted in 10000 tokens.",
            8192,
            10000,
        ),
        (
            "This model's maximum context length is 4097 tokens. However, you requested 5000 tokens (1000 in the "
            "messages, 4000 in the completion).",
            4097,
            1000,
        ),
        ("The input (5000 tokens) is longer than the model's context length (4096 tokens).", 4096, 5000),
        ("the request exceeds the available context size, try increasing it", None, None),
        (
            "`inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000 `inputs` tokens and 512 `max_new_tokens`",
            4096,
            5000,
        ),
    ],
)
def test_complaints_about_length_are_understood(text: str, context: int | None, prompt: int | None) -> None:
    refusal = complaint(text)
    assert isinstance(refusal, TooLong)
    assert (refusal.context, refusal.prompt) == (context, prompt)


def test_other_refusals_are_no_complaints_about_length() -> None:
    assert complaint("temperature must be non-negative") is None
    assert characters(QUESTION) == len("What is 2 + 2?") + 32


# ---------------------------------------------------------------- through the runner


class Pair:
    """Two agents, two rounds: calls of a sample both at once and after each other."""

    async def run(self, sample: Sample, chat: Chat) -> Outcome:
        first = [message("user", *sample.parts())]
        one = await gather(*(chat(first, agent=f"agent_{k}", round=1, role="solver") for k in range(2)))
        last = await chat(
            [*first, message("assistant", one[0]), message("user", "Peer: ", one[1])],
            agent="agent_0",
            round=2,
            role="solver",
        )
        return Outcome(solutions=[Solution(id=1, agent="agent_0", round=2, turn=last.id, answer=last.text[-3:-2])])


def samples(count: int) -> list[Sample]:
    return [
        Sample(id=f"T/test/{k}", source="T", query=f"What is {k}?", gt="1", answer_type="number") for k in range(count)
    ]


async def episodes(engine: OpenAIEngine, path: Path, count: int) -> None:
    store = Store(path, {"seed": 0})
    store.start({"engine": engine.name, "config": engine.config.model_dump(mode="json")})
    order = None
    try:
        runner = Runner(
            method=Pair(),
            info=MethodInfo("pair", "config_main", {}),
            model="served-name",
            engines={"main": engine},
            defaults=Defaults(0.0, 64, 0),
            store=store,
            progress=Progress(count, quiet=True),
        )
        await runner.run([sample for sample in samples(count) if sample.id not in store.done])
        order = {sample.id: place for place, sample in enumerate(samples(count))}
    finally:
        store.close(order)


def answers(path: Path) -> dict[str, str | None]:
    return {record.id: record.final_answer for record in read_records(path)}


def test_one_of_two_servers_killed_mid_run_loses_and_doubles_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    servers = [StubServer(latency=0.01), StubServer(latency=0.01)]

    async def scenario(engine: OpenAIEngine) -> None:
        async def kill() -> None:
            while servers[1].chats < 20:
                await asyncio.sleep(0.001)
            assert servers[1].in_flight
            await servers[1].kill()

        await asyncio.gather(episodes(engine, tmp_path / "a.jsonl", 40), kill())

    run(scenario, *servers, workers=4)
    run(lambda engine: episodes(engine, tmp_path / "b.jsonl", 40), StubServer())
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == [sample.id for sample in samples(40)]
    assert not any(row.get("error") for row in rows)
    assert all(len(row["trajectory"]) == 3 for row in rows)
    assert answers(tmp_path / "a.jsonl") == answers(tmp_path / "b.jsonl")
    assert servers[1].chats < 40
    assert max(server.peak for server in servers) <= 4
    assert caplog.text.count("failed 3 times in a row and is tried less often") == 1


def test_a_server_that_does_everything_wrong_spoils_no_row(tmp_path: Path) -> None:
    faults = [behaviour for behaviour in FAULTS.values() for _ in range(2)]
    # a third of the replies is broken: with the 6 tries of the default, one call in 700 would meet only those
    mixed = [one for fault in faults for one in ("ok", fault, "ok")] + ["stall", ("429", 0.05), ("slow", 0.05)]
    server = StubServer(latency=0.002, behaviours=mixed)
    run(lambda engine: episodes(engine, tmp_path / "a.jsonl", 40), server, workers=6, timeout=1.5, tries=26)
    run(lambda engine: episodes(engine, tmp_path / "b.jsonl", 40), StubServer())
    assert len(answers(tmp_path / "a.jsonl")) == 40
    assert not any(record.error for record in read_records(tmp_path / "a.jsonl"))
    assert answers(tmp_path / "a.jsonl") == answers(tmp_path / "b.jsonl")
    assert server.behaviours == []
    assert server.peak <= 6
    assert server.chats == 40 * 3 + len(faults) + 2  # the stall and the rate limit; one slow reply is no failure


def test_all_servers_dead_stops_the_run_and_what_is_done_stays(tmp_path: Path) -> None:
    servers = [StubServer(latency=0.005), StubServer(latency=0.005)]

    async def scenario(engine: OpenAIEngine) -> None:
        async def kill() -> None:
            while servers[0].chats < 30:
                await asyncio.sleep(0.001)
            await asyncio.gather(*(server.kill() for server in servers))

        killing = asyncio.create_task(kill())
        await episodes(engine, tmp_path / "a.jsonl", 200)
        await killing

    with pytest.raises(
        RunError, match=r"no endpoint of served-name works any more.*cannot be reached.*after \d+ tries"
    ):
        run(scenario, *servers, workers=3)
    kept = answers(tmp_path / "a.jsonl")
    assert 5 <= len(kept) < 40
    run(lambda engine: episodes(engine, tmp_path / "a.jsonl", 200), StubServer())
    assert len(answers(tmp_path / "a.jsonl")) == 200


def test_no_key_is_written_or_logged_anywhere(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    server = StubServer(key=SECRET, behaviours=["500", ("refuse", f"bad call from Bearer {SECRET}"), "429"])
    run(lambda engine: episodes(engine, tmp_path / "a.jsonl", 6), server)
    assert server.authorizations == {f"Bearer {SECRET}"}
    written = "".join(file.read_text() for file in tmp_path.iterdir())
    assert "bad call from Bearer [key]" in written
    assert SECRET not in written + caplog.text
    config = engine_for(server).config
    assert SECRET not in repr(config) + str(config.model_dump()) + config.model_dump_json()


# ---------------------------------------------------------------- the endpoint file


def test_the_repositorys_own_file_loads() -> None:
    models = read_endpoints(DEFAULT_FILE)
    assert models["gpt-4o-mini"][0].api_key_env == "OPENAI_API_KEY"
    assert len(models["qwen3-8b-served"]) == 2
    assert endpoints_of("not-in-there") is None


def test_the_published_layout_is_read(tmp_path: Path) -> None:
    file = tmp_path / "model_api_config.json"
    entry = {"model_name": "m-2024", "model_url": "https://host/v1", "api_key": SECRET}
    file.write_text(json.dumps({"m": {"model_list": [entry, entry], "max_workers_per_model": 7}}))
    endpoints = endpoints_of("m", file)
    assert endpoints is not None
    assert [(one.model_name, one.max_workers, one.key()) for one in endpoints] == [("m-2024", 7, SECRET)] * 2
    with pytest.raises(UserError, match="no model 'n'"):
        endpoints_of("n", file)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("m: 3", "m: expected an endpoint or a list"),
        ("m: []", "m: expected an endpoint or a list"),
        ("m: [3]", "endpoint 1: expected `key: value` lines"),
        ("4: {}", "a model name must be text"),
        ("../m: {}", "not usable as a model name"),
        ("m: {model_name: a}", "endpoint 1: model_url is missing"),
        ("m: {model_url: http://h}", "model_name is missing"),
        ("m: {model_name: a, model_url: 'ftp://h'}", "is not an address like"),
        ("m: {model_name: a, model_url: 'http://h:x'}", "is not an address like"),
        ("m: {model_name: a, model_url: 'http://h/v1/chat/completions'}", "without /chat/completions"),
        ("m: {model_name: a, model_url: http://h, workers: 3}", "unknown key 'workers'.*did you mean max_workers"),
        ("m: {model_name: a, model_url: http://h, max_workers: 0}", "max_workers = 0"),
        ("m: {model_name: a, model_url: http://h, max_workers: many}", "max_workers = 'many'"),
        ("m: {model_list: [], tries: 3}", "unknown key 'tries'"),
        ("m: 1\nm: 2", "'m' is given twice"),
        ("m: [", "not valid YAML"),
    ],
)
def test_a_malformed_file_is_told_in_one_line(tmp_path: Path, text: str, complaint: str) -> None:
    file = tmp_path / "endpoints.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=complaint) as caught:
        read_endpoints(file)
    assert str(caught.value).startswith(str(file))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "entry",
    [
        {"api_key": SECRET},
        {"api_key_env": SECRET},
        {"api_key": SECRET, "api_key_env": "KEY"},
        {"api_key": [SECRET]},
        {"model_url": f"http://user:{SECRET}@host/v1"},
        {"model_url": f"http://host/v1?key={SECRET}"},
        {"api_key": SECRET, "max_workers": "many"},
        {"api_key": SECRET, "model_url": None},
        {"api_key": SECRET, "extra": 1},
    ],
    ids=str,
)
def test_errors_about_the_file_repeat_no_secret(tmp_path: Path, entry: dict[str, Any]) -> None:
    whole = {"model_name": "a", "model_url": "http://h/v1", **entry}
    for place, value in enumerate((whole, {"model_list": [whole]})):
        file = tmp_path / f"{place}.json"
        file.write_text(json.dumps({"m": value}))
        if place == 1 and entry == {"api_key": SECRET}:  # the one right place for a key
            assert SECRET not in repr(read_endpoints(file))
            continue
        with pytest.raises(UserError) as caught:
            read_endpoints(file)
        assert SECRET not in str(caught.value)
        assert caught.value.__cause__ is None


@pytest.mark.parametrize("key", [f"{SECRET}\nnext line", f"{SECRET}\r", f"{SECRET} é", f"{SECRET}\u2028"])
def test_a_key_that_no_header_can_carry_is_refused_when_the_file_is_read(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = {"model_name": "a", "model_url": "http://h/v1"}
    monkeypatch.setenv("STUB_KEY", key + "x")
    named, held = tmp_path / "named.json", tmp_path / "held.json"
    named.write_text(json.dumps({"m": {**whole, "api_key_env": "STUB_KEY"}}))
    held.write_text(json.dumps({"m": {"model_list": [{**whole, "api_key": key}]}}))
    for file, name in ((named, "$STUB_KEY"), (held, "api_key")):
        with pytest.raises(UserError, match="line break or a sign that is not ASCII") as caught:
            read_endpoints(file)
        assert name in str(caught.value)
        assert SECRET not in str(caught.value)


def test_engines_are_listed_without_importing_them(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert list_engines([]) == 0
    listing = capsys.readouterr().out
    assert [line for line in listing.splitlines() if not line.startswith(" ")] == ["vllm", "openai", "hf"]
    assert "$OPENAI_API_KEY is not set" in listing
    (tmp_path / "bad.yaml").write_text("m: 3")
    with pytest.raises(UserError, match=r"bad\.yaml: m: expected an endpoint"):
        list_engines([str(tmp_path / "bad.yaml")])
