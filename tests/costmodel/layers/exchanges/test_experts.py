"""Trading tokens with the experts of other ranks, by hand: 1 second a GB."""

import numpy as np
import pytest

from shardwright.costmodel.layers.exchanges.experts import ExpertExchange, expert_split
from shardwright.costmodel.layers.exchanges.placement import placed
from shardwright.costmodel.tables.distinct_rows import distinct_rows
from shardwright.specs.model.feed_forward import MixtureOfExperts
from shardwright.specs.plan import EXPERT_DISPATCH
from shardwright.specs.training import TrainingSpec
from tests.costmodel.fakes import RoundTimes, round_cluster, small_experts
from tests.specs.test_candidates import candidates

EXPERTS = MixtureOfExperts(experts=16, top_k=2, expert_width=8)
TOKENS, HIDDEN = 1_000_000, 500
TOKEN_SECONDS = TOKENS * HIDDEN * 2 * 1e-9  # one bf16 copy of each token: 1


def seconds(
    dispatch: str = "all-to-all",
    *,
    routing: str = "random",
    top_k: int = 2,
    stack: str = "shardwright",
    per_centroid: int = 1,
    imbalance: float = 1.0,
    hot: int = 0,
    **degrees: int,
) -> float:
    chosen = candidates(expert_dispatch=EXPERT_DISPATCH.index(dispatch), **degrees)
    given: dict[str, object] = {"seq_len": TOKENS, "global_batch": 8, "routing": routing, "stack": stack}
    given |= {"tokens_per_centroid": per_centroid, "expert_imbalance": imbalance, "hot_experts": hot}
    training = TrainingSpec.parse(given, source="test")
    times = RoundTimes(node=round_cluster(nodes=2, devices_per_node=4).node)
    exchange = ExpertExchange(training, times, chosen, np.array([TOKENS]), HIDDEN)
    return float(exchange.pass_seconds(EXPERTS.model_copy(update={"top_k": top_k}))[0])


def test_every_token_travels_to_each_of_its_experts_and_back() -> None:
    assert seconds(ep=8, dp_shard=8) == pytest.approx(2 * 2 * TOKEN_SECONDS)
    assert seconds(ep=1, dp_shard=8) == 0


def test_ranks_of_a_tensor_parallel_group_send_their_own_tokens_only() -> None:
    assert seconds(ep=8, dp_shard=4, tp=2) == pytest.approx(2 * 2 * TOKEN_SECONDS / 2)


def test_ranks_that_split_an_expert_gather_its_tokens() -> None:
    """tp 4, ep 2: two ranks split each expert. A rank trades 2 T / 4 copies, and gathers and reduces 2 T / 2."""
    expected = 2 * 2 * TOKEN_SECONDS / 4 + 2 * 2 * TOKEN_SECONDS / 2
    assert seconds(ep=2, dp_shard=2, tp=4, stack="megatron-core") == pytest.approx(expected)


def test_in_this_executor_each_of_them_is_sent_the_tokens() -> None:
    assert seconds(ep=2, dp_shard=2, tp=4) == pytest.approx(2 * 2 * TOKEN_SECONDS / 2)


def test_means_travel_in_place_of_tokens() -> None:
    """1e6 x 2 / 16 = 125,000 tokens of a rank for each expert: 25,000 means of five."""
    assert seconds(ep=8, dp_shard=8, per_centroid=5) == pytest.approx(2 * 2 * TOKEN_SECONDS / 5)
    assert seconds(ep=2, dp_shard=2, tp=4, per_centroid=5) == pytest.approx(2 * 2 * TOKEN_SECONDS / 2 / 5)
    assert seconds(ep=1, dp_shard=8, per_centroid=5) == 0


@pytest.mark.parametrize(("tokens", "merged"), [(40, 5), (48, 6 / 2), (24, 3), (8, 1), (4, 1)])
def test_the_last_mean_of_an_expert_may_be_of_fewer(tokens: int, merged: float) -> None:
    """Two of 16 experts: 40 tokens are 5 for each expert, one mean; 48 are 6, two means; 24 are 3, one; below one there is nothing to average."""
    training = TrainingSpec(seq_len=tokens, global_batch=8, tokens_per_centroid=5)
    split = expert_split(candidates(ep=8, dp_shard=8), training)
    assert np.asarray(split.merged(EXPERTS)).item() == merged
    assert np.asarray(split.computed(EXPERTS, 1.0, 1)).item() == pytest.approx(2 / merged)
    assert np.asarray(expert_split(candidates(dp_shard=8), training).merged(EXPERTS)).item() == 1


