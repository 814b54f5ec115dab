"""The gateway as a client meets it: replies, records, streams, refusals."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from fakes import ScriptedEngine
from gateway_cases import MODEL, SAMPLES, Served, StreamingEngine, gateway, rows, timeless

from agentark.engines.server import Denied
from agentark.records import expand, read_records
from agentark.types import Completion, EngineFault, RunError, SampleError, message

ID = "GSM8K/test/7"


def run(folder: Path, work: Any, engine: Any = None, **options: Any) -> Any:
    async def served() -> Any:
        async with gateway(folder, engine or ScriptedEngine(), **options) as open_gateway:
            return await work(open_gateway)

    return asyncio.run(served())


def test_calls_become_the_turns_of_a_record(tmp_path: Path) -> None:
    engine = ScriptedEngine()

    async def team(served: Served) -> None:
        first = await served.said(ID, "Solve it.", Agent="solver")
        await served.said(ID, "Solve it.", first, "Check it.", Agent="solver")
        await served.said(ID, f"Who is right? {first}", Agent="judge", Round="5", temperature=0.0, max_tokens=7)
        status, body = await served.post(f"/agentark/samples/{ID}/outcome", {"answer": first})
        assert (status, body["id"]) == (200, ID)

    run(tmp_path, team, engine)
    (record,) = read_records(tmp_path / "team_infer.jsonl")
    assert [turn.id for turn in record.trajectory] == ["solver/1/reply", "solver/2/reply", "judge/5/reply"]
    assert (record.method.name, record.method.variant, record.model) == ("gateway", "team", MODEL)
    assert record.trajectory[1].continues == "solver/1/reply"
    assert [one.text for one in record.trajectory[1].messages] == ["Check it."]
    assert [one.text for one in expand(record, record.trajectory[1])] == [
        "Solve it.", record.trajectory[0].text, "Check it.",
    ]  # fmt: skip
    assert [part.ref for part in record.trajectory[2].messages[0].parts] == [None, "solver/1/reply"]
    assert expand(record, record.trajectory[2])[0].text == f"Who is right? {record.trajectory[0].text}"
    assert [(one.agent, one.turn) for one in record.solutions] == [
        ("judge", "judge/5/reply"), ("solver", "solver/2/reply"), ("team", "solver/1/reply"),
    ]  # fmt: skip
    assert record.final_answer == record.solutions[-1].answer
    params = engine.seen[2][2]
    assert (params.temperature, params.max_tokens) == (0.0, 7)
    assert len({params.seed for _, _, params in engine.seen}) == 3


def test_an_agent_is_named_by_its_system_message(tmp_path: Path) -> None:
    async def team(served: Served) -> None:
        messages = [{"role": "system", "content": "\n You are a critic. \nBe short."}, {"role": "user", "content": "?"}]
        body = {"model": MODEL, "messages": messages, "metadata": {"sample": ID}}
        assert (await served.post("/v1/chat/completions", body))[0] == 200
        assert (await served.chat("ignored", "Hello", user=ID))[0] == 404  # the header counts more than `user`
        body = {"model": MODEL, "messages": messages[1:], "user": ID}
        assert (await served.post("/v1/chat/completions", body))[0] == 200
        await served.post(f"/agentark/samples/{ID}/outcome", {"answer": "1"})

    run(tmp_path, team)
    (record,) = read_records(tmp_path / "team_infer.jsonl")
    assert {turn.agent for turn in record.trajectory} - {"team"} == {"You are a critic.", "agent"}


def test_a_question_of_ones_own_is_stated(tmp_path: Path) -> None:
    async def team(served: Served) -> None:
        assert (await served.chat("mine/1", "?"))[0] == 404
        status, body = await served.post("/agentark/samples/mine/1", {"query": "2 + 3?", "gold": 5})
        assert (status, body["state"], body["prompt"]) == (200, "new", f"2 + 3?\n\n{SAMPLES[0].instruction}")
        assert (await served.post("/agentark/samples/mine/1", {"query": "2 + 3?"}))[1]["state"] == "open"
        assert (await served.post("/agentark/samples/mine/1", {"query": "2 + 4?"}))[0] == 409
        await served.said("mine/1", "2 + 3?")
        await served.post("/agentark/samples/mine/1/outcome", {"answer": "it is 7, or so"})
        assert (await served.post("/agentark/samples/mine/1", {"query": "2 + 3?"}))[1]["state"] == "closed"
        assert (await served.chat("mine/1", "2 + 3?"))[0] == 409
        assert (await served.post("/agentark/samples/mine/1/outcome", {"answer": "it is 7, or so"}))[0] == 200
        assert (await served.post("/agentark/samples/mine/1/outcome", {"answer": "8"}))[0] == 409

    run(tmp_path, team)
    (record,) = read_records(tmp_path / "team_infer.jsonl")
    assert (record.query, record.gt, record.source, record.final_answer) == ("2 + 3?", "5", "GSM8K", "7")
    assert record.info["stated"] == "it is 7, or so"
    last = record.trajectory[-1]
    assert (last.id, last.text, record.solutions[-1].turn) == ("team/2/outcome", "it is 7, or so", "team/2/outcome")
    assert list(record.token_stats) == ["scripted"]


async def events(served: Served, sample: str, text: str, **fields: Any) -> list[Any]:
    """The events of a streamed reply; None for [DONE]."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": text}], "stream": True, **fields}
    async with served.http.post(
        f"{served.url}/v1/chat/completions", json=body, headers={"X-AgentArk-Sample": sample}
    ) as answer:
        assert answer.status == 200, await answer.text()
        lines = [line for line in (await answer.text()).split("\n\n") if line]
    assert all(line.startswith("data: ") for line in lines)
    return [None if line == "data: [DONE]" else json.loads(line[6:]) for line in lines]


