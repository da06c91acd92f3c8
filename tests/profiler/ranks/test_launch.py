"""What launchers leave in the environment."""

import pytest

from shardwright.base.errors import SpecError
from shardwright.profiler.ranks.launch import Launch, detected_launch

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": "gpu1", "MASTER_PORT": "29500"}
SLURM = {
    "SLURM_PROCID": "5",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_NTASKS": "64",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_STEP_NODELIST": "gpu[003-005,9],login1",
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_ID": "2",
}


def test_nothing_is_no_launch() -> None:
    assert detected_launch({}) is None
    assert detected_launch({"PATH": "/bin", "SLURM_JOB_ID": "4711"}) is None


def test_torchrun() -> None:
    assert detected_launch(TORCHRUN) == Launch("torchrun", 3, 8, 1, "gpu1", 29500)


def test_torchrun_under_slurm_is_torchrun() -> None:
    assert detected_launch(SLURM | TORCHRUN) == detected_launch(TORCHRUN)


def test_slurm() -> None:
    launch = detected_launch(SLURM)
    assert launch is not None
    assert (launch.by, launch.rank, launch.size, launch.local_rank, launch.address) == ("slurm", 5, 8, 1, "gpu003")
    assert launch.port in range(20_000, 30_000)


def test_slurm_ranks_agree_on_the_port_and_steps_do_not() -> None:
    def port(**changes: str) -> int:
        launch = detected_launch(SLURM | changes)
        assert launch is not None
        return launch.port

    assert port() == port(SLURM_PROCID="0", SLURM_LOCALID="0", SLURM_NODEID="0")
    assert port() != port(SLURM_STEP_ID="3")
    assert port() != port(SLURM_JOB_ID="4712")
    assert port(MASTER_PORT="12345") == 12345


def test_slurm_addresses_can_be_given() -> None:
    launch = detected_launch(SLURM | {"MASTER_ADDR": "10.0.0.1"})
    assert launch is not None
    assert launch.address == "10.0.0.1"


def test_older_slurm_names_the_tasks_otherwise() -> None:
    without = {name: value for name, value in SLURM.items() if name != "SLURM_STEP_NUM_TASKS"}
    launch = detected_launch(without | {"SLURM_NTASKS": "16"})
    assert launch is not None
    assert launch.size == 16


def test_a_batch_script_is_no_rank() -> None:
    """It has SLURM_PROCID=0 and the job's tasks, but srun has not started it."""
    assert detected_launch({"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_LOCALID": "0"}) is None


@pytest.mark.parametrize("one", [SLURM | {"SLURM_STEP_NUM_TASKS": "1"}, TORCHRUN | {"RANK": "0", "WORLD_SIZE": "1"}])
def test_a_launch_of_one_is_none(one: dict[str, str]) -> None:
    assert detected_launch(one) is None


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"RANK": "0"}, "no WORLD_SIZE; start the ranks with torchrun"),
        ({"WORLD_SIZE": "2"}, "no RANK;"),
        (TORCHRUN | {"MASTER_ADDR": ""}, "no MASTER_ADDR;"),
        (TORCHRUN | {"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two'; torchrun sets it to a whole number"),
        (TORCHRUN | {"RANK": "8"}, "rank 8 of 8; ranks count from 0"),
        (SLURM | {"SLURM_LOCALID": "-1"}, "SLURM_LOCALID is '-1'; srun sets it"),
        (SLURM | {"SLURM_STEP_NODELIST": "gpu[1"}, r"'gpu\[1' is not a list of Slurm's nodes"),
    ],
)
def test_what_does_not_fit_is_one_line(environment: dict[str, str], words: str) -> None:
    with pytest.raises(SpecError, match=words) as raised:
        detected_launch(environment)
    assert "\n" not in str(raised.value)
