"""JSON lines as people have them: byte order marks, blank lines, and JSON that is not one object a line."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentark import jsonl
from agentark.types import UserError

ROWS: list[dict[str, Any]] = [{"a": 1}, {"b": "ü\u2028"}]


@pytest.mark.parametrize(
    ("content", "numbers"),
    [
        (b"%a\n%b\n", [1, 2]),
        (b"\xef\xbb\xbf%a\n%b", [1, 2]),
        (b"\n \t\r\n%a\r\n\r\n%b\r\n\n", [3, 5]),
        (b"\xef\xbb\xbf\n%a\n%b\n", [2, 3]),
    ],
)
def test_marks_and_blank_lines_are_skipped(tmp_path: Path, content: bytes, numbers: list[int]) -> None:
    for name, row in zip((b"%a", b"%b"), ROWS, strict=True):
        content = content.replace(name, json.dumps(row, ensure_ascii=False).encode())
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    for source in (path, content):
        assert list(jsonl.objects(source, "x")) == list(zip(numbers, ROWS, strict=True))
    assert all(content[line.offset :].startswith(line.content) for line in jsonl.lines(path))
    assert list(jsonl.decoded(path, dict, "x")) == ROWS


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (json.dumps(ROWS), "x: expected JSON lines, one object a line; found an array"),
        (json.dumps(ROWS, indent=2), "x: expected JSON lines, one object a line; found an array"),
        (json.dumps(ROWS[0], indent=2), "x: expected JSON lines, one object a line; found an object over several"),
        ("\n".join(json.dumps(row, indent=2) for row in ROWS), "found an object over several lines"),
        ("\ufeff" + json.dumps(ROWS[0], indent=2), "found an object over several lines"),
        ('{"a": 1}\n[1, 2]\n', r"x, row 2: not a JSON object \(Expected `object`, got `array`\)"),
        ('{"a": 1}\n\n{"a": \n', "x, row 3: not valid JSON"),
        ("[" * 200_000, "x, row 1: not "),
        ('{"a": ' + "[" * 200_000 + "]" * 200_000 + "}", "x, row 1: not valid JSON"),
        ('{"a": NaN}\n', r"x, row 1: not valid JSON \(.*; JSON has no NaN\)"),
    ],
)
def test_other_json_is_refused_in_one_line(content: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        list(jsonl.objects(content.encode(), "x"))
    assert "\n" not in str(refused.value)


def test_no_file_and_no_utf8(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^--x none: no such file$"):
        list(jsonl.decoded(Path("none"), dict, "a row", "--x none"))
    (tmp_path / "a.jsonl").write_bytes(b'{"a": "\xff"}\n')
    with pytest.raises(UserError, match=r"a\.jsonl, row 1: not valid JSON"):
        list(jsonl.decoded(tmp_path / "a.jsonl", dict, "a row"))


NAMED = st.tuples(st.sampled_from("abcdef"), st.text("xü \u2028", max_size=3), st.sampled_from(["", "\n", " \r\n"]))


@given(st.lists(NAMED, max_size=12), st.booleans(), st.data())
def test_stored_rows_are_the_last_of_every_id(
    tmp_path_factory: pytest.TempPathFactory, listed: list[tuple[str, str, str]], mark: bool, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("stored") / "a.jsonl"
    rows = [{"id": id, "text": text} for id, text, _ in listed]
    parts = [f"{blank}{json.dumps(row, ensure_ascii=False)}\n" for row, (_, _, blank) in zip(rows, listed, strict=True)]
    path.write_bytes(b"\xef\xbb\xbf" * mark + "".join(parts).encode())
    last: dict[str, dict[str, str]] = {}
    for row in rows:
        last.pop(row["id"], None)
        last[row["id"]] = row
    decode = msgspec.json.Decoder(dict[str, str]).decode
    stored, ids = jsonl.latest(path, "a", lambda line: decode(line.content)["id"], lambda line: decode(line.content))
    assert list(stored) == list(reversed(list(reversed(stored)))) == list(last.values())
    assert list(ids.items()) == list(zip(last, range(len(last)), strict=True))
    numbers = {line.number: line for line in jsonl.lines(path)}
    assert all(stored.line(place) == numbers[stored.line(place).number]._replace(name="a") for place in ids.values())
    start, stop = (data.draw(st.integers(-13, 13) | st.none()) for _ in range(2))
    texts = stored.map(lambda row: row["text"])
    assert list(texts[start:stop]) == [row["text"] for row in last.values()][start:stop]
    assert list(stored.take(range(len(ids))[::-2])) == list(last.values())[::-2]
    path.unlink()  # the file stays open for those who read from it
    assert list(stored[:1]) == list(last.values())[:1]


def test_a_stored_row_outside_is_an_index_error(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"id": "a"}\n')
    stored, _ = jsonl.latest(path, "a", lambda line: "a", lambda line: line.number)
    assert (stored[0], stored[-1], len(stored)) == (1, 1, 1)
    with pytest.raises(IndexError):
        stored[1]
