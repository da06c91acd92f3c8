"""Questions about mixed clusters: every job goes through the search over groups, and what takes nodes of one kind is refused."""

import pytest

from shardwright.base import InfeasibleError, SpecError
from shardwright.catalog import read_lengths
from shardwright.planner.mixed import search_mixed
from shardwright.planner.questions import (
    costs,
    fewest_devices,
    largest_global_batch,
    longest_sequence,
    packings,
    token_time,
)
from tests.planner.mixed.mixed_problems import random_replica_problem

MODEL, CLUSTER, TRAINING = random_replica_problem(0)


def test_the_longest_sequence_is_that_of_the_search_over_groups() -> None:
    small = 1.3e9 + 9 * MODEL.parameter_count
    groups = tuple(
        group.model_copy(update={"device": group.device.model_copy(update={"memory_bytes": small})})
        for group in CLUSTER.groups
    )
    tight = CLUSTER.model_copy(update={"groups": groups})
    found = longest_sequence(MODEL, tight, TRAINING, step=1024)
    at_most, beyond = (
        TRAINING.model_copy(update={"seq_len": length}) for length in (found.best.value, found.next_value)
    )
    seconds = search_mixed(MODEL, tight, at_most, runners_up=0).result.estimate.step_seconds
    assert found.best.estimate.step_seconds == pytest.approx(seconds, rel=1e-9)
    with pytest.raises(InfeasibleError):
        search_mixed(MODEL, tight, beyond, runners_up=0)


def test_larger_batches_are_searched_over_groups() -> None:
    found = largest_global_batch(MODEL, CLUSTER, TRAINING, up_to=2 * TRAINING.global_batch)
    for case in found.cases:
        training = TRAINING.model_copy(update={"global_batch": case.value})
        seconds = search_mixed(MODEL, CLUSTER, training, runners_up=0).result.estimate.step_seconds
        assert case.estimate.step_seconds == pytest.approx(seconds, rel=1e-9)


def test_costs_are_of_each_group_and_of_both() -> None:
    found = costs(MODEL, CLUSTER, TRAINING, tokens=1e9)
    kinds = [tuple(group.device.name for group in case.cluster.groups) for case in found.cases]
    assert sorted(kinds) == [("fast-gpu",), ("fast-gpu", "slow-gpu"), ("slow-gpu",)]
    for case, time in zip(found.cases, found.times, strict=True):
        assert time.device_hours == pytest.approx(time.seconds / 3600 * case.cluster.devices)


def test_energy_counts_the_devices_of_every_group() -> None:
    powers = (100.0, 300.0)
    groups = tuple(
        group.model_copy(update={"device": group.device.model_copy(update={"power_watts": watts})})
        for group, watts in zip(CLUSTER.groups, powers, strict=True)
    )
    found = costs(MODEL, CLUSTER.model_copy(update={"groups": groups}), TRAINING, tokens=1e9)
    both = next(case for case in found.cases if len(case.cluster.groups) == 2)
    time = token_time(both, 1e9)
    watts = sum(group.devices * (group.device.power_watts or 0) for group in both.cluster.groups)
    assert time.energy_joules == pytest.approx(time.seconds * watts)


def test_a_price_is_of_one_kind_of_device() -> None:
    with pytest.raises(
        SpecError, match="price 2 is of one kind of device, and mixed has fast-gpu, slow-gpu; leave it out"
    ):
        costs(MODEL, CLUSTER, TRAINING, tokens=1e9, price=2.0)


ONE_KIND = r"^mixed is a mixed cluster .* takes nodes of one kind; name one group alone"


def test_the_fewest_devices_are_of_one_kind() -> None:
    with pytest.raises(SpecError, match=ONE_KIND):
        fewest_devices(MODEL, CLUSTER, TRAINING, tokens=1e9, deadline_seconds=1e9)


def test_documents_are_packed_on_one_kind() -> None:
    documents = TRAINING.model_copy(update={"lengths": read_lengths("uniform:16..64")})
    with pytest.raises(SpecError, match=ONE_KIND):
        packings(MODEL, CLUSTER, documents)