def test_hot_experts_on_every_rank_leave_less_to_exchange() -> None:
    """Sixteen equal experts, four of them on every rank: a quarter of the tokens stays. With twice the mean on the busiest of 8 ranks more does."""
    assert seconds(ep=8, dp_shard=8, hot=4) == pytest.approx(2 * 2 * TOKEN_SECONDS * 3 / 4)
    left = placed(16, 8, 2.0, 4).sent
    assert left < 3 / 4
    assert seconds(ep=8, dp_shard=8, imbalance=2.0, hot=4) == pytest.approx(2 * 2 * TOKEN_SECONDS * left)
    assert seconds(ep=8, dp_shard=8, imbalance=2.0) == pytest.approx(2 * 2 * TOKEN_SECONDS * 2)
    split = expert_split(
        candidates(ep=8, dp_shard=8), TrainingSpec(seq_len=8, global_batch=8, expert_imbalance=2.0, hot_experts=4), 16
    )
    assert np.asarray(split.load).item() == placed(16, 8, 2.0, 4).computed < 2


def test_one_copy_goes_to_each_rank_that_holds_any() -> None:
    """Eight ranks on two nodes: of two experts at random, 8 (1 - (7/8)^2) = 1.875 ranks hold one; nodes 1.5."""
    assert seconds("deduplicated", ep=8, dp_shard=8) == pytest.approx(2 * 1.875 * TOKEN_SECONDS)


def test_experts_dealt_out_in_a_row_lie_on_few_ranks() -> None:
    """Two experts a rank, so that four in a row lie on two."""
    assert seconds("deduplicated", ep=8, dp_shard=8, routing="consecutive", top_k=4) == pytest.approx(
        2 * 2 * TOKEN_SECONDS
    )
    assert seconds(ep=8, dp_shard=8, routing="consecutive", top_k=4) == pytest.approx(2 * 4 * TOKEN_SECONDS)


def test_imbalance_counts_where_experts_lie_apart_and_capacity_everywhere() -> None:
    uneven = TrainingSpec(seq_len=8, global_batch=8, expert_imbalance=1.5)
    assert np.asarray(expert_split(candidates(ep=4, dp_shard=4), uneven).load).item() == 1.5
    assert np.asarray(expert_split(candidates(ep=1, dp_shard=4), uneven).load).item() == 1
    capped = uneven.model_copy(update={"expert_capacity": 1.25})
    assert np.asarray(expert_split(candidates(ep=1, dp_shard=4), capped).load).item() == 1.25


def balance(*, on: bool = True, **degrees: int) -> float:
    training = TrainingSpec(seq_len=8, global_batch=8, global_balance=on)
    times = RoundTimes(node=round_cluster(nodes=2, devices_per_node=4).node)
    exchange = ExpertExchange(training, times, candidates(**degrees), np.array([TOKENS]), HIDDEN)
    return float(exchange.balance_seconds(EXPERTS)[0])


def test_a_loss_over_all_data_ranks_adds_up_a_number_for_each_expert() -> None:
    """Sixteen numbers in fp32, among the ranks of a shard group and then among its replicas; no other ranks have other tokens."""
    one = 16 * 4 * 1e-9
    assert balance(dp_shard=8) == pytest.approx(one)
    assert balance(dp_shard=2, cp=2, dp_replicate=2) == pytest.approx(2 * one)
    assert balance(tp=8) == balance(dp_shard=8, on=False) == 0


def test_the_sum_is_made_in_each_forward_and_again_where_that_is_repeated() -> None:
    model = small_experts()
    job = TrainingSpec(seq_len=128, global_batch=8)
    chosen = candidates(dp_shard=8)
    times = RoundTimes(node=round_cluster(nodes=2, devices_per_node=4).node)
    (plain,), (summed,) = (
        distinct_rows(model, job.model_copy(update={"global_balance": on}), chosen, times).works[:1]
        for on in (False, True)
    )
    added = summed.expert_parallel_forward_seconds - plain.expert_parallel_forward_seconds
    assert added[0] == pytest.approx(8 * 4 * 1e-9)
    repeated = summed.expert_parallel_backward_seconds_by_policy - plain.expert_parallel_backward_seconds_by_policy
    assert repeated[0].tolist() == pytest.approx([0, 0, added[0]])