def test_a_stream_tells_the_reply_as_it_comes(tmp_path: Path) -> None:
    async def team(served: Served) -> None:
        plain = await served.said(ID, "Solve it.")
        told = await events(served, ID, "Solve it.", stream_options={"include_usage": True})
        assert told[-1] is None
        assert told[-2]["usage"]["completion_tokens"] == len(plain.split())
        pieces = [event["choices"][0]["delta"].get("content", "") for event in told[:-2]]
        assert "".join(pieces).startswith("Thought ")
        assert len([piece for piece in pieces if piece]) == len(plain.split())
        assert told[-3]["choices"][0]["finish_reason"] == "stop"

    run(tmp_path, team, StreamingEngine())


def test_a_whole_reply_is_one_piece_where_the_engine_cannot_stream(tmp_path: Path) -> None:
    async def team(served: Served) -> None:
        told = await events(served, ID, "Solve it.")
        assert len([event for event in told[:-1] if event["choices"][0]["delta"].get("content")]) == 1

    run(tmp_path, team)


def test_a_stream_that_is_not_read_to_its_end_leaves_an_error_turn(tmp_path: Path) -> None:
    engine = StreamingEngine()
    engine.pause = 0.02

    async def team(served: Served) -> None:
        body = {"model": MODEL, "messages": [{"role": "user", "content": "Solve it."}], "stream": True}
        answer = await served.http.post(
            f"{served.url}/v1/chat/completions", json=body, headers={"X-AgentArk-Sample": ID}
        )
        await answer.content.readuntil(b"Thought")
        answer.close()
        await asyncio.sleep(0.2)
        assert engine.in_flight == 0
        whole = await served.said(ID, "Solve it.")
        await served.post(f"/agentark/samples/{ID}/outcome", {"answer": whole})

    run(tmp_path, team, engine)
    (record,) = read_records(tmp_path / "team_infer.jsonl")
    broken, reply = record.trajectory
    assert (broken.role, broken.error, reply.error) == (
        "broken", "the client hung up before the end of the reply", None,
    )  # fmt: skip
    assert (broken.round, reply.round) == (1, 1)
    assert reply.text.startswith(broken.text)
    assert "Thought" in broken.text
    assert [one.turn for one in record.solutions] == [reply.id, reply.id]


