import pytest

from shardwright.benchmarks.survival.kills import Kill, disturb


@pytest.mark.slow
def test_a_killed_run_goes_on_with_the_same_losses_and_leaves_no_process() -> None:
    """The short form of the benchmark."""
    stories = list(disturb(2, seed=3, steps=40, splits=("fsdp",)))
    kills = [kill for story in stories for kill in story.kills]
    assert len(kills) == 2
    assert all(kill.clean for kill in kills), kills
    assert all(story.equal for story in stories)


def test_what_counts_as_clean() -> None:
    said = "error: rank 1 was killed (SIGKILL, perhaps for want of memory); start again\n"
    assert Kill("pp", "a rank", 3, 2.0, said).clean
    assert Kill("pp", "the launcher", 3, 2.0, "").clean
    assert not Kill("pp", "a rank", 3, 2.0, "").clean
    assert not Kill("pp", "a rank", 3, 2.0, "Traceback\n" + said).clean
    assert not Kill("pp", "all", 3, 11.0, "").clean
