"""Matmuls of experts from a profile: in one kernel or in a loop, as the software runs them."""

from itertools import product

import numpy as np
import pytest

from shardwright.costmodel.layers.operators import Matmul
from shardwright.costmodel.layers.weight_matmuls import WeightMatmuls
from shardwright.costmodel.op_times.choice import op_times
from shardwright.costmodel.op_times.measured import ProfileTimes
from shardwright.specs.profile import Profile
from shardwright.specs.training import TrainingSpec
from tests.costmodel.fakes import round_cluster
from tests.costmodel.op_times.made_up_profile import made_up_profile, matmul_rule, series

SIZES = [(*at, groups) for at in product((128.0, 2048.0), repeat=3) for groups in (1.0, 8.0, 64.0)]


def with_loop(factor: float = 4.0) -> Profile:
    profile = made_up_profile()
    loop = series(
        "matmul", "looped_forward", "bf16", ("m", "k", "n", "groups"), SIZES, lambda *at: factor * matmul_rule(*at)
    )
    return profile.model_copy(update={"series": (*profile.series, loop)})


def times(profile: Profile, stack: str = "shardwright") -> ProfileTimes:
    group = round_cluster().groups[0].model_copy(update={"profile": profile})
    cluster = round_cluster().model_copy(update={"groups": (group,)})
    found = op_times(cluster, TrainingSpec(seq_len=2048, global_batch=8, stack=stack))
    assert isinstance(found, ProfileTimes)
    return found


def test_each_way_has_its_series() -> None:
    """1.5 times the rule in one kernel, 4 times in a loop."""
    found, at = times(with_loop()), (2048.0, 2048.0, 2048.0)
    assert found.matmul_seconds(*at, groups=8) == pytest.approx(1.5 * matmul_rule(*at, 8), rel=0.05)
    assert found.matmul_seconds(*at, groups=8, looped=True) == pytest.approx(4 * matmul_rule(*at, 8), rel=0.05)


def test_a_loop_that_was_not_measured_is_its_single_matmuls() -> None:
    found, at = times(made_up_profile()), (2048.0, 2048.0, 2048.0)
    assert found.matmul_seconds(*at, groups=8, looped=True) == pytest.approx(8 * float(found.matmul_seconds(*at)))


@pytest.mark.parametrize(("stack", "factor"), [("shardwright", 1.5), ("torchtitan", 1.5), ("megatron-core", 4.0)])
def test_the_software_decides(stack: str, factor: float) -> None:
    """Transformer Engine calls a kernel for each expert; scores of unfused attention stay in one kernel."""
    found = times(with_loop(), stack)
    work = WeightMatmuls(found, found.catalog.training, np.ones(1))
    experts = Matmul(np.array([2048.0]), 2048, 2048, 8, experts=True)
    scores = Matmul(np.array([2048.0]), 2048, 2048, 8)
    rule = matmul_rule(2048, 2048, 2048, 8)
    assert work.forward_seconds([experts]) == pytest.approx(factor * rule, rel=0.05)
    assert work.forward_seconds([scores]) == pytest.approx(1.5 * rule, rel=0.05)
