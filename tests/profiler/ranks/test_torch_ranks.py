"""Ranks that a launcher started: they meet, they measure in groups of their own, and none hangs when one is gone."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from shardwright.base.errors import SpecError
from shardwright.profiler.ranks.launch import Launch
from shardwright.profiler.ranks.local_ranks import run_local_ranks
from shardwright.profiler.ranks.torch_ranks import joined_ranks
from tests.profiler.forked import ForkedRank
from tests.profiler.rank_jobs import as_rank_of_a_launcher

ROOT = Path(__file__).parents[3]
RANK = "import sys; from tests.profiler.rank_jobs import as_rank_of_a_launcher; as_rank_of_a_launcher(sys.argv[1:])"


def _environments(launcher: str, port: int) -> list[dict[str, str]]:
    """Of two ranks."""
    if launcher == "torchrun":
        common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        return [common | {"RANK": str(rank), "LOCAL_RANK": "0"} for rank in range(2)]
    common = {
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_JOB_ID": "1",
        "SLURM_STEP_ID": "0",
    }
    common["MASTER_PORT"] = str(port)
    return [common | {"SLURM_PROCID": str(rank), "SLURM_LOCALID": "0"} for rank in range(2)]


def _started(launcher: str, job: str, argument: str) -> "list[subprocess.Popen[str]] | list[ForkedRank]":
    """Two ranks of torchrun as processes of their own, or two of Slurm as forks."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "MASTER_", "RANK"))}
    base = plain | {"PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    each = [
        (base | of_rank, [job, f"node{rank}", argument]) for rank, of_rank in enumerate(_environments(launcher, port))
    ]
    errors = subprocess.STDOUT if argument.startswith("silent") else subprocess.DEVNULL
    if launcher == "slurm":
        return [
            ForkedRank(as_rank_of_a_launcher, given, env=environment, stdout=subprocess.PIPE, stderr=errors)
            for environment, given in each
        ]
    return [
        subprocess.Popen(
            [sys.executable, "-c", RANK, *given], env=environment, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        for environment, given in each
    ]


@pytest.mark.parametrize("launcher", ["torchrun", "slurm"])
def test_ranks_of_a_launcher_meet(launcher: str) -> None:
    processes = _started(launcher, "who_is_there", "measure")
    told = [process.communicate(timeout=120)[0].splitlines()[-1] for process in processes]
    for line in told:
        seen = json.loads(line)
        assert seen["told"] == {"rank": 0, "argument": "measure"}
        assert [rank for rank, _ in seen["gathered"]] == [0, 1]
        assert seen["nodes"] == ["node0", "node1"]
    assert [process.returncode for process in processes] == [0, 0]


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("bug", "RanksLostError: rank 1 failed: KeyError: 'what'"),
        ("kill", "RanksLostError: rank 0 lost the others: one of them ended without a message"),
        ("join", "RanksLostError: rank 0 lost the others: one of them ended without a message"),
    ],
)
def test_the_others_are_told_why_a_rank_is_gone(how: str, words: str) -> None:
    processes = _started("slurm", "fail_as_told", how)
    (line,) = processes[0].communicate(timeout=120)[0].splitlines()
    processes[1].communicate(timeout=120)
    assert line.startswith(words)
    assert (processes[1].returncode == -signal.SIGKILL) == (how != "bug")


@pytest.mark.parametrize("when", ["silent", "silent-join"])
def test_a_rank_that_works_or_waits_for_long_notices_that_another_is_gone(when: str) -> None:
    """It wants nothing of the others, as one that waits for a kernel on a GPU, or waits for one to connect."""
    processes = _started("slurm", "sleep_while_the_last_dies", when)
    out, _ = processes[0].communicate(timeout=120)
    processes[1].communicate(timeout=120)
    assert processes[0].returncode == 1
    assert out.splitlines() == ["rank 1 has been silent for 2 s and counts as dead"]


def test_a_rank_that_nobody_meets_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shardwright.profiler.ranks.torch_ranks._MEET_SECONDS", 1.0)
    launch = Launch(by="here", rank=1, size=2, local_rank=1, file=tmp_path / "store")
    with (
        pytest.raises(
            SpecError, match=f"rank 1 of 2 did not meet the others at {tmp_path / 'store'} within 1 s"
        ) as raised,
        joined_ranks(launch),
    ):
        pytest.fail("met nobody")
    assert "\n" not in str(raised.value)


def test_a_rank_without_a_gpu_of_its_own_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    launch = Launch(by="here", rank=2, size=3, local_rank=2, file=tmp_path / "store")
    with (
        pytest.raises(SpecError, match="rank 2 is number 3 on its node, which shows 2 GPUs; start one rank per GPU"),
        joined_ranks(launch),
    ):
        pytest.fail("took a GPU that is not there")


def test_on_gpus_each_rank_takes_its_own_and_nccl_is_used_besides_gloo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[object] = []

    def join(backend: str, *, rank: int, world_size: int, **_: object) -> None:
        taken.append((backend, rank, world_size))
        raise RuntimeError("as far as this test goes")

    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.set_device", taken.append)
    monkeypatch.setattr("torch.distributed.init_process_group", join)
    launch = Launch(by="here", rank=3, size=4, local_rank=1, file=tmp_path / "store")
    with pytest.raises(SpecError, match="as far as this test goes"), joined_ranks(launch):
        pytest.fail("joined")
    assert taken == [1, ("cpu:gloo,cuda:nccl", 3, 4)]


@pytest.mark.usefixtures("forked_ranks")
def test_whole_profiles_are_measured_by_four_ranks_on_two_nodes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """From the launch to the file: points of every collective in every kind of group, from rank 0 alone."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    out = tmp_path / "profile.json"
    answer = run_local_ranks(4, "tests.profiler.rank_jobs:measure_a_profile", str(out), hosts=("a", "a", "b", "b"))
    measured = json.loads(answer)
    groups = {(2.0, 1.0, 1.0), (1.0, 2.0, 2.0), (2.0, 2.0, 1.0), (1.0, 2.0, 1.0)}
    for name in ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast"):
        assert {tuple(point[1:]) for point in measured[name]} == groups, name
    assert {tuple(point[1:]) for point in measured["send"]} == groups - {(2.0, 2.0, 1.0)}
    assert list(tmp_path.iterdir()) == [out]
