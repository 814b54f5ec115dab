"""One process without a launcher."""

import os

import pytest

from agentark.distributed import launch_alone


def test_two_runs_on_a_machine_have_a_port_each(monkeypatch: pytest.MonkeyPatch) -> None:
    ports = set()
    for _ in range(2):
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
            monkeypatch.setenv(name, "")
            monkeypatch.delenv(name)
        launch_alone()
        assert (os.environ["RANK"], os.environ["WORLD_SIZE"]) == ("0", "1")
        ports.add(os.environ["MASTER_PORT"])
    assert len(ports) == 2
    monkeypatch.setenv("MASTER_PORT", "7")
    launch_alone()
    assert os.environ["MASTER_PORT"] == "7"
