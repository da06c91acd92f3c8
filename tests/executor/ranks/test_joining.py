"""What a run on one machine leaves open to others: nothing beyond loopback."""

import os
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from shardwright.costmodel.plan_file import write_plan_file
from shardwright.executor.ranks.joining import loopback_only
from shardwright.executor.run.launching import launch
from tests.executor.runs import options, text_file, tiny
from tests.parity.cases import layers, plan


def listening(processes: list[psutil.Process]) -> set[str]:
    """The addresses on which the processes listen, as far as these have not ended."""
    found: set[str] = set()
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            found |= {each.laddr.ip for each in process.net_connections("inet") if each.status == psutil.CONN_LISTEN}
    return found


@pytest.mark.slow
@pytest.mark.usefixtures("forked_ranks")
def test_no_rank_and_no_launcher_listens_beyond_loopback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the user's environment names another interface, for runs on several machines."""
    others = [name for name in psutil.net_if_addrs() if name != "lo"]
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", others[0] if others else "lo")
    write_plan_file(tmp_path / "plan.json", tiny(plan((layers(1),), (layers(1),), pp=2)))
    seen: list[set[str]] = []

    def tell(line: str) -> None:
        own = psutil.Process()
        seen.append(listening([own, *own.children(recursive=True)]))

    launch(tmp_path / "plan.json", options(tmp_path / "run", data=text_file(tmp_path)), progress=tell)
    assert set().union(*seen) == {"127.0.0.1"}, "gloo listens somewhere, and only there"


def test_the_loopback_interface_is_found() -> None:
    environment = {"NCCL_SOCKET_IFNAME": "eth0"}
    loopback_only(environment)
    assert environment.keys() == {"GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"}
    assert all(name in os.listdir("/sys/class/net") for name in environment.values())
    assert "eth0" not in environment.values()
