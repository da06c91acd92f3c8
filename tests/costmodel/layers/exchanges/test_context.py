"""The exchange of keys and values, by hand: 1 second a GB, whatever the collective."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from shardwright.base.arrays import Array, Number
from shardwright.costmodel.layers.exchanges.context import ContextExchange, PassSeconds
from shardwright.costmodel.op_times.overlap import slowdown_beside
from shardwright.specs.candidates import ring_group, ulysses_group
from shardwright.specs.model.attention import LatentAttention, MultiHeadAttention
from shardwright.specs.plan import CONTEXT_PARALLEL
from shardwright.specs.training import TrainingSpec
from tests.costmodel.fakes import RoundTimes, round_cluster
from tests.specs.test_candidates import candidates

TOKENS = 1e6  # of one rank
GROUPED = MultiHeadAttention(heads=8, kv_heads=2, head_size=125)
KEYS_VALUES = 2 * TOKENS * 2 * (125 + 125)  # bytes: bf16, two KV heads, keys and values
LONG = np.array([1e6])  # seconds of attention that hide anything


def exchange(
    kind: str, *, cp: int = 4, cpu: bool = False, stack: str = "megatron-core", **degrees: int
) -> ContextExchange:
    chosen = candidates(cp=cp, context_parallel=CONTEXT_PARALLEL.index(kind), **degrees)
    training = TrainingSpec(seq_len=8, global_batch=8, stack=stack)
    times = RoundTimes(node=round_cluster(kind="cpu" if cpu else "gpu").node)
    return ContextExchange(training, times, chosen, np.array([TOKENS]))


def seconds(found: PassSeconds) -> tuple[float, float]:
    return float(found.forward[0]), float(found.backward[0])


def test_gathering_moves_all_keys_and_values_and_backward_twice() -> None:
    whole = 4 * KEYS_VALUES * 1e-9
    assert seconds(exchange("all-gather").pass_seconds(GROUPED, LONG, LONG)) == pytest.approx((whole, 2 * whole))


def test_software_that_repeats_heads_before_attention_moves_them_repeated() -> None:
    """torchtitan copies each of two KV heads for four query heads; the working memory holds the copies, too."""
    found, plain = exchange("all-gather", stack="torchtitan"), exchange("all-gather", stack="torchtune")
    for times, which in ((4, found), (1, plain)):
        alone = which.pass_seconds(GROUPED, 0 * LONG, 0 * LONG)
        assert seconds(alone)[0] == pytest.approx(times * 4 * KEYS_VALUES * 1e-9)
    query_gradient = 4 * TOKENS * 8 * 125
    copied, unrepeated = (which.working_bytes(GROUPED)[0] - query_gradient for which in (found, plain))
    assert copied == pytest.approx(4 * unrepeated)


def test_a_ring_that_attention_outlasts_only_slows_it() -> None:
    slowdown = float(slowdown_beside(RoundTimes().node.device, RoundTimes().constants, LONG))
    sends = 3 * KEYS_VALUES * 1e-9  # to the next rank, cp - 1 times
    found = seconds(exchange("ring").pass_seconds(GROUPED, LONG, LONG))
    assert found == pytest.approx((slowdown * sends, slowdown * 2 * sends))


def test_a_ring_shows_where_it_outlasts_the_attention_of_a_block() -> None:
    """A send of 1 s beside a block's attention of 0.1 s, three times; backward 2 s beside 0.2 s."""
    slowdown = float(slowdown_beside(RoundTimes().node.device, RoundTimes().constants, LONG))
    found = exchange("ring").pass_seconds(GROUPED, np.array([0.4]), np.array([0.8]))
    assert KEYS_VALUES * 1e-9 == 1
    assert seconds(found) == pytest.approx((3 * (0.9 + slowdown * 0.1), 3 * (1.8 + slowdown * 0.2)))


def test_a_cpu_hides_no_ring() -> None:
    assert seconds(exchange("ring", cpu=True).pass_seconds(GROUPED, LONG, LONG)) == pytest.approx((3, 6))


def test_ulysses_trades_queries_outputs_and_keys_and_values() -> None:
    """Four ranks: tp 2 leaves one of two KV heads, which then goes to each of them."""
    width = 8 * 125 * 2 + 2 * 125 * 2 * 4
    both = 2 * TOKENS * width / 2 * 1e-9
    assert seconds(exchange("ulysses", cp=1, tp=2).pass_seconds(GROUPED, LONG, LONG)) == (0, 0)
    assert seconds(exchange("ulysses", tp=2).pass_seconds(GROUPED, LONG, LONG)) == pytest.approx((both, both))
    alone = 2 * TOKENS * 2 * (8 + 2) * 125 * 1e-9  # as many ranks as KV heads: none travels twice
    assert seconds(exchange("ulysses", cp=2).pass_seconds(GROUPED, LONG, LONG)) == pytest.approx((alone, alone))


