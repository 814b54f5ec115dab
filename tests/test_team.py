"""inference.py with a team, on engines that say which of them was asked."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from argparse import Namespace
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fakes import ScriptedEngine
from msgspec import structs
from stub_server import StubServer

import inference
from agentark import summary
from agentark.engines.choose import Choice
from agentark.records import expand, read_records
from agentark.runner import replay
from agentark.types import Completion, Message, Record, SamplingParams, UserError
from eval.report.samples import detail
from methods import load_method

KINDS = ("vllm", "hf")


@dataclass
class Answering(ScriptedEngine):
    """Signs its replies as the engines do."""

    label: str = ""

    async def chat(self, messages: Any, params: SamplingParams, *, session: str, priority: int) -> Completion:
        reply = await super().chat(messages, params, session=session, priority=priority)
        model = self.label if params.adapter is None else f"{self.label}@{params.adapter}"
        return structs.replace(reply, model=model)


@dataclass
class Models:
    """Makes engines, as the flags choose them."""

    kind: str | None = "vllm"
    made: list[tuple[str, tuple[str, ...], int]] = field(default_factory=list)
    """(model, adapters, engines that share the memory) of each engine that was made."""
    engines: list[Answering] = field(default_factory=list)

    def choose(self, args: Namespace, name: str, flag: str = "--model_name") -> Choice:
        def make(lock: Any) -> Answering:
            self.made.append((name, tuple(getattr(args, "adapters", {})), getattr(args, "sharing", 1)))
            self.engines.append(Answering(label=name))
            return self.engines[-1]

        if name == "org/missing":
            raise UserError(f"{flag} {name}: neither a folder nor a hub id")
        return Choice(name, make, None if self.kind is None else f"/nowhere/{name}", self.kind)

    def seen(self) -> list[tuple[str, tuple[Message, ...]]]:
        """(who, messages) of all calls."""
        return [
            (engine.label + (f"@{params.adapter}" if params.adapter else ""), messages)
            for engine in self.engines
            for _, messages, params in engine.seen
        ]


def adapter(folder: Path, trained: str = "once") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text('{"r": 4}')
    header = json.dumps({"__metadata__": {"trained": trained}}).encode()
    (folder / "adapter_model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    return folder


@pytest.fixture
def run(tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    monkeypatch.chdir(tmp_path)

    def call(models: Models, *words: str, method: str = "llm_debate", data: str = "GSM8K") -> int:
        argv = ["--method_name", method, "--test_dataset_name", data, "--model_name", "org/main", "--max_samples", "1"]
        return inference.main([*argv, "--data_dir", str(data_dir), *words], choose_engine=models.choose)

    return call


def results(folder: Path, method: str = "llm_debate", data: str = "GSM8K") -> Path:
    return folder / f"results/{data}/org/main/{method}_infer.jsonl"


def only(path: Path) -> Record:
    (record,) = read_records(path)
    assert record.error is None, record.error
    return record


CASES: dict[str, tuple[list[str], dict[str, str]]] = {
    "llm_debate": (
        ["agent_1=org/a", "agent_2=org/b", "agent_3=@x", "aggregator=org/b@y"],
        {"agent_1": "org/a", "agent_2": "org/b", "agent_3": "org/main@x", "aggregator": "org/b@y"},
    ),
    "dylan": (
        ["solver=org/a", "agent_2=org/b", "*=@x"],
        {"agent_1": "org/a", "agent_2": "org/b", "agent_3": "org/a", "agent_4": "org/a", "ranker": "org/main@x"},
    ),
    "mav": (
        ["agent_1=org/a", "verify=org/b", "verifier_2=org/b@y"],
        {"agent_1": "org/a", "agent_2": "org/main", "verifier_1": "org/b org/main", "verifier_2": "org/b@y"},
    ),
    "mad": (
        ["negative=org/a", "judge=org/b", "moderator=@x"],
        {"affirmative": "org/main", "negative": "org/a", "judge": "org/b", "moderator": "org/main@x"},
    ),
    "camel": (
        ["user=org/a", "assistant=org/a@y"],
        {"user": "org/a", "assistant": "org/a@y", "task_specifier": "org/main", "extractor": "org/main"},
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", CASES)
def test_each_engine_sees_the_messages_of_its_agents(
    run: Callable[..., int], tmp_path: Path, method: str, kind: str
) -> None:
    words, expected = CASES[method]
    for name in "xy":
        adapter(tmp_path / name)
    models = Models(kind)
    assert run(models, "--team", *words, method=method) == 0
    record = only(results(tmp_path, method))
    answered: dict[str, set[str]] = {}
    for turn in record.trajectory:
        answered.setdefault(turn.agent, set()).add(turn.completion.model)
    assert {agent: " ".join(sorted(who)) for agent, who in answered.items()}.items() <= expected.items()
    told = [(turn.completion.model, tuple(expand(record, turn))) for turn in record.trajectory]
    assert sorted(map(repr, models.seen())) == sorted(map(repr, told))
    assert set(record.token_stats) == set().union(*answered.values())
    again = asyncio.run(replay(record, load_method(method)[0]))
    assert again == record


def test_adapters_share_an_engine_in_vllm_and_have_one_each_in_transformers(
    run: Callable[..., int], tmp_path: Path
) -> None:
    words = ["--team", "agent_1=org/a@x", "agent_2=org/a@y", "agent_3=org/a", "aggregator=@x"]
    for name in "xy":
        adapter(tmp_path / name)
    vllm, hf = Models("vllm"), Models("hf")
    assert run(vllm, *words) == run(hf, *words, "--overwrite") == 0
    assert sorted(vllm.made) == [("org/a", ("x", "y"), 2), ("org/main", ("x",), 2)]
    assert sorted(hf.made) == [("org/a", (), 4), ("org/a", ("x",), 4), ("org/a", ("y",), 4), ("org/main", ("x",), 4)]


def test_a_generator_whom_nobody_asks_is_not_started(run: Callable[..., int], tmp_path: Path) -> None:
    models = Models()
    assert run(models, "--team", "*=org/a", "agent_1=org/b") == 0
    assert sorted(name for name, _, _ in models.made) == ["org/a", "org/b"]
    assert only(results(tmp_path)).model == "org/main"
    listed = Models()
    assert run(listed, "--overwrite", "--team", "debater=org/a", "aggregator=org/b") == 0
    assert sorted(name for name, _, _ in listed.made) == ["org/a", "org/b"]


def test_a_record_tells_its_team_and_the_debate_shows_who_spoke(run: Callable[..., int], tmp_path: Path) -> None:
    adapter(tmp_path / "deep/x")
    (tmp_path / "team.yaml").write_text(
        "agent_1: {model: org/a, adapter: deep/x, temperature: 0.9, stop: ['#']}\ndebater: {top_p: 0.8}\n"
    )
    models = Models()
    assert run(models, "--team", "team.yaml") == 0
    record = only(results(tmp_path))
    assert record.team == {
        "agent_1": {"model": "org/a@x", "temperature": 0.9, "stop": ["#"]},
        "debater": {"top_p": 0.8},
    }
    (given,) = {
        (params.temperature, params.top_p, params.stop)
        for engine in models.engines
        for _, _, params in engine.seen
        if params.adapter == "x"
    }
    assert given == (0.9, 0.8, ("#",))
    shown = summary.debate(record)
    assert "| agent_1 | debater | org/a@x |" in shown
    assert "| agent_2 | debater | org/main |" in shown
    table = summary.table([results(tmp_path)])
    assert "llm_debate_infer: org/a@x: 2 calls, " in table
    assert "llm_debate_infer: org/main: 5 calls, " in table


def test_a_record_without_a_team_is_as_before(run: Callable[..., int], tmp_path: Path) -> None:
    assert run(Models()) == 0
    row = json.loads(results(tmp_path).read_text())
    assert "team" not in row
    manifest = json.loads(next(tmp_path.rglob("*manifest.json")).read_text())
    assert not {"team", "adapters"} & manifest["config"].keys()


def test_another_team_or_another_adapter_of_the_same_name_does_not_continue_a_run(
    run: Callable[..., int], tmp_path: Path
) -> None:
    adapter(tmp_path / "a/x")
    assert run(Models(), "--team", "agent_1=@a/x") == 0
    again = Models()
    adapter(tmp_path / "moved/x")
    assert run(again, "--team", "agent_1=@moved/x") == 0
    assert not again.seen()
    for words, says in (
        (["agent_2=@a/x"], "team was {'agent_1'"),
        (["agent_1=org/a"], "team was {'agent_1'"),
        ([], "team was {'agent_1'"),
        (["agent_1=@b/x"], "adapters was {'org/main@x'"),
    ):
        adapter(tmp_path / "b/x", "twice")
        with pytest.raises(UserError, match=f"another configuration .*{says}") as raised:
            run(Models(), *(["--team", *words] if words else []))
        assert "\n" not in str(raised.value)


def test_adapters_of_one_name_are_told_apart(run: Callable[..., int], tmp_path: Path) -> None:
    adapter(tmp_path / "a/x"), adapter(tmp_path / "b/x", "twice")
    models = Models()
    assert run(models, "--team", "agent_1=@a/x", "agent_2=@b/x") == 0
    assert [names for _, names, _ in models.made] == [("a/x", "b/x")]
    assert {"org/main@a/x", "org/main@b/x", "org/main"} == set(only(results(tmp_path)).token_stats)


def test_sampling_of_a_choice_and_of_verifiers_stays_the_methods(run: Callable[..., int], tmp_path: Path) -> None:
    (tmp_path / "team.yaml").write_text("'*': {temperature: 0.9, top_p: 0.5}\nverifier_2: {temperature: 0.7}\n")
    models = Models()
    assert run(models, "--team", "team.yaml", method="mav") == 0
    (engine,) = models.engines
    sampled = {params.temperature for _, _, params in engine.seen if not params.choices}
    assert sampled == {0.9, 0.0, 0.7}
    assert {params.temperature for _, _, params in engine.seen if params.choices} == {0.0}
    assert {params.top_p for _, _, params in engine.seen if params.choices} == {None}


def test_a_team_may_name_verifiers_beside_verifier_models(run: Callable[..., int], tmp_path: Path) -> None:
    models = Models()
    words = ["--verifier_models", "org/a", "org/main", "--team", "verifier_2=org/b", "agent_1=org/a"]
    assert run(models, *words, method="mav") == 0
    record = only(results(tmp_path, "mav"))
    who = {turn.agent: turn.completion.model for turn in record.trajectory}
    assert who == {"agent_1": "org/a", "agent_2": "org/main", "verifier_1": "org/a", "verifier_2": "org/b"}
    assert sorted(name for name, _, _ in models.made) == ["org/a", "org/b", "org/main"]


def test_everybody_else_leaves_a_verifier_to_the_method(run: Callable[..., int], tmp_path: Path) -> None:
    assert run(Models(), "--verifier_models", "org/main", "org/a", "--team", "*=org/b", method="mav") == 0
    who = {turn.agent: turn.completion.model for turn in only(results(tmp_path, "mav")).trajectory}
    assert who == {"agent_1": "org/b", "agent_2": "org/b", "verifier_1": "org/main", "verifier_2": "org/a"}


@pytest.mark.parametrize(
    ("kind", "words", "says"),
    [
        ("vllm", ["agent_4=org/a"], r"--team agent_4: llm_debate has no such agent or role \(known: agent_1, agent_2"),
        ("vllm", ["agent_1=org/missing"], "--team agent_1: org/missing: neither a folder nor a hub id"),
        ("vllm", ["agent_1=@nowhere"], "--team agent_1: nowhere: no such folder"),
        ("vllm", ["agent_1=@empty"], "--team agent_1: empty: no adapter_config.json in it"),
        ("hf", ["agent_1=org/a@pickled"], "--team agent_1: pickled: no adapter_model.safetensors in it"),
        (None, ["agent_1=@good"], "--team agent_1: good: org/main is served, and an adapter there is a model of its"),
        ("vllm", ["agent_1=@good", "--lora_path", "good"], "--lora_path good: does not go together with --team"),
        (
            "vllm",
            ["agent_1=org/a", "--method_name", "cot", "vanilla"],
            "--team: goes with one --method_name, not with 2",
        ),
    ],
)
def test_wrong_teams_are_one_line_before_anything_is_written(
    run: Callable[..., int], tmp_path: Path, kind: str, words: list[str], says: str
) -> None:
    adapter(tmp_path / "good")
    (tmp_path / "empty").mkdir()
    (adapter(tmp_path / "pickled") / "adapter_model.safetensors").rename(tmp_path / "pickled/adapter_model.bin")
    with pytest.raises(UserError, match=says) as raised:
        run(Models(kind), "--team", *words)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "results").exists()


# ---------------------------------------------------------------- served models


@contextlib.contextmanager
def serving(*servers: StubServer) -> Iterator[None]:
    """Stand-in servers, in a thread with a loop of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def there(call: Coroutine[Any, Any, Any]) -> None:
        asyncio.run_coroutine_threadsafe(call, loop).result(30)

    for server in servers:
        there(server.__aenter__())
    try:
        yield
    finally:
        for server in servers:
            there(server.kill())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def test_served_members_and_what_the_report_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.chdir(tmp_path)
    a, b = StubServer(model="a"), StubServer(model="b", tokenizes=False)
    (tmp_path / "team.yaml").write_text(
        "agent_1: {model: served-a, temperature: 0.2}\nagent_2: {model: served-b, top_p: 0.9, stop: ['###']}\n"
        "aggregator: {model: served-b, temperature: 0.0, enable_thinking: false}\n"
    )
    argv = ["--method_name", "llm_debate", "--test_dataset_name", "GSMSymbolic", "--model_name", "served-a"]
    argv += ["--model_api_config", "endpoints.yaml", "--output_path", "r.jsonl", "--team", "team.yaml"]
    with serving(a, b):
        endpoints = {f"served-{one.model}": {"model_name": one.model, "model_url": one.url} for one in (a, b)}
        (tmp_path / "endpoints.yaml").write_text(json.dumps(endpoints))
        assert inference.main([*argv, "--max_samples", "1"]) == 0
        asked = a.chats + b.chats
        assert inference.main([*argv, "--max_samples", "2"]) == 0
        assert a.chats + b.chats == asked + 7
    assert {
        (body["temperature"], body.get("top_p"), "stop" in body, "chat_template_kwargs" in body) for body in b.seen
    } == {
        (0.5, 0.9, True, False),
        (0.0, None, False, True),
    }
    record = next(read_records(tmp_path / "r.jsonl"))
    assert record.models == ("main", "served-a", "served-b")
    shown = {(turn["agent"], turn["model"]) for turn in detail(record, None, None, None)["turns"]}
    assert shown == {
        ("agent_1", "served-a"),
        ("agent_2", "served-b"),
        ("agent_3", "served-a"),
        ("aggregator", "served-b"),
    }


# ---------------------------------------------------------------- a process that is killed


def test_a_killed_run_goes_on_with_its_team(tmp_path: Path, data_dir: Path) -> None:
    driver = Path(__file__).parent / "scripted_inference.py"
    calls = tmp_path / "calls"
    command = [sys.executable, str(driver), "--method_name", "llm_debate", "--test_dataset_name", "GSM8K"]
    command += ["--model_name", "org/model", "--data_dir", str(data_dir), "--max_samples", "12"]
    command += ["--output_path", str(tmp_path / "r.jsonl"), "--max_concurrency", "4"]
    command += ["--team", "agent_1=org/model", "debater=org/model"]
    environment = {**os.environ, "CALLS": str(calls), "LATENCY": "0.05"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (calls.exists() and len(calls.read_text().splitlines()) > 20):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = len(calls.read_text().splitlines())
    done = subprocess.run(command, env=environment | {"LATENCY": "0"}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(list(read_records(tmp_path / "r.jsonl"))) == 12
    assert before < len(calls.read_text().splitlines()) <= 12 * 7 + 4  # those in flight were lost
    other = [*command[:-1], "agent_2=org/model"]
    refused = subprocess.run(other, env=environment, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: ")
    assert refused.stderr.count("\n") == 1
