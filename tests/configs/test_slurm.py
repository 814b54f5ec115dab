"""configs/slurm/serve.sh with stand-ins for Slurm and for vLLM: the endpoint file, and the end of everything."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from guarded import closed_without_key

from agentark.engines.endpoints import read_endpoints

ROOT = Path(__file__).parents[2]
SERVE = ROOT / "configs" / "slurm" / "serve.sh"
STUB = ROOT / "tests" / "stub_replica.py"
NODES = ("127.0.0.1", "127.0.0.2")

SRUN = """#!/bin/bash
# as many tasks as nodes, each told where it is; ends with the first of them
while [[ $1 == --* ]]; do shift; done
trap 'kill $(jobs -p) 2>/dev/null; wait; exit 143' TERM
for node in {nodes}; do SLURMD_NODENAME=$node "$@" & done
wait -n; code=$?
kill $(jobs -p) 2>/dev/null; wait
exit $code
"""
PYTHON = """#!/bin/bash
declare -A flag
while [[ $# -gt 1 ]]; do flag[$1]=$2; shift; done
set -- "${{flag[--served-model-name]}}" "${{flag[--host]}}" "${{flag[--port]}}" 0 "${{flag[--middleware]}}"
exec {python} {stub} "$@"
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A PATH on which Slurm's commands are stand-ins."""
    scripts = {
        "scontrol": "#!/bin/bash\nprintf '%s\\n' " + " ".join(NODES) + "\n",
        "srun": SRUN.format(nodes=" ".join(NODES)),
        "fake-python": PYTHON.format(python=sys.executable, stub=STUB),
    }
    for name, text in scripts.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    return {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_GPUS_ON_NODE": "4",
        "TENSOR_PARALLEL": "2",
        "PORT": "18650",
        "PYTHON": str(tmp_path / "fake-python"),
        "CONFIG": str(tmp_path / "endpoints.yaml"),
        "AGENTARK_ENDPOINT_KEY": "k-123456",
        "START_SECONDS": "60",
    }


@pytest.fixture
def job(environment: dict[str, str], tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        ["bash", str(SERVE), "org/model"],
        env=environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    yield process
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


def serving() -> int:
    """Stand-in servers of this test that are running."""
    lines = [one.info["cmdline"] or [] for one in psutil.process_iter(["cmdline"])]
    return sum(str(STUB) in line and line[-3].startswith("186") for line in lines)


def test_every_server_is_in_the_file_and_ends_with_the_job(
    job: subprocess.Popen[str], environment: dict[str, str]
) -> None:
    file = Path(environment["CONFIG"])
    deadline = time.monotonic() + 60
    while not file.exists():
        assert job.poll() is None, job.stdout.read() if job.stdout else ""
        assert time.monotonic() < deadline
        time.sleep(0.1)
    found = read_endpoints(file)["org/model"]
    assert [one.model_url for one in found] == [f"http://{node}:{port}/v1" for node in NODES for port in (18650, 18651)]
    assert {(one.model_name, one.api_key_env, one.max_workers) for one in found} == {
        ("org/model", "AGENTARK_ENDPOINT_KEY", 256)
    }
    assert "k-123456" not in file.read_text()
    assert serving() == 4
    lines = [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
    assert not any("k-123456" in line for line in lines)
    for port in (18650, 18651):
        assert closed_without_key(f"http://{NODES[0]}:{port}", "k-123456")
        with pytest.raises(OSError, match="refused"):  # loopback stands for a node here: nothing else is listened on
            socket.create_connection(("127.0.0.3", port), 2)
    job.terminate()
    assert job.wait(30) == 143
    assert not file.exists(), "the file names no server that is gone"
    deadline = time.monotonic() + 10
    while serving() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert serving() == 0


def test_a_server_that_cannot_start_ends_the_job(environment: dict[str, str], tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", str(SERVE), "broken"],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "error: a server ended before all were healthy" in done.stderr
    assert not Path(environment["CONFIG"]).exists()


@pytest.mark.parametrize(
    ("changes", "code", "expected"),
    [
        ({"SLURM_JOB_NODELIST": ""}, 1, "use sbatch"),
        ({"TENSOR_PARALLEL": "8"}, 2, "TENSOR_PARALLEL=8: a node has 4 GPUs"),
        ({"AGENTARK_ENDPOINT_KEY": ""}, 2, "error: AGENTARK_ENDPOINT_KEY: not set"),
        ({"AGENTARK_ENDPOINT_KEY": "  "}, 2, "error: AGENTARK_ENDPOINT_KEY: not set, or not one word"),
        ({"AGENTARK_ENDPOINT_KEY": "k-1\nk-2"}, 2, "error: AGENTARK_ENDPOINT_KEY: not set, or not one word"),
        ({"AGENTARK_ENDPOINT_KEY": "k-é"}, 2, "error: AGENTARK_ENDPOINT_KEY: not set, or not one word"),
    ],
)
def test_bad_input(
    changes: dict[str, str], code: int, expected: str, environment: dict[str, str], tmp_path: Path
) -> None:
    done = subprocess.run(
        ["bash", str(SERVE), "m"],
        env=environment | changes,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code
    assert expected in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "k-" not in done.stderr
