"""Files: read as one object, hashed, replaced as a whole; a full disk in words; and the manifest beside a file."""

import errno
import glob
import hashlib
import json
import logging
import os
import re
import stat
from codecs import BOM_UTF8
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeVar

import msgspec
import psutil

from agentark.types import RunError, UserError

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""Errors of a disk, quota or file that has no room left."""
FULL_IN_WORDS = re.compile(
    r"no space left|disk quota exceeded|file too large|PytorchStreamWriter failed", re.IGNORECASE
)
"""In the errors of libraries that hide the system's own."""

T = TypeVar("T")
logger = logging.getLogger(__name__)


def manifest_of(path: Path) -> Path:
    """Where the manifest of a results, labels or training file stands."""
    return path.with_name(f"{path.name}.manifest.json")


def content(path: Path) -> bytes:
    """All bytes of a file; what is no file, as a FIFO, is not waited for. Raises OSError, UserError."""
    if not stat.S_ISREG(mode := path.stat().st_mode) and not stat.S_ISDIR(mode):
        raise UserError(f"{path}: is a {KINDS.get(stat.S_IFMT(mode), 'special file')}; give a file")
    return path.read_bytes()


def json_in(path: Path) -> Any:
    """The content of a JSON file, at most one value per key of an object.

    Raises:
        UserError: the file cannot be read, or is something else.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) < len(pairs):
            keys = [key for key, _ in pairs]
            raise UserError(f"{path}: key {next(key for key in keys if keys.count(key) > 1)!r} is given twice")
        return value

    try:
        raw = content(path).removeprefix(BOM_UTF8)
        value = json.loads(raw, object_pairs_hook=unique)
        if not raw.isascii() or b"\\ud" in raw.lower():
            json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair is no text
        return value
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON ({error})") from None


def json_of(path: Path) -> dict[str, Any]:
    """A JSON file holding one object. Raises UserError when it is something else."""
    value = json_in(path)
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected an object, found a {type(value).__name__}")
    return value


def struct_of(path: Path, kind: type[T], what: str) -> T:
    """A JSON file as a msgspec type.

    Args:
        what: name of such a file in the error message.

    Raises:
        FileNotFoundError: there is none. UserError: it cannot be read, or is something else.
    """
    try:
        return msgspec.json.decode(content(path), type=kind)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path}: is not {what} ({error})") from None


def json_if_there(path: Path) -> dict[str, Any]:
    """`json_of`, empty where there is no such file."""
    return json_of(path) if path.is_file() else {}


def sessions_of(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """The sessions that a manifest names, oldest first; what is no session is left out."""
    listed = manifest.get("sessions")
    return [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []


def changes(before: dict[str, Any], now: dict[str, Any], keys: Iterable[str]) -> str:
    """Which of these keys have another value now, in words; empty where none has."""
    other = (key for key in sorted(keys) if before.get(key) != now.get(key))
    return "; ".join(f"{key} was {before.get(key)!r}, now {now.get(key)!r}" for key in other)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


# ---------------------------------------------------------------- where may be written


def check_file(path: Path, name: str | None = None) -> None:
    """Raises UserError where no file can be written: another kind of thing stands there, or a part is no folder.

    Args:
        name: of the path in the message, with its flag; default: the path.
    """
    _check_output(path, name or str(path), stat.S_ISREG, "file")


def check_folder(path: Path, name: str | None = None) -> None:
    """The same for a folder."""
    _check_output(path, name or str(path), stat.S_ISDIR, "folder")


KINDS = {
    stat.S_IFREG: "file", stat.S_IFDIR: "folder", stat.S_IFIFO: "FIFO", stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "device", stat.S_IFBLK: "device",
}  # fmt: skip
HANDLES = ("/dev", "/dev/fd", "/proc")
"""Folders whose links stand for open files, as /dev/stdout does."""


def _check_output(path: Path, name: str, fits: Callable[[int], bool], wanted: str) -> None:
    try:
        if str(path.absolute().parent).startswith(HANDLES[2]) or str(path.absolute().parent) in HANDLES:
            raise UserError(f"{name}: belongs to the system; give a {wanted}")
        if path.exists():
            if not fits(mode := path.stat().st_mode):
                raise UserError(f"{name}: is a {KINDS.get(stat.S_IFMT(mode), 'special file')}; give a {wanted}")
            return
        if path.is_symlink() and (wanted == "folder" or not path.resolve().parent.is_dir()):
            raise UserError(f"{name}: is a link to what does not exist; give a {wanted}")
        above = next(folder for folder in path.absolute().parents if folder.exists() or folder.is_symlink())
        if not above.is_dir():
            raise UserError(f"{name}: cannot be written ({above} is not a folder)")
        if not os.access(above, os.W_OK | os.X_OK):
            raise UserError(f"{name}: cannot be written (no permission to write in {above})")
    except (OSError, ValueError, RuntimeError) as error:  # a name that is too long, has a NUL, or a loop of links
        raise UserError(f"{name}: cannot be written ({getattr(error, 'strerror', None) or error})") from None


# ---------------------------------------------------------------- writing


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a small file as a whole; see `replacing`."""
    with replacing(path) as stream:
        stream.write(data)