def test_a_call_whose_client_has_gone_is_kept_for_its_next_try(tmp_path: Path) -> None:
    engine = ScriptedEngine(latency=0.5)  # the client goes before the reply comes, on a busy machine too

    async def team(served: Served) -> None:
        call = asyncio.create_task(served.chat(ID, "Solve it."))
        while not engine.seen:
            await asyncio.sleep(0.001)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        first = await served.said(ID, "Solve it.")
        assert len(engine.seen) == 1
        assert await served.said(ID, "Solve it.") != first
        assert len(engine.seen) == 2

    run(tmp_path, team, engine)


TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}


def test_tools_pass_in_words(tmp_path: Path) -> None:
    replies = iter(['I add.\n<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>', "It is \\boxed{7}."])
    engine = StreamingEngine(script=lambda messages, params: next(replies))

    async def team(served: Served) -> None:
        told = await events(served, ID, "1 + 6?", tools=[TOOL])
        deltas = [event["choices"][0]["delta"] for event in told[:-1]]
        content = "".join(delta.get("content") or "" for delta in deltas)
        (calls,) = [delta["tool_calls"] for delta in deltas if "tool_calls" in delta]
        assert (content, calls[0]["function"]) == ("I add.", {"name": "add", "arguments": '{"a": 1}'})
        assert told[-2]["choices"][0]["finish_reason"] == "tool_calls"
        asked = {"role": "assistant", "content": content, "tool_calls": calls}
        result = {"role": "tool", "content": "7", "tool_call_id": calls[0]["id"]}
        messages = [{"role": "user", "content": "1 + 6?"}, asked, result]
        body = {"model": MODEL, "messages": messages, "tools": [TOOL], "user": ID}
        assert (await served.post("/v1/chat/completions", body))[1]["choices"][0]["message"]["content"][:2] == "It"
        await served.post(f"/agentark/samples/{ID}/outcome", {"answer": "7"})

    run(tmp_path, team, engine)
    (record,) = read_records(tmp_path / "team_infer.jsonl")
    first, second = record.trajectory
    assert first.completion.tool_calls == ({"name": "add", "arguments": '{"a": 1}'},)
    assert second.continues == first.id
    assert second.messages == (message("user", "<tool_response>\n7\n</tool_response>"),)
    assert '{"type": "function", "function": {"name": "add"' in engine.seen[0][1][0].text
    assert engine.seen[1][1][2].text.startswith("I add.\n<tool_call>")


def test_a_silent_sample_is_closed_as_an_error_and_can_be_taken_up_again(tmp_path: Path) -> None:
    async def team(served: Served) -> None:
        await served.post("/agentark/samples/mine", {"query": "2 + 3?", "gold": "5"})
        first = await served.said("mine", "2 + 3?")
        await asyncio.sleep(0.6)
        assert "idle_timeout" in rows(tmp_path)[0]["error"]
        assert served.desk.state("mine") == "failed"
        await served.said("mine", "2 + 3?", first, "Sure?")
        status, _ = await served.post("/agentark/samples/mine/outcome", {"answer": first})
        assert status == 200

    run(tmp_path, team, idle=0.3)
    (record,) = read_records(tmp_path / "team_infer.jsonl")
    assert record.error is None
    assert [turn.id for turn in record.trajectory] == ["agent/1/reply", "agent/2/reply"]


def test_a_replayed_call_costs_nothing_also_after_the_outcome(tmp_path: Path) -> None:
    engine = ScriptedEngine()

    async def team(served: Served) -> str:
        first = await served.said(ID, "Solve it.")
        await served.post(f"/agentark/samples/{ID}/outcome", {"answer": first})
        return first

    async def again(served: Served) -> None:
        assert (await served.chat(ID, "Solve it.", temperature=0.25))[0] == 409
        await team(served)

    assert run(tmp_path, team, engine, replay=True)
    wanted = rows(tmp_path)
    run(tmp_path, again, engine, replay=True)
    assert rows(tmp_path) == wanted
    assert len(engine.seen) == 1


