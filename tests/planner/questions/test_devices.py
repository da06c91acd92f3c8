"""Deadlines and costs: `search` confirms the answer, and trying every number of nodes finds none smaller."""

import math

import pytest

from shardwright.base import InfeasibleError, SpecError
from shardwright.planner import search
from shardwright.planner.questions import Costs, TokenTime, costs, fewest_devices, token_time
from shardwright.specs import ClusterSpec, TrainingSpec
from tests.planner.small_problems import tiny_cluster, tiny_model

_MODEL = tiny_model(layers=8, hidden=512)
_NODES = 12
_CLUSTER = tiny_cluster(devices=2 * _NODES, devices_per_node=2)
_TRAINING = TrainingSpec(seq_len=1024, global_batch=48)
_TOKENS = 1e9


def _seconds(nodes: int) -> float:
    """By a search of its own, without the questions."""
    group = _CLUSTER.node.model_copy(update={"nodes": nodes})
    part = ClusterSpec(name="part", groups=(group,))
    try:
        estimate = search(_MODEL, part, _TRAINING, runners_up=0).estimate
    except (SpecError, InfeasibleError):
        return math.inf
    return math.ceil(_TOKENS / (1024 * 48)) * estimate.step_seconds


_TIED = [(1.0, 9.0), (2.0, 5.0), (2.0, 6.0), (3.0, 5.0), (2.0, 5.0)]
_EVERY = {nodes: _seconds(nodes) for nodes in range(1, _NODES + 1)}


@pytest.mark.parametrize("share", [1.01, 1.3, 1.9, 2.6, 4.5, 9.0, 30.0])
def test_fewest_nodes_against_every_number(share: float) -> None:
    deadline = share * min(_EVERY.values())
    found = fewest_devices(_MODEL, _CLUSTER, _TRAINING, tokens=_TOKENS, deadline_seconds=deadline)
    meeting = [nodes for nodes, seconds in _EVERY.items() if seconds <= deadline]
    assert found.best is not None
    assert found.best.value in meeting
    assert token_time(found.best, _TOKENS).seconds == pytest.approx(_EVERY[found.best.value])
    assert found.best.value == 1 or _EVERY[found.best.value - 1] > deadline
    if found.best.value > 1 and math.isfinite(_EVERY[found.best.value - 1]):
        assert found.one_less is not None
        assert found.one_less.value == found.best.value - 1
    assert found.best.value == min(meeting)


def test_a_deadline_that_nothing_meets() -> None:
    found = fewest_devices(_MODEL, _CLUSTER, _TRAINING, tokens=_TOKENS, deadline_seconds=0.5 * min(_EVERY.values()))
    assert found.best is None
    assert found.cases[-1].value == _NODES


def test_the_slow_end_needs_more_devices() -> None:
    deadline = 1.05 * _EVERY[1]
    plain, sure = (
        fewest_devices(_MODEL, _CLUSTER, _TRAINING, tokens=_TOKENS, deadline_seconds=deadline, at_slow_end=slow)
        for slow in (False, True)
    )
    assert plain.best is not None
    assert sure.best is not None
    assert sure.best.value > plain.best.value
    assert token_time(sure.best, _TOKENS).seconds_high <= deadline


@pytest.mark.parametrize(("tokens", "deadline"), [(0.0, 1.0), (math.nan, 1.0), (1e9, 0.0), (1e9, math.inf)])
def test_no_tokens_and_no_time(tokens: float, deadline: float) -> None:
    with pytest.raises(SpecError, match="give"):
        fewest_devices(_MODEL, _CLUSTER, _TRAINING, tokens=tokens, deadline_seconds=deadline)


def test_nothing_fits_any_number_of_nodes() -> None:
    cluster = tiny_cluster(devices=4, devices_per_node=2, memory_bytes=2e8, host_bytes=1e7)
    with pytest.raises(InfeasibleError, match="no plan fits"):
        fewest_devices(_MODEL, cluster, _TRAINING, tokens=1e9, deadline_seconds=1e9)
    with pytest.raises(InfeasibleError, match="no plan fits"):
        costs(_MODEL, cluster, _TRAINING, tokens=1e9)


class TestCosts:
    found = costs(_MODEL, _CLUSTER, _TRAINING, tokens=_TOKENS, price=2.0)

    def test_nodes_double_up_to_the_cluster(self) -> None:
        assert [case.value for case in self.found.cases] == [1, 2, 4, 8, 12]

    def test_figures_follow_from_the_step(self) -> None:
        for case, time in zip(self.found.cases, self.found.times, strict=True):
            assert time.steps == 20346  # 1e9 / (48 x 1024) = 20345.05
            assert time.seconds == pytest.approx(_EVERY[case.value])
            assert time.device_hours == pytest.approx(time.seconds / 3600 * 2 * case.value)
            assert time.cost == pytest.approx(2 * time.device_hours)
            assert time.energy_joules is None  # nobody says what power such a device has
            assert time.seconds_low < time.seconds < time.seconds_high

    def test_pareto(self) -> None:
        """Against the definition, point by point."""
        pairs = [(time.seconds, time.device_hours) for time in self.found.times]
        for index, mine in enumerate(pairs):
            beaten = any(other != mine and other[0] <= mine[0] and other[1] <= mine[1] for other in pairs)
            assert (index in self.found.cheapest_for_their_time) is not beaten

    def test_pareto_of_equals(self) -> None:
        """What is as fast and dearer is beaten, and so is what is as cheap and slower; two equal ones both stay."""
        times = [TokenTime(1, *(seconds,) * 3, hours, None, None) for seconds, hours in _TIED]
        tied = Costs(self.found.cases, tuple(times), 0)
        assert tied.cheapest_for_their_time == (0, 1, 4)

    def test_energy_is_power_times_device_seconds(self) -> None:
        device = _CLUSTER.node.device.model_copy(update={"power_watts": 300.0})
        group = _CLUSTER.node.model_copy(update={"device": device})
        cluster = _CLUSTER.model_copy(update={"groups": (group,)})
        (time, *_) = costs(_MODEL, cluster, _TRAINING, tokens=_TOKENS).times
        assert time.energy_joules == pytest.approx(300.0 * time.device_hours * 3600)
        assert time.cost is None

    @pytest.mark.parametrize("price", [0.0, -1.0, math.nan, math.inf])
    def test_no_price(self, price: float) -> None:
        with pytest.raises(SpecError, match="give the money for one device and hour, above 0"):
            costs(_MODEL, _CLUSTER, _TRAINING, tokens=_TOKENS, price=price)
