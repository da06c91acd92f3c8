from hypothesis import given
from hypothesis import strategies as st

from shardwright.profiler.sizes.spread import model_first, size_between, spread_first

_SIZE = st.integers(1, 4096).map(lambda count: 16.0 * count)
_SIZES = st.tuples(_SIZE, _SIZE)


@given(st.lists(_SIZES, max_size=20))
def test_spreading_loses_and_invents_nothing(sizes: list[tuple[float, float]]) -> None:
    assert sorted(spread_first(sizes)) == sorted(set(sizes))


def test_the_first_few_span_all() -> None:
    grid = [(2.0**m, 2.0**k) for m in range(8) for k in range(8)]
    first = spread_first(grid)[:5]
    corners = {(1.0, 1.0), (1.0, 128.0), (128.0, 1.0), (128.0, 128.0)}
    assert corners <= set(first)


def test_what_the_model_uses_comes_first_and_once() -> None:
    order = model_first([(64.0,), (128.0,)], [(1.0,), (128.0,), (4096.0,)])
    assert set(order[:2]) == {(64.0,), (128.0,)}
    assert sorted(order) == [(1.0,), (64.0,), (128.0,), (4096.0,)]


@given(_SIZES, _SIZES)
def test_between_lies_between_at_a_multiple(one: tuple[float, ...], other: tuple[float, ...]) -> None:
    middle = size_between(one, other, (16, 16))
    if middle is None:
        return
    assert middle not in (one, other)
    for low, high, size in zip(map(min, one, other), map(max, one, other), middle, strict=True):
        assert low <= size <= high
        assert size % 16 == 0


def test_between_is_the_geometric_mean() -> None:
    assert size_between((256.0, 1024.0), (4096.0, 1024.0), (16, 16)) == (1024.0, 1024.0)
    assert size_between((100.0,), (9500.0,), (16,)) == (976.0,)  # the mean is 974.7


def test_an_axis_on_which_both_agree_stays_though_it_is_no_multiple() -> None:
    assert size_between((50257.0, 128.0), (50257.0, 512.0), (16, 16)) == (50257.0, 256.0)


def test_neighbours_have_nothing_between() -> None:
    assert size_between((16.0,), (32.0,), (16,)) is None
    assert size_between((16.0, 7.0), (16.0, 7.0), (16, 1)) is None


@given(_SIZES, _SIZES)
def test_between_does_not_depend_on_the_order(one: tuple[float, ...], other: tuple[float, ...]) -> None:
    assert size_between(one, other, (16, 16)) == size_between(other, one, (16, 16))
