"""Temporary files and folders. What a killed run left of them is removed by a later one.

Each is locked by the process that made it, and a lock ends with its process, however that ends. It needs nothing but
the standard library: Ray sends this module to its workers by value.
"""

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

PREFIX = "agentark"
SECONDS = 3600.0
"""How long one that nobody holds is left: it may be about to be locked, or be the log that an error message names."""


class Folder(tempfile.TemporaryDirectory[str]):
    """A temporary folder.

    Args:
        kind: what it is for; in its name.
        place: the folder that it is made in; default: the system's.
    """

    def __init__(self, kind: str, place: str | None = None) -> None:
        sweep(kind, place)
        super().__init__(prefix=f"{PREFIX}-{kind}-", dir=place, ignore_cleanup_errors=True)
        self._lock: int | None = os.open(self.name, os.O_RDONLY)
        _hold(self._lock)

    def cleanup(self) -> None:
        super().cleanup()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def file(kind: str) -> tuple[int, str]:
    """(descriptor, name) of a temporary file, which is held while this descriptor or a copy of it is open."""
    sweep(kind)
    descriptor, name = tempfile.mkstemp(prefix=f"{PREFIX}-{kind}-", suffix=".log")
    _hold(descriptor)
    return descriptor, name


def sweep(kind: str, place: str | None = None) -> None:
    """Remove those of a kind that are ours, that nobody holds, and that are old."""
    for entry in _entries(place or tempfile.gettempdir(), f"{PREFIX}-{kind}-"):
        with suppress(OSError):
            about = entry.stat(follow_symlinks=False)
            if about.st_uid != os.getuid() or time.time() - about.st_mtime < SECONDS:
                continue
            descriptor = os.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                remove: Callable[[str], None] = shutil.rmtree if entry.is_dir(follow_symlinks=False) else os.unlink
                remove(entry.path)
            finally:
                os.close(descriptor)


def _entries(folder: str, prefix: str) -> Iterator["os.DirEntry[str]"]:
    with suppress(OSError), os.scandir(folder) as entries:
        yield from (entry for entry in entries if entry.name.startswith(prefix))


def _hold(descriptor: int) -> None:
    """Lock it. A file system without locks refuses the one of `sweep` as well, which then removes nothing."""
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
