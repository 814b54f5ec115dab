"""JSON lines as people have them: byte order marks, blank lines, and JSON that is not one object a line."""

import json
from pathlib import Path
from typing import Any

import pytest

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
