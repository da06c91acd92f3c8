"""A rank that is not where the plan puts it is named."""

import pytest

from shardwright.executor.ranks.placement import Place, misplaced, say_misplaced
from tests.parity.worlds import run_world


def _places(text: str) -> list[Place]:
    return [Place(word[0], int(word[1])) for word in text.split()]


def test_ranks_tell_each_other_where_they_are() -> None:
    """Nobody numbers the ranks of this world on their machine, so that both are its first."""
    first, second = run_world(2, say_misplaced, 2)
    assert first == second
    assert first is not None
    assert first.startswith("rank 1 is device 0 of ")


@pytest.mark.parametrize(
    ("places", "says"),
    [
        ("a0 a1 b0 b1", None),
        ("a0 b0 a1 b1", "rank 1 runs on b, and the plan puts it beside rank 0, which runs on a; start 2 ranks on each"),
        ("a0 a1 b1 b0", "rank 2 is device 1 of b, and the plan's device 0; number ranks in order"),
        ("a0 a1 a0 a1", "machines: 1, and the plan is for 2; the prediction is not for these links"),
        ("a0 a1 b0", None),
        ("a0 a1 a0", "machines: 1, and the plan is for 2"),
    ],
)
def test_the_first_rank_that_is_elsewhere_is_named(places: str, says: str | None) -> None:
    found = misplaced(_places(places), 2)
    assert (found is None) if says is None else (found is not None and found.startswith(says))