async def debate(served: Served, id: str, stream: bool) -> None:
    """Three agents, two rounds; the second sees the first of all."""

    async def say(agent: int, *texts: str) -> str:
        if not stream:
            return await served.said(id, *texts, Agent=f"agent_{agent}")
        roles = ("user", "assistant")
        messages = [{"role": roles[index % 2], "content": text} for index, text in enumerate(texts)]
        told = await events(served, id, "", messages=messages, metadata={"agent": f"agent_{agent}"})
        return "".join(event["choices"][0]["delta"].get("content", "") for event in told[:-1])

    question = f"Solve {id}."
    first = await asyncio.gather(*(say(agent, question) for agent in range(3)))
    second = await asyncio.gather(
        *(say(agent, question, first[agent], "Others say: " + " | ".join(first)) for agent in range(3))
    )
    await served.post(f"/agentark/samples/{id}/outcome", {"answer": second[0]})


def test_records_are_the_same_however_calls_interleave(tmp_path: Path) -> None:
    """20 samples of 3 agents, one at a time and 8 at a time, streamed and not."""
    found = []
    for width, stream in ((1, False), (8, False), (8, True)):

        async def team(served: Served, width: int = width, stream: bool = stream) -> None:
            window = asyncio.Semaphore(width)

            async def work(id: str) -> None:
                async with window:
                    await debate(served, id, stream)

            await asyncio.gather(*(work(sample.id) for sample in SAMPLES))

        folder = tmp_path / f"{width}{stream}"
        folder.mkdir()
        run(folder, team, StreamingEngine(latency=0.002))
        found.append([json.dumps(timeless(row)) for row in rows(folder)])
    assert len(found[0]) == 20
    assert found[0] == found[1] == found[2]


def test_after_a_restart_each_reply_is_given_once_more(tmp_path: Path) -> None:
    """Nobody knows which of them arrived. Three replies to one question, without --replay."""
    engine = ScriptedEngine()

    async def team(served: Served) -> list[str]:
        return [await served.said(ID, "Solve it.") for _ in range(3)]

    async def again(served: Served) -> tuple[list[str], str]:
        return await team(served), await served.said(ID, "Solve it.")

    first = run(tmp_path, team, engine)
    assert len(set(first)) == 3
    second, fourth = run(tmp_path, again, engine)
    assert second == first
    assert fourth not in first
    assert len(engine.seen) == 4


def test_the_same_call_at_once_is_made_once_where_calls_are_replayed(tmp_path: Path) -> None:
    engine = ScriptedEngine(latency=0.05)

    async def team(served: Served) -> set[str]:
        return set(await asyncio.gather(*(served.said(ID, "Solve it.") for _ in range(5))))

    assert len(run(tmp_path, team, engine, replay=True)) == 1
    assert len(engine.seen) == 1


class Failing(ScriptedEngine):
    error: Exception = EngineFault("no reply")

    async def chat(self, *args: Any, **fields: Any) -> Completion:
        await super().chat(*args, **fields)
        raise self.error


@pytest.mark.parametrize(
    ("error", "status"),
    [
        *((EngineFault("away"), 502), (SampleError("does not fit"), 400), (RunError("dead"), 503)),
        *((KeyError("x"), 502), (Denied("the server takes no such top_k", 400), 400), (Denied("wrong key", 401), 503)),
    ],
)
def test_a_call_that_fails_says_why_and_leaves_no_turn(error: Exception, status: int, tmp_path: Path) -> None:
    engine = Failing()
    engine.error = error

    async def team(served: Served) -> None:
        for stream in (False, True):
            found, body = await served.chat(ID, "Solve it.", stream=stream)
            assert (found, str(error).strip("'") in body["error"]["message"]) == (status, True)
        assert served.desk.broken.done() == (status == 503)
        assert not served.desk.open[ID].episode.turns
        if served.desk.broken.done():
            assert served.desk.broken.exception() is error

    run(tmp_path, team, engine)


def test_faults_in_a_row_end_the_run(tmp_path: Path) -> None:
    async def team(served: Served) -> None:
        for _ in range(10):
            assert (await served.chat(ID, "Solve it."))[0] == 502
        assert "10 calls failed in a row" in str(served.desk.broken.exception())

    run(tmp_path, team, Failing())
