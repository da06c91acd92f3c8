"""Laws that every estimate obeys, on 10,000 random valid specs: 200 jobs of 50 candidates each.

Hypothesis draws them without chance. Stages are as even as can be; the candidates of a job share a few shapes of pipeline.
"""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from shardwright.base.arrays import Array
from shardwright.costmodel.op_times.choice import op_times
from shardwright.costmodel.op_times.constants import CALIBRATED
from shardwright.costmodel.tables.build import build_tables
from shardwright.costmodel.tables.cost_tables import CostTables
from shardwright.costmodel.tables.memory import usable_bytes
from tests.laws.hardware import COMPUTE, COPIES, NETWORK, PARTS, Part, faster, with_memory
from tests.laws.many_specs import Specs, specs

CANDIDATES = 50
ten_thousand = settings(
    max_examples=10_000 // CANDIDATES,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
ROUNDING = 1e-9
# A rank with several stages hides its reductions behind the backwards of up to pp microbatches (tables/data_parallel.py). Where
# less compute hides less, a path that passes fewer of them grows a little.
NEARLY = 1e-6


class TestNumbersAreNumbers:
    """No part of any estimate is negative, NaN or infinite, and no step and no memory is 0."""

    @ten_thousand
    @given(specs(CANDIDATES))
    def test_law(self, some: Specs) -> None:
        for name, part in parts_of(tables_of(some)).items():
            assert np.isfinite(part).all(), name
            assert (part >= 0).all(), name
        found = some.evaluate()
        for whole in (found.step_seconds, found.peak_bytes):
            assert np.isfinite(whole).all()
            assert (whole > 0).all()


class TestTheStepLiesBetweenItsBounds:
    """max(compute, network, copies) <= step <= compute + network + copies.

    Each is the step when the other two take next to no time: what overlap hides lies between the bounds.
    """

    @ten_thousand
    @given(specs(CANDIDATES))
    def test_law(self, some: Specs) -> None:
        step = some.evaluate().step_seconds
        alone = [
            some.evaluate(faster(some.cluster, *others, times=1e12)).step_seconds
            for others in (NETWORK + COPIES, COMPUTE + COPIES, COMPUTE + NETWORK)
        ]
        assert (step >= np.maximum.reduce(alone) * (1 - ROUNDING)).all()
        assert (step <= sum(alone) * (1 + ROUNDING)).all()


class TestFasterHardwareIsNeverSlower:
    """Twice the rate of any part of the hardware makes no step longer, and takes no more memory."""

    @pytest.mark.parametrize("part", PARTS)
    @settings(ten_thousand, max_examples=50)
    @given(some=specs(CANDIDATES))
    def test_law(self, part: Part, some: Specs) -> None:
        before, after = some.evaluate(), some.evaluate(faster(some.cluster, part))
        within = np.where(some.candidates.stages_per_rank > 1, NEARLY, ROUNDING)
        assert (after.step_seconds <= before.step_seconds * (1 + within)).all()
        assert (after.peak_bytes == before.peak_bytes).all()


class TestMoreMemoryNeverMakesAPlanInfeasible:
    """What fits a device fits one with more memory, and its step is the same."""

    @settings(ten_thousand, max_examples=50)
    @given(specs(CANDIDATES))
    def test_law(self, some: Specs) -> None:
        larger = with_memory(some.cluster, times=1.5)
        before, after = some.evaluate(), some.evaluate(larger)
        fitted = before.peak_bytes <= usable_bytes(some.cluster.groups[0].device, CALIBRATED)
        assert (after.peak_bytes <= usable_bytes(larger.groups[0].device, CALIBRATED))[fitted].all()
        assert (after.step_seconds == before.step_seconds).all()


class TestPartsAddUp:
    """The seconds of a pass are the sum of its causes."""

    @settings(ten_thousand, max_examples=50)
    @given(specs(CANDIDATES))
    def test_law(self, some: Specs) -> None:
        tables = tables_of(some)
        for passes in (tables.forward, tables.backward, tables.first_forward, tables.last_backward):
            assert passes.total == pytest.approx(sum(vars(passes).values()), rel=1e-12)


def tables_of(some: Specs) -> CostTables:
    times = op_times(some.cluster, some.training)
    return build_tables(some.model, some.training, some.candidates, times)


def parts_of(tables: CostTables) -> dict[str, Array]:
    """Every array of the tables, by the path to it."""
    found = {}
    for name, value in vars(tables).items():
        if isinstance(value, np.ndarray):
            found[name] = value
        elif value is not None:  # no strategy puts activations on the host
            found |= {f"{name}.{part}": array for part, array in vars(value).items()}
    return found
