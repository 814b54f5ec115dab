"""The store: torn tails, other configurations, compaction, the lock, and the golden file of each schema."""

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentark.files import repair_tail
from agentark.lock import TOKENS, RunLock
from agentark.records import AppendLog, Store, encoded, expand, natural, pack, read_records
from agentark.types import Message, Part, Record, RunError, UserError, message

GOLDEN = Path(__file__).parent / "golden"


def row(sample_id: str, **fields: object) -> dict[str, object]:
    base = {
        "schema": 1,
        "id": sample_id,
        "source": "T",
        "query": "q",
        "gt": "1",
        "method": {"name": "m", "variant": "v", "config": {}},
        "model": "x",
        "guarantee": "exact",
        "answer_type": "number",
    }
    return base | fields


def write(path: Path, *rows: dict[str, object]) -> None:
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))


@given(data=st.data())
def test_a_line_cut_anywhere_is_removed_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("torn") / "a.jsonl"
    texts = data.draw(st.lists(st.text(max_size=200), min_size=1, max_size=4))
    whole = [json.dumps({"id": text}).encode() + b"\n" for text in texts]
    torn = json.dumps({"id": "last", "text": data.draw(st.text(min_size=1))}).encode()
    path.write_bytes(b"".join(whole) + torn[: data.draw(st.integers(1, len(torn) - 1))])
    repair_tail(path)
    assert path.read_bytes() == b"".join(whole)


def test_a_long_torn_line_of_nul_bytes_is_removed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"id": "a"}\n' + b"\0" * 200_000)
    with caplog.at_level(logging.WARNING):
        repair_tail(path)
    assert path.read_bytes() == b'{"id": "a"}\n'
    assert "removed 200000 bytes" in caplog.text


def test_a_complete_last_line_only_gets_its_newline(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"id": "a"}\n{"id": "b"}')
    repair_tail(path)
    assert path.read_bytes() == b'{"id": "a"}\n{"id": "b"}\n'


