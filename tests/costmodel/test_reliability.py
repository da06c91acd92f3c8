"""What failures leave, against numbers worked by hand, published optima and a simulation."""

import math
import random

import pytest

from shardwright.base.errors import SpecError
from shardwright.catalog.cluster_file import load_cluster
from shardwright.costmodel.reliability import Reliability, best_interval_seconds, goodput, training_share
from shardwright.specs.results.estimate import Estimate, MemoryBytes, StepSeconds
from tests.costmodel.fakes import round_cluster

MINUTE, HOUR = 60.0, 3600.0


def estimate(devices: int, step_seconds: float) -> Estimate:
    """1000 tokens/s and nothing else of note."""
    step = dict.fromkeys(StepSeconds.model_fields, 0.0) | {"compute": step_seconds}
    return Estimate(
        step=StepSeconds(**step),
        step_seconds_intervals=(),
        memory=(MemoryBytes(**dict.fromkeys(MemoryBytes.model_fields, 0.0)),),
        host_bytes=(0.0,),
        tokens_per_s=1000.0,
        model_flops=1.0,
        hardware_flops=1.0,
        mfu=0.5,
        hfu=0.5,
        device_count=devices,
        basis="catalog",
    )


def reliability(**changes: float | None) -> Reliability:
    values = {"mtbf_device_hours": 8.0, "checkpoint_seconds": 10.0, "restart_seconds": 100.0}
    return Reliability.parse(values | changes, source="test")


class TestBestInterval:
    @pytest.mark.parametrize(
        ("between_failures", "minutes"), [(24 * HOUR, 117.0), (6 * HOUR, 57.0), (15 * MINUTE, 9.1)]
    )
    def test_as_published(self, between_failures: float, minutes: float) -> None:
        """Daly 2006, captions of figures 3 to 5: checkpoints of 5 minutes, restarts of 10."""
        found = best_interval_seconds(between_failures, 5 * MINUTE) / MINUTE
        assert found == pytest.approx(minutes, abs=0.5 if minutes > 10 else 0.05)

    def test_checkpoints_longer_than_failures_are_apart(self) -> None:
        assert best_interval_seconds(100.0, 200.0) == 100.0

    @pytest.mark.parametrize("between_failures", [HOUR, 24 * HOUR])
    def test_neither_longer_nor_shorter_is_better(self, between_failures: float) -> None:
        best = best_interval_seconds(between_failures, MINUTE)
        shares = [training_share(best * factor, between_failures, MINUTE, 0.0) for factor in (0.8, 1.0, 1.25)]
        assert max(shares) == shares[1]


class TestTrainingShare:
    def test_without_failures_only_checkpoints_cost(self) -> None:
        assert training_share(90.0, 1e12, 10.0, 100.0) == pytest.approx(0.9)

    def test_by_hand(self) -> None:
        """M 100, t 60, d 10, R 20: 60 / (100 e^0.2 (e^0.7 - 1)) = 60 / (122.14 x 1.01375) = 0.4846."""
        assert training_share(60.0, 100.0, 10.0, 20.0) == pytest.approx(0.4846, abs=1e-4)

    def test_nothing_is_left_where_no_float_could_tell(self) -> None:
        assert training_share(1e9, 1.0, 1.0, 1.0) == 0.0

    def test_as_simulated(self) -> None:
        """Segments are repeated until one ends without a failure; each failure costs a restart, which may fail too."""
        chance, between, interval, writing, restart = random.Random(0), 1000.0, 300.0, 20.0, 150.0
        clock, segments = 0.0, 20_000
        for _ in range(segments):
            while (failure := chance.expovariate(1 / between)) < interval + writing:
                clock += failure
                while (again := chance.expovariate(1 / between)) < restart:
                    clock += again
                clock += restart
            clock += interval + writing
        expected = segments * interval / clock
        assert training_share(interval, between, writing, restart) == pytest.approx(expected, rel=0.03)


class TestGoodput:
    def test_the_trays_of_a_rack_fail_one_by_one(self) -> None:
        """8 devices are 2 trays of 4, each of which fails once in 8 hours: every 4 hours."""
        trays = reliability(mtbf_device_hours=None, mtbf_node_hours=8.0)
        found = goodput(estimate(8, 2.0), load_cluster("gb200:8"), trays)
        assert found.mean_seconds_between_failures == pytest.approx(4 * HOUR)

    def test_by_hand(self) -> None:
        """8 devices of 8 hours: a failure an hour. 50 steps of 2 s, d 10, R 100, M 3600:
        100 / (3600 e^(100/3600) (e^(110/3600) - 1)) = 0.8708; checkpoints a tenth of that."""
        found = goodput(estimate(8, 2.0), round_cluster(), reliability(checkpoint_every=50))
        assert found.mean_seconds_between_failures == 3600.0
        assert found.training_share == pytest.approx(0.8708, abs=1e-4)
        assert found.checkpoint_share == pytest.approx(0.08708, abs=1e-5)
        assert found.training_share + found.checkpoint_share + found.failure_share == pytest.approx(1.0)
        assert found.tokens_per_s == pytest.approx(870.8, abs=0.1)

    def test_nodes_fail_beside_their_devices(self) -> None:
        """6 devices take 2 nodes of 4: 6 / 12 h + 2 / 4 h is one an hour."""
        both = reliability(mtbf_device_hours=12.0, mtbf_node_hours=4.0)
        assert goodput(estimate(6, 2.0), round_cluster(), both).mean_seconds_between_failures == pytest.approx(3600.0)

    def test_checkpoints_come_at_whole_steps_near_the_optimum(self) -> None:
        """M 3600, d 10: sqrt(72000) (1 + 0.0124 + 0.0002) - 10 = 261.7 s, 131 steps of 2 s."""
        assert goodput(estimate(8, 2.0), round_cluster(), reliability()).checkpoint_every == 131

    def test_more_devices_leave_less(self) -> None:
        shares = [goodput(estimate(n, 2.0), round_cluster(), reliability()).training_share for n in (1, 8, 64)]
        assert shares == sorted(shares, reverse=True)

    def test_a_run_that_gets_nowhere_is_said_so(self) -> None:
        with pytest.raises(SpecError, match="leaves no time to train"):
            goodput(estimate(8, 2.0), round_cluster(), reliability(mtbf_device_hours=1e-3))

    def test_something_has_to_fail(self) -> None:
        with pytest.raises(SpecError, match="mtbf_device_hours, mtbf_node_hours"):
            reliability(mtbf_device_hours=None)


def test_the_optimum_where_failures_are_frequent() -> None:
    """M 600, d 120: sqrt(144000) (1 + 0.1054 + 0.0111) - 120 = 303.7 s. The best of all is no better; Young's is worse."""
    between, writing = 10 * MINUTE, 2 * MINUTE
    found = best_interval_seconds(between, writing)
    assert found == pytest.approx(303.7, abs=0.1)
    best = max(training_share(float(interval), between, writing, 0.0) for interval in range(60, 1200))
    young = training_share(math.sqrt(2 * writing * between), between, writing, 0.0)
    assert best * 0.9999 < training_share(found, between, writing, 0.0)
    assert young < training_share(found, between, writing, 0.0)
