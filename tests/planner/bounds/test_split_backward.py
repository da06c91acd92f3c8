"""Bounds of schedules that split the backward: below every plan that fits, and equal to the closed form of even pipelines."""

import random
from dataclasses import replace
from typing import cast

import numpy as np
import pytest

from shardwright.costmodel.op_times.choice import op_times
from shardwright.costmodel.tables.rows import Rows, rank_bytes
from shardwright.planner.bounds.entry_bounds import lower_bounds
from shardwright.planner.bounds.split_backward import ramp
from shardwright.planner.space.costs import PricedRows, SpaceCosts, space_costs
from shardwright.planner.space.enumerate import enumerate_space
from shardwright.planner.space.fixed import Fixed
from shardwright.planner.space.ranges import LayerRanges, layer_ranges
from shardwright.planner.space.stage_sizes import chunk_sizes
from shardwright.planner.stages.every_plan import _all_sizes
from shardwright.planner.stages.staged_entry import StagedEntry
from shardwright.specs.schedules import ScheduleName
from shardwright.specs.training import TrainingSpec
from tests.planner.small_problems import tiny_cluster, tiny_model

ONE_STAGE: list[ScheduleName] = ["zb-h1", "zb-2p"]
IN_A_V: list[ScheduleName] = ["zb-v", "v-half", "v-min", "dualpipe-v"]
PLANS = 60


def random_costs(seed: int, name: ScheduleName) -> tuple[SpaceCosts, LayerRanges]:
    """A pipeline whose memory binds; all but dualpipe-v on a stack that recomputes under split schedules."""
    chance = random.Random(seed)
    pp = chance.choice([2, 3, 4])
    least = 2 * pp if name in IN_A_V else pp
    model = tiny_model(
        layers=least + chance.choice([0, least - 2, least - 1, least]),
        classes=chance.choice([1, 1, 2]),
        hidden=1024,
        vocab=chance.choice([1000, 40000]),
    )
    cluster = tiny_cluster(
        devices=pp,
        devices_per_node=chance.choice([1, pp]),
        memory_bytes=1.2e9 + model.parameter_count * 16 / pp * chance.uniform(1.0, 2.0),
        nic_bytes_per_s=10 ** chance.uniform(8.5, 10.5),
    )
    batch = chance.choice([2 * pp, 5 * pp]) if name == "dualpipe-v" else chance.choice([1, 2, pp, 2 * pp - 1, 5 * pp])
    stack = "shardwright" if name == "dualpipe-v" else "megatron-zero-bubble"
    training = TrainingSpec(seq_len=2048, global_batch=batch, stack=stack)
    space = enumerate_space(model, cluster, training, Fixed(pp=pp, schedule=name, micro_batch=1))
    return space_costs(space, model, training, op_times(cluster, training)), layer_ranges(model)


def some_mixes(staged: StagedEntry, policies: list[int], chance: random.Random) -> np.ndarray:
    """(B, S, classes, policies): random partitions of the space, each with random policies."""
    entry, ranges = staged.entry, staged.ranges
    sizes = chunk_sizes(ranges.layer_count, entry.pp, entry.stages_per_rank)
    every = _all_sizes(ranges.layer_count, sizes.fewest.T.reshape(-1), sizes.most.T.reshape(-1))
    found = []
    for _ in range(PLANS):
        counts = staged.counts(chance.choice(every))
        mix = np.zeros((*counts.shape, entry.rows.policies), dtype=np.int64)
        usual = chance.choice(policies)
        for place, count in np.ndenumerate(counts):
            for _ in range(count):
                mix[(*place, chance.choice([usual, usual, *policies]))] += 1
        found.append(mix)
    return np.stack(found)


