"""Files that are read as one object."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agentark.config import read_yaml
from agentark.files import json_in, json_of, struct_of
from agentark.types import UserError


@pytest.mark.timeout(20)
@pytest.mark.parametrize("read", [json_in, json_of, read_yaml, lambda path: struct_of(path, msgspec.Raw, "a card")])
def test_a_fifo_or_a_device_is_refused_and_not_waited_for(read: Callable[[Path], Any], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x")
    (tmp_path / "link").symlink_to("/dev/zero")
    for name, kind in (("x", "FIFO"), ("link", "device")):
        with pytest.raises(UserError, match=f"{name}: is a {kind}; give a file"):
            read(tmp_path / name)


@pytest.mark.parametrize("text", [b'"\\ud800"', b'{"\\uDFFF": 1}', b'["a", {"b": "\xed\xa0\x80"}]'])
def test_half_a_surrogate_pair_is_no_text(text: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(text)
    with pytest.raises(UserError, match=r"x\.json: not valid JSON \(.*surrogates not allowed"):
        json_in(tmp_path / "x.json")
    (tmp_path / "x.json").write_bytes('["\\ud83d\\ude00", "é", "한"]'.encode())
    assert json_in(tmp_path / "x.json") == ["😀", "é", "한"]