class Pending(AbstractContextManager["Pending"]):
    """A file that is written beside its place, and put there as a whole; else nothing of it stays. Makes the folder.

    Raises:
        RunError, UserError: it cannot be written; so do `add` and `place`.
    """

    def __init__(self, path: Path) -> None:
        check_file(path)
        self.path = path
        self._hash = hashlib.sha256()
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            for stale in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
                pid = stale.name.split(".")[-2]
                if pid.isdigit() and not psutil.pid_exists(int(pid)):  # killed while it wrote
                    stale.unlink(missing_ok=True)
            self.stream = self._temporary.open("wb")

    @property
    def sha256(self) -> str:
        """Of all that `add` wrote, hex."""
        return self._hash.hexdigest()

    def add(self, row: Any) -> None:
        """Write a row as one line of JSON."""
        line = msgspec.json.encode(row) + b"\n"
        with writing(self.path):
            self.stream.write(line)
        self._hash.update(line)

    def place(self) -> None:
        """Put the file into its place, safe against kill and power loss."""
        with writing(self.path):
            self.stream.flush()
            os.fsync(self.stream.fileno())
            self.stream.close()
            self._temporary.replace(self.path)

    def __exit__(self, *exc: object) -> None:
        with suppress(OSError):
            self.stream.close()
        with suppress(OSError):
            self._temporary.unlink(missing_ok=True)


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A stream whose content replaces a file as a whole, safe against kill and power loss. Makes the folder.

    Raises:
        RunError, UserError: it cannot be written; nothing stays of the attempt.
    """
    with Pending(path) as pending, writing(path):
        yield pending.stream
        pending.place()


def append(path: Path, line: bytes) -> None:
    """Add a line to a file in one write. Raises RunError, UserError like `writing`; no half of it stays then."""
    with writing(path):
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            append_to(descriptor, line)
        finally:
            os.close(descriptor)


def append_to(descriptor: int, line: bytes) -> None:
    """Write all of a line at the end of an open file, or nothing. Raises OSError."""
    size = os.fstat(descriptor).st_size
    try:
        if os.write(descriptor, line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError:
        os.ftruncate(descriptor, size)
        raise


def repair_tail(path: Path) -> None:
    """Cut a last line that was not completely written (kill, power loss), with a warning."""
    if not path.exists():
        return
    with writing(path), path.open("rb+") as stream:
        stream.seek(0, os.SEEK_END)
        size = position = stream.tell()
        tail = b""
        while position > 0 and tail.rstrip(b"\n").count(b"\n") == 0:
            step = min(1 << 16, position)
            position -= step
            stream.seek(position)
            tail = stream.read(step) + tail
        last = tail.rstrip(b"\n").rsplit(b"\n", 1)[-1]
        if not last:
            return
        try:
            msgspec.json.decode(last)
        except (UnicodeDecodeError, RecursionError):
            pass  # a whole line, and whoever reads it says what is wrong
        except msgspec.DecodeError:
            start = size - len(tail) + tail.rindex(last)
            stream.truncate(start)
            logger.warning(
                "%s: the last line was cut short when the run was killed; removed %d bytes", path, size - start
            )
        else:
            if not tail.endswith(b"\n"):
                stream.seek(0, os.SEEK_END)
                stream.write(b"\n")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns the system's errors into ours.

    Raises:
        RunError: no space, or a broken disk. UserError: the path cannot be written.
    """
    try:
        yield
    except OSError as error:
        broken = error.errno in {*FULL, errno.EIO}
        raise (RunError if broken else UserError)(unwritable(path, error)) from None


@contextmanager
def space_in(folder: Path) -> Iterator[None]:
    """While libraries write into a folder: raises RunError where they find no space; their other errors stay."""
    try:
        yield
    except Exception as error:
        if (line := no_space(error, folder)) is None:
            raise
        raise RunError(line) from None


def unwritable(path: Path | str, error: OSError) -> str:
    """Why a file cannot be written, in a line."""
    what = "no space to write it" if error.errno in FULL else "cannot be written"
    return f"{path}: {what} ({error.strerror})"


def no_space(error: BaseException, where: Path | str) -> str | None:
    """A line that names the file, if an error comes from a full disk; also where it is another's cause.

    Args:
        where: named if the error does not name a file itself.
    """
    if isinstance(error, OSError) and error.errno in {*FULL, errno.EIO}:
        return unwritable(error.filename or where, error)
    if isinstance(error, RunError | UserError):
        return str(error) if isinstance(error, RunError) else None
    if FULL_IN_WORDS.search(str(error)):
        return f"{where}: no space to write it ({' '.join(str(error).split()):.200})"
    behind = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    lines = (no_space(other, where) for other in (*behind, error.__cause__, error.__context__) if other is not None)
    return next((line for line in lines if line is not None), None)
