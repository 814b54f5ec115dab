"""What the processes of a sandbox hold in memory together, where no namespace bounds it."""

import asyncio
import contextlib
import os
import signal
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

POLL_SECONDS = 0.1
_PAGE = os.sysconf("SC_PAGE_SIZE")


async def watch_sum(launcher: int, folder: str, most: int, stop: Callable[[], None]) -> None:
    """Stop and kill what runs in a sandbox as soon as it holds more than `most` bytes. Runs until it is cancelled.

    Args:
        launcher: process whose descendants are counted.
        folder: its files are counted too; they may lie in memory.
    """
    while True:
        if await asyncio.to_thread(held, launcher, folder) > most:
            stop()
            for pid in list(_descendants(launcher)):  # a program can have stopped its launcher
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
        await asyncio.sleep(POLL_SECONDS)


def held(launcher: int, folder: str) -> int:
    """Bytes that a process's descendants have resident, and in files: those of the folder, those only they hold."""
    resident = 0
    files: dict[tuple[int, int], int] = {}
    for pid in _descendants(launcher):
        with contextlib.suppress(OSError, ValueError, IndexError):
            resident += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
        with contextlib.suppress(OSError):
            for descriptor in os.scandir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    file = os.stat(descriptor.path)
                    if stat.S_ISREG(file.st_mode) and file.st_nlink == 0:
                        files[file.st_dev, file.st_ino] = file.st_blocks * 512
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                file = os.lstat(os.path.join(place, name))
                files[file.st_dev, file.st_ino] = file.st_blocks * 512
    return resident + sum(files.values())


def _descendants(pid: int) -> Iterator[int]:
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError):
                for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split():
                    yield int(child)
                    yield from _descendants(int(child))