class TestUlyssesInFrontOfARing:
    """Pairs of eight ranks trade heads; four of these pairs are a ring."""

    def test_it_trades_in_pairs_and_passes_on_three_times(self) -> None:
        """A second of a block's keys and values passes beside 0.1 s of attention, as in a ring of four."""
        found = exchange("ulysses-ring", cp=8, ulysses_degree=2).pass_seconds(GROUPED, np.array([0.4]), np.array([0.8]))
        ring = exchange("ring").pass_seconds(GROUPED, np.array([0.4]), np.array([0.8]))
        traded = 2 * TOKENS * 2 * (8 + 2) * 125 * 1e-9
        assert seconds(found) == pytest.approx(tuple(part + traded for part in seconds(ring)))

    def test_more_ranks_than_kv_heads_pass_on_repeated_heads(self) -> None:
        """Two KV heads for four ranks: a second of a block becomes two."""
        found = exchange("ulysses-ring", cp=8, ulysses_degree=4).pass_seconds(GROUPED, 0 * LONG, 0 * LONG)
        traded = 2 * TOKENS * 2 * (8 + 2 * 2) * 125 * 1e-9
        assert seconds(found) == pytest.approx((1 * 2 + traded, 2 * 2 + traded))

    def test_it_holds_two_blocks_like_a_ring(self) -> None:
        found = exchange("ulysses-ring", cp=8, ulysses_degree=2).working_bytes(GROUPED)
        assert found == exchange("ring", cp=8).working_bytes(GROUPED)

    def test_pairs_lie_in_a_node_and_the_ring_across(self) -> None:
        """tp 2, 8 ranks a node: pairs are 2 apart, and of a ring of four 2 ranks are on each node."""
        chosen = candidates(cp=8, tp=2, context_parallel=CONTEXT_PARALLEL.index("ulysses-ring"), ulysses_degree=2)
        node = round_cluster(devices_per_node=8).node
        pair, ring = ulysses_group(chosen, node), ring_group(chosen, node)
        assert (pair.nodes, pair.ranks_per_node) == (1, 2)
        assert (ring.nodes, ring.ranks_per_node) == (2, 2)


class TestTorch:
    """It attends to one block after the other, sums in fp32, and passes gradients on in fp32."""

    def test_a_gather_runs_beside_attention_to_the_own_block(self) -> None:
        """Beside the 1 s of a block of four, 4 s of gather: 3 s are left, and the slowdown of that second."""
        slowdown = float(slowdown_beside(RoundTimes().node.device, RoundTimes().constants, LONG))
        found = exchange("all-gather", stack="fsdp").pass_seconds(GROUPED, np.array([4.0]), 0 * LONG)
        assert seconds(found)[0] == pytest.approx(3 + slowdown)

    def test_gradients_take_twice_the_bytes_and_travel_once_more(self) -> None:
        """Nothing hides them: three sends of keys and values beside three of gradients, which take 2 s, and the last one home."""
        ring = exchange("ring", stack="fsdp").pass_seconds(GROUPED, 0 * LONG, 0 * LONG)
        assert seconds(ring) == pytest.approx((3, 3 * (1 + 2) + 2))
        gathered = exchange("all-gather", stack="fsdp").pass_seconds(GROUPED, 0 * LONG, 0 * LONG)
        assert seconds(gathered) == pytest.approx((4, 4 + 4 * 2))

    def test_fp32_training_sends_as_wide_as_it_keeps(self) -> None:
        training = TrainingSpec.parse(
            {"seq_len": 8, "global_batch": 8, "precision": {"compute": "fp32"}}, source="test"
        )
        wide = replace(exchange("ring"), training=training)
        assert seconds(wide.pass_seconds(GROUPED, 0 * LONG, 0 * LONG)) == pytest.approx((2 * 3, 2 * (3 * 2 + 1)))

    def test_sums_in_fp32_take_memory(self) -> None:
        """Gradients of one block in fp32 and of another that travels, and those of all queries."""
        found = exchange("ring", stack="fsdp").working_bytes(GROUPED)[0]
        assert found == 2 * KEYS_VALUES + 2 * 2 * KEYS_VALUES + 4 * TOKENS * 8 * 125


def test_merging_is_memory_traffic_beside_the_exchange() -> None:
    """Transformer Engine, 4 blocks, 1 s a TB: 2 K + 11 O bytes of two forward; most of the backward is 3 K + 1.5 Q a block."""
    found = replace(exchange("ring"), times=_Moving(node=round_cluster().node)).pass_seconds(GROUPED, LONG, LONG)
    plain = exchange("ring").pass_seconds(GROUPED, LONG, LONG)
    queries, keys = TOKENS * 8 * 125, KEYS_VALUES / 2
    forward = 2 * (2 * keys + 11 * queries)
    backward = 2 * (2 * keys + 2 * queries + keys + 2 * (3 * queries + 1.5 * keys) + 3 * (queries + keys))
    assert found.forward - plain.forward == pytest.approx(forward * 1e-12)
    assert found.backward - plain.backward == pytest.approx(backward * 1e-12)


@dataclass(frozen=True)
class _Moving(RoundTimes):
    """A second for a TB of memory traffic."""

    def memory_bound_seconds(self, moved_bytes: Number) -> Array:
        return np.asarray(moved_bytes, dtype=float) * 1e-12


def test_grouped_heads_travel_unrepeated_and_latent_ones_projected() -> None:
    latent = LatentAttention(heads=8, query_rank=None, kv_rank=16, plain_size=100, rotary_size=25, value_head_size=125)
    found = exchange("all-gather")
    assert found.local_key_value_bytes(latent)[0] == 4 * found.local_key_value_bytes(GROUPED)[0]


@pytest.mark.parametrize(("kind", "blocks"), [("all-gather", 4), ("ring", 2), ("ulysses", 2)])
def test_other_ranks_keys_and_values_take_memory_with_their_gradients(kind: str, blocks: int) -> None:
    assert exchange(kind).working_bytes(GROUPED)[0] == blocks * 2 * KEYS_VALUES
    assert exchange(kind, cp=1).working_bytes(GROUPED)[0] == 0
