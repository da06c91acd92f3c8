import pytest

from shardwright.executor.context import Dealing
from shardwright.specs.plan import ContextParallel
from tests.parity.cases import layers, plan


@pytest.mark.parametrize(("rings", "trading"), [(1, 4), (2, 1), (4, 1), (2, 2), (3, 2)])
def test_every_token_is_dealt_once_in_equal_parts(rings: int, trading: int) -> None:
    dealing = Dealing(48, rings, trading)
    parts = [dealing.of_rank(rank) for rank in range(rings * trading)]
    assert sorted(position for part in parts for position in part) == list(range(48))
    assert {len(part) for part in parts} == {dealing.tokens_per_rank} == {48 // (rings * trading)}
    assert all(part == sorted(part) for part in parts)


@pytest.mark.parametrize("rings", [2, 3, 4])
def test_groups_have_equal_parts_of_the_causal_triangle(rings: int) -> None:
    dealing = Dealing(48, rings, 1)
    assert len({sum(position + 1 for position in dealing.of_group(group)) for group in range(rings)}) == 1


@pytest.mark.parametrize(
    ("kind", "degree", "rings", "trading"),
    [("all-gather", 1, 4, 1), ("ring", 1, 4, 1), ("ulysses", 1, 1, 4), ("ulysses-ring", 2, 2, 2)],
)
def test_of_a_plan(kind: ContextParallel, degree: int, rings: int, trading: int) -> None:
    given = plan((layers(),), cp=4, context_parallel=kind, ulysses_degree=degree)
    assert Dealing.of_plan(given, 16) == Dealing(16, rings, trading)


def test_the_first_rank_of_two_holds_both_ends() -> None:
    assert Dealing(8, 2, 1).of_rank(0) == [0, 1, 6, 7]
    assert Dealing(8, 2, 1).of_rank(1) == [2, 3, 4, 5]
