import pytest

from shardwright.benchmarks.survival.kills import Kill, disturb


@pytest.mark.slow
def test_a_killed_run_goes_on_with_the_same_losses_and_leaves_no_process() -> None:
    """The short form of the benchmark, with a kill of one rank. tests/executor/test_run.py kills a launcher."""
    (story,) = disturb(1, seed=7, steps=40, splits=("fsdp",))
    (kill,) = story.kills
    assert kill.victim == "a rank"
    assert kill.clean, kill
    assert story.equal


def test_what_counts_as_clean() -> None:
    said = "error: rank 1 was killed (SIGKILL, perhaps for want of memory); start again\n"
    assert Kill("pp", "a rank", 3, 2.0, said).clean
    assert Kill("pp", "the launcher", 3, 2.0, "").clean
    assert not Kill("pp", "a rank", 3, 2.0, "").clean
    assert not Kill("pp", "a rank", 3, 2.0, "Traceback\n" + said).clean
    assert not Kill("pp", "all", 3, 11.0, "").clean