class TestBelowEveryPlan:
    """No plan of an entry that fits is faster than the bound; where the bound is infinite, none fits."""

    @pytest.mark.parametrize("name", [*ONE_STAGE, *IN_A_V])
    @pytest.mark.parametrize("seed", range(25))
    def test_random_plans(self, name: ScheduleName, seed: int) -> None:
        costs, ranges = random_costs(seed, name)
        chance = random.Random(seed)
        policies = [0] if name == "dualpipe-v" else [0, 1, 2]
        bounds = lower_bounds(costs, ranges, [0, 1, 2])
        for entry, bound in enumerate(bounds):
            staged = StagedEntry(costs.entry(entry), ranges)
            one, mixes = staged.entry, some_mixes(staged, policies, chance)
            held = rank_bytes(one.rows, one.schedule, one.pp, one.microbatches, mixes, one.vocabulary)
            fits = (held.device <= one.room_bytes).all(axis=1) & (held.host <= one.host_room_bytes).all(axis=1)
            seconds = staged.seconds(mixes)[fits]
            assert (seconds >= bound * (1 - 1e-9)).all()

    def test_some_bounds_are_infinite_and_some_plans_fit(self) -> None:
        """The problems above are neither all infeasible nor all roomy."""
        bounds = np.concatenate([lower_bounds(*random_costs(seed, "zb-v"), [0, 1, 2]) for seed in range(25)])
        assert 0 < np.isinf(bounds).sum() < len(bounds)


class TestFits:
    """The memory test of one rank is that of the model, for every mix."""

    @pytest.mark.parametrize("name", [*ONE_STAGE, *IN_A_V])
    @pytest.mark.parametrize("seed", range(8))
    def test_rank_by_rank(self, name: ScheduleName, seed: int) -> None:
        costs, ranges = random_costs(seed, name)
        staged = StagedEntry(costs.entry(0), ranges)
        one, mixes = staged.entry, some_mixes(staged, [0, 1, 2], random.Random(seed))
        held = rank_bytes(one.rows, one.schedule, one.pp, one.microbatches, mixes, one.vocabulary)
        fits = (held.device <= one.room_bytes) & (held.host <= one.host_room_bytes)
        for mix, expected in zip(mixes, fits, strict=True):
            of_ranks = [mix[stages] for stages in staged.stages]
            found = [staged.fits(rank, each.sum(axis=-1), each[None])[0] for rank, each in enumerate(of_ranks)]
            assert found == expected.tolist()


@pytest.mark.parametrize(("name", "expected"), [("zb-h1", 3 * 16 + 3), ("zb-2p", 3 * 16 + 3), ("zb-v", 6 * 16 + 3)])
def test_an_even_pipeline_takes_its_bound(name: ScheduleName, expected: int) -> None:
    """With equal layers and passes and no other cost it is the schedule's closed form, in passes of one stage."""
    chunks = 2 if name == "zb-v" else 1
    model, cluster = tiny_model(layers=4 * chunks), tiny_cluster(devices=4)
    training = TrainingSpec(seq_len=1024, global_batch=16)
    space = enumerate_space(model, cluster, training, Fixed(pp=4, schedule=name, micro_batch=1, offload_optimizer=0))
    costs = space_costs(space, model, training, op_times(cluster, training))
    rows = costs.rows[:]
    none, every = np.zeros(len(rows.send)), np.ones_like(rows.forward.layers)
    nothing, free = Rows(0 * every, none, none), Rows(0 * rows.backward.layers, none, none)
    equal = replace(
        rows,
        forward=Rows(every, none, none),
        backward=Rows(free.layers + 2, none, none),
        weight_gradient=Rows(every, none, none),
        first_forward=nothing,
        last_backward=free,
        optimizer=nothing,
        send=none,
    )
    even = replace(costs, rows=cast(PricedRows, equal))
    staged = StagedEntry(even.entry(0), layer_ranges(model))
    mix = np.zeros((4 * chunks, 1, 3), dtype=np.int64)
    mix[..., 0] = 1
    assert staged.seconds(mix[None])[0] == pytest.approx(expected)
    assert lower_bounds(even, layer_ranges(model), [0])[0] == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("name", [*ONE_STAGE, *IN_A_V])
@pytest.mark.parametrize("pp", [2, 3, 5, 8])
def test_ramps_are_the_same_from_two_microbatches_a_rank_on(name: ScheduleName, pp: int) -> None:
    """The bound looks at no more microbatches than that."""
    chunks = 2 if name in IN_A_V else 1
    least = ramp(name, pp, chunks, 2 * pp)
    for microbatches in (2 * pp + 1, 3 * pp, 4 * pp + 3, 10 * pp):
        whole = ramp(name, pp, chunks, microbatches)
        assert all((one == other).all() for one, other in zip(least, whole, strict=True))