def test_last_row_of_an_id_wins(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", row("a", error="x"), row("b"), row("a", response="good"))
    assert [(record.id, record.error, record.response) for record in read_records(tmp_path / "a.jsonl")] == [
        ("b", None, ""),
        ("a", None, "good"),
    ]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'{"id": "a"}\nnot json\n{"id": "b"}\n', "row 2: not valid JSON"),
        (json.dumps(row("a", schema=7)).encode() + b"\n", r"row 1: schema 7; this version reads \[1\]"),
        (json.dumps(row("a", seconds="soon")).encode() + b"\n", r"row 1: .*float.*seconds"),
    ],
)
def test_unreadable_rows_are_named(tmp_path: Path, content: bytes, expected: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(UserError, match=expected):
        list(read_records(tmp_path / "a.jsonl"))


def test_golden_file_of_schema_1_is_still_read() -> None:
    (record,) = read_records(GOLDEN / "records_schema_1.jsonl")
    assert record.id == "GSM8K/test/0"
    assert [turn.id for turn in record.trajectory] == [
        "agent_1/1/debater",
        "agent_1/2/debater",
        "aggregator/3/aggregator",
    ]
    assert "".join(message.role[0] for message in expand(record, record.trajectory[1])) == "uau"
    assert expand(record, record.trajectory[1])[1].text == record.trajectory[0].text
    assert record.text_of(record.solutions[-1]) == "The total is \\boxed{18}."
    before, again = (GOLDEN / "records_schema_1.jsonl").read_bytes(), encoded(record)
    assert [key for key in json.loads(again) if key in json.loads(before)] == [*json.loads(before)]
    assert list(json.loads(again))[8:18] == [
        *("answer_type", "instruction", "document", "choices", "references", "tag"),
        *("preamble", "entry_point", "tests", "visible_tests"),
    ]
    assert record.sample().fields() == record.fields()


def changed(**first: object) -> bytes:
    """The golden record, with these values in its first turn."""
    row = json.loads((GOLDEN / "records_schema_1.jsonl").read_text(encoding="utf-8").splitlines()[0])
    row["trajectory"][0] |= first
    return json.dumps(row).encode()


@pytest.mark.parametrize(
    "first",
    [
        {"continues": "agent_9/1/debater"},
        {"continues": "document"},
        {"id": "agent_9/1/debater"},
        {"messages": [{"role": "user", "parts": [{"text": "", "ref": "agent_9/1/debater"}]}]},
    ],
)
def test_a_record_whose_turns_name_others_that_it_lacks_is_no_record(first: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError, match="not in the trajectory"):
        msgspec.json.decode(changed(**first), type=Record)


def test_a_record_whose_turns_continue_each_other_is_no_record() -> None:
    turn = msgspec.json.decode(changed(), type=Record).trajectory[1]
    with pytest.raises(msgspec.ValidationError, match="cycle"):
        msgspec.json.decode(changed(continues=turn.id), type=Record)


def test_a_dialogue_of_a_thousand_rounds_is_expanded() -> None:
    record = msgspec.json.decode(changed(), type=Record)
    first = record.trajectory[0]
    turns = [first]
    for number in range(1024):
        turns.append(msgspec.structs.replace(first, id=f"{number}", continues=turns[-1].id))
    long = msgspec.structs.replace(record, trajectory=turns, solutions=[])
    assert len(expand(long, turns[-1])) == 1024 * (len(first.messages) + 1) + len(first.messages)


def test_another_configuration_is_refused_by_key_and_replaced_with_overwrite(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    store = Store(path, {"temperature": 0.5, "seed": 0})
    store.start({})
    store.close({})
    with pytest.raises(UserError, match=r"another configuration \(temperature was 0.5, now 0.7\); use --overwrite"):
        Store(path, {"temperature": 0.7, "seed": 0})
    write(path, row("a"))
    assert Store(path, {"temperature": 0.5, "seed": 0}).done == {"a"}
    replaced = Store(path, {"temperature": 0.7, "seed": 0}, overwrite=True)
    assert path.stat().st_size, "nothing is removed before the session starts"
    replaced.start({})
    replaced.close({})
    assert path.read_bytes() == b""


def test_a_file_that_is_not_ours_is_not_continued(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", row("a"))
    with pytest.raises(UserError, match="has no manifest"):
        Store(tmp_path / "a.jsonl", {})


def test_rows_are_compacted_in_dataset_order_at_a_clean_end_only(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    store = Store(path, {})
    store.start({})
    decoder = msgspec.json.Decoder(type=msgspec.Raw)
    for name in ("c", "a", "b", "a"):
        store._rows.append(decoder.decode(json.dumps(row(name)).encode()))
    store.close()
    assert [json.loads(line)["id"] for line in path.open()] == ["c", "a", "b", "a"]
    again = Store(path, {})
    again.start({})
    again.close({"a": 0, "b": 1, "c": 2})
    assert [json.loads(line)["id"] for line in path.open()] == ["a", "b", "c"]


def test_a_full_disk_is_a_run_error_and_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = AppendLog(tmp_path / "a.jsonl")
    log.append({"id": "a"})
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:5]))
    with pytest.raises(RunError, match="No space left"):
        log.append({"id": "b"})
    monkeypatch.undo()
    log.append({"id": "c"})
    log.close()
    assert (tmp_path / "a.jsonl").read_bytes() == b'{"id":"a"}\n{"id":"c"}\n'


def test_natural_order() -> None:
    assert sorted(["agent_10", "agent_2", "aggregator", "agent_1"], key=natural) == [
        "agent_1",
        "agent_2",
        "agent_10",
        "aggregator",
    ]


def test_pack_needs_the_whole_dialogue_to_match() -> None:
    question, reply = message("user", "q"), Message("assistant", (Part("r", ref="t"),))
    follow = message("user", "go on")
    assert pack([question, reply, follow], {"t": (question, reply)}) == ("t", (follow,))
    assert pack([message("user", "other"), reply, follow], {"t": (question, reply)})[0] is None
    assert pack([question, message("assistant", "r"), follow], {"t": (question, reply)})[0] is None


# ---------------------------------------------------------------- the lock

HOLD = """
import subprocess, sys, time
from pathlib import Path
from agentark.lock import TOKENS, RunLock
with RunLock(Path(sys.argv[1])) as lock:
    with lock.engine_start():
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        time.sleep(0.3)
    print(child.pid, flush=True)
    time.sleep(600)
"""


def holder(path: Path) -> tuple["subprocess.Popen[str]", psutil.Process]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, psutil.Process(int(process.stdout.readline()))


def test_a_second_writer_is_refused_and_orphans_of_a_killed_one_are_ended(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, other = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    process, engine = holder(path)
    other_process, other_engine = holder(other)
    try:
        with pytest.raises(UserError, match=f"process {process.pid} on .* is writing these results"):
            RunLock(path).__enter__()
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert engine.is_running()
        with RunLock(path):
            assert not engine.is_running() or engine.status() == psutil.STATUS_ZOMBIE
            assert f"ending process {engine.pid}" in caplog.text
        assert other_engine.is_running(), "the engine of another run must not be touched"
        assert not path.with_name("a.jsonl.lock").exists()
    finally:
        for one in (process, other_process, engine, other_engine):
            try:
                one.kill()
            except (psutil.NoSuchProcess, ProcessLookupError):
                continue


def test_a_reused_pid_is_not_an_orphan(tmp_path: Path) -> None:
    innocent = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        path = tmp_path / "a.jsonl"
        entry = {"pid": innocent.pid, "started": time.time() - 1000}
        owner = {"host": os.uname().nodename, "process": {"pid": 1 << 22, "started": 1.0}, "engine": [entry]}
        path.with_name("a.jsonl.lock").write_text(json.dumps(owner))
        with RunLock(path):
            assert innocent.poll() is None
    finally:
        innocent.kill()


@pytest.mark.parametrize("words", [[], ["EngineCore.py"], ["VLLM::EngineCore"], ["VLLM::EngineCore_DP0", "x"]])
def test_a_lock_file_cannot_have_another_process_ended(
    words: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A live process, rightly named, that no run of ours has started: with a token, and without as in older files."""
    reads = "import sys, time; kept = [open(f'{n}.jsonl.lock') for n in range(4)]; print(flush=True); time.sleep(600)"
    command = [sys.executable, "-c", reads, *words]
    for number in range(4):
        (tmp_path / f"{number}.jsonl.lock").touch()
    environment = {**os.environ, TOKENS: "1123456789abcdef"}
    innocent = subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=subprocess.PIPE)
    assert innocent.stdout is not None
    innocent.stdout.readline()
    try:
        entry = {"pid": innocent.pid, "started": psutil.Process(innocent.pid).create_time()}
        owner = {"host": os.uname().nodename, "process": {"pid": 1 << 22, "started": 1.0}, "engine": [entry]}
        for number, more in enumerate(({}, {"token": None}, {"token": ""}, {"token": "0123456789abcdef"})):
            path = tmp_path / f"{number}.jsonl"
            path.with_name(f"{number}.jsonl.lock").write_text(json.dumps(owner | more))
            with RunLock(path):
                assert innocent.poll() is None, more
        assert caplog.text.count(f"names process {innocent.pid}, which this run did not start: left alone") == 4
    finally:
        innocent.kill()


FORKED = """
import multiprocessing, os, sys, time
from pathlib import Path
from agentark.lock import RunLock

def engine():
    import setproctitle
    setproctitle.setproctitle("VLLM::EngineCore")
    time.sleep(600)

if __name__ == "__main__":
    with RunLock(Path(sys.argv[1])) as lock:
        with lock.engine_start():
            child = multiprocessing.get_context(sys.argv[2]).Process(target=engine)
            child.start()
            time.sleep(1.5)
        print(child.pid, flush=True)
        time.sleep(600)
"""


@pytest.mark.parametrize("way", ["fork", "spawn"])
def test_an_engine_that_changed_its_title_is_ended(way: str, tmp_path: Path) -> None:
    """As vLLM's does; what it forked or spawned no longer shows the command line of ours."""
    pytest.importorskip("setproctitle")
    (tmp_path / "run.py").write_text(FORKED)
    path = tmp_path / "a.jsonl"
    environment = {name: value for name, value in os.environ.items() if name != TOKENS}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    command = [sys.executable, str(tmp_path / "run.py"), str(path), way]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    engine = psutil.Process(int(process.stdout.readline()))
    try:
        assert engine.cmdline()[0] == "VLLM::EngineCore"
        process.kill()
        process.wait()
        assert engine.is_running()
        with RunLock(path):
            assert psutil.wait_procs([engine], timeout=5)[1] == []
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            engine.kill()


def test_the_tokens_of_nested_runs_are_inherited_and_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(TOKENS, raising=False)
    with RunLock(tmp_path / "study.json"):
        outer = os.environ[TOKENS]
        with RunLock(tmp_path / "a.jsonl"):
            assert os.environ[TOKENS].split(",")[0] == outer
            assert len(os.environ[TOKENS].split(",")) == 2
        assert os.environ[TOKENS] == outer
    assert TOKENS not in os.environ


def test_without_file_locks_the_pid_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.lockf", no_locks)
    process, engine = holder(tmp_path / "a.jsonl")
    try:
        with pytest.raises(UserError, match=f"process {process.pid}"):
            RunLock(tmp_path / "a.jsonl").__enter__()
        process.kill()
        process.wait()
        with RunLock(tmp_path / "a.jsonl"):
            assert "the pid in the file decides" in caplog.text
        assert not engine.is_running(), "the orphan is ended without file locks too"
    finally:
        process.kill()


def test_an_unwritable_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        RunLock(tmp_path / "file" / "a.jsonl").__enter__()
