"""A rank that is not where the plan puts it is named."""

import pytest

from shardwright.executor.ranks.placement import Place, misplaced


def _places(text: str) -> list[Place]:
    return [Place(word[0], int(word[1])) for word in text.split()]


@pytest.mark.parametrize(
    ("places", "says"),
    [
        ("a0 a1 b0 b1", None),
        ("a0 b0 a1 b1", "rank 1 runs on b, and the plan puts it beside rank 0, which runs on a; start 2 ranks on each"),
        ("a0 a1 b1 b0", "rank 2 is device 1 of b, and the plan's device 0; number ranks in order"),
        ("a0 a1 a0 a1", "4 ranks run on 1 machines, and the plan is for 2; the prediction is not for these links"),
    ],
)
def test_the_first_rank_that_is_elsewhere_is_named(places: str, says: str | None) -> None:
    found = misplaced(_places(places), 2)
    assert (found is None) if says is None else (found is not None and found.startswith(says))
