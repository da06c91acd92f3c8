"""Packing, padding and buckets: `search` confirms each way, and buckets share one layout."""

import pytest

from shardwright.base import InfeasibleError, SpecError
from shardwright.planner import search
from shardwright.planner.questions import Packings, packings
from shardwright.planner.space import Fixed
from shardwright.specs import Lengths, TrainingSpec
from tests.planner.small_problems import tiny_cluster, tiny_model

_MODEL, _CLUSTER = tiny_model(layers=8, hidden=512), tiny_cluster(devices=8)
_LENGTHS = Lengths(name="three", tokens=(300.0, 1500.0, 9000.0), shares=(0.6, 0.3, 0.1))
_TRAINING = TrainingSpec(seq_len=4096, global_batch=64, lengths=_LENGTHS)


@pytest.fixture(scope="module")
def found() -> Packings:
    return packings(_MODEL, _CLUSTER, _TRAINING)


def test_packed_and_padded_are_what_search_finds(found: Packings) -> None:
    for case, packing in ((found.packed, "packed"), (found.padded, "padded")):
        assert case is not None
        again = search(_MODEL, _CLUSTER, _TRAINING.model_copy(update={"packing": packing}), runners_up=0)
        assert case.plan == again.plan
    assert found.packed is not None
    assert found.padded is not None
    assert found.packed.estimate.tokens_per_s > found.padded.estimate.tokens_per_s
    assert found.fastest == "packed"


def test_buckets_hold_all_tokens(found: Packings) -> None:
    """300 tokens are in the bucket up to 512, 1,500 in that up to 2,048, and 9,000 are cut off at 4,096."""
    assert found.bucketed is not None
    tokens = {512: 0.6 * 300, 2048: 0.3 * 1500, 4096: 0.1 * 4096}
    shares = {bucket.longest: bucket.share for bucket in found.bucketed.buckets}
    assert shares == pytest.approx({longest: each / sum(tokens.values()) for longest, each in tokens.items()})
    for bucket in found.bucketed.buckets:
        assert bucket.case.training.seq_len * bucket.case.training.global_batch == 4096 * 64
        assert (bucket.case.training.used_share < 1) == (bucket.longest < 4096)


def test_buckets_take_the_time_of_their_tokens(found: Packings) -> None:
    assert found.bucketed is not None
    seconds = sum(each.share / each.case.estimate.tokens_per_s for each in found.bucketed.buckets)
    assert found.bucketed.tokens_per_s == pytest.approx(1 / seconds)
    rates = [each.case.estimate.tokens_per_s for each in found.bucketed.buckets]
    assert min(rates) < found.bucketed.tokens_per_s < max(rates)


def test_buckets_share_one_layout(found: Packings) -> None:
    assert found.bucketed is not None
    plans = [bucket.case.plan for bucket in found.bucketed.buckets]
    for held in ("pp", "tp", "ep", "dp_replicate", "shard_ranks"):
        assert len({getattr(plan.mesh, held) for plan in plans}) == 1
    assert len({plan.zero_stage for plan in plans}) == 1
    assert len({plan.micro_batch for plan in plans}) > 1


def test_what_is_fixed_is_kept() -> None:
    found = packings(_MODEL, _CLUSTER, _TRAINING, fixed=Fixed(tp=2))
    assert found.packed is not None
    assert found.bucketed is not None
    assert {case.plan.mesh.tp for case in (found.packed, *(each.case for each in found.bucketed.buckets))} == {2}


def test_without_lengths_there_is_no_question() -> None:
    with pytest.raises(SpecError, match="give --lengths"):
        packings(_MODEL, _CLUSTER, TrainingSpec(seq_len=4096, global_batch=64))


def test_where_nothing_fits() -> None:
    small = tiny_cluster(devices=8, memory_bytes=1e6)
    with pytest.raises(InfeasibleError, match="no way to train on these documents fits"):
        packings(_MODEL, small, _TRAINING)
