"""The exchange of linear attention over cp, by hand: 1 second a GB, whatever the collective."""

import numpy as np
import pytest

from shardwright.base import SpecError
from shardwright.catalog.cluster_file import load_cluster
from shardwright.costmodel.checks import check_context_parallel
from shardwright.costmodel.layers.exchanges.context import PassSeconds
from shardwright.costmodel.layers.exchanges.linear import LinearExchange, layout_changes
from shardwright.planner import search
from shardwright.specs import CONTEXT_PARALLEL
from shardwright.specs.model.linear_attention import GatedDelta
from shardwright.specs.stack import named_stack
from shardwright.specs.training import TrainingSpec
from tests.catalog.huggingface.small_configs import SMALL_MOE, read
from tests.costmodel.fakes import RoundTimes, round_cluster
from tests.specs.test_candidates import candidates

TOKENS, HIDDEN, CP, BATCH = 1e6, 100, 4, 2
LINEAR = GatedDelta(heads=8, key_heads=4, key_size=10, value_size=20, kernel=4, chunk=10)
CORE = (np.array([3.0]), np.array([7.0]))
NOTHING = (np.zeros(1), np.zeros(1))


def exchange(
    *, changes: float = 0.0, tokens: float = TOKENS, stack: str = "megatron-core-0.15", **degrees: int
) -> LinearExchange:
    chosen = candidates(micro_batch=BATCH, **({"cp": CP} | degrees))
    training = TrainingSpec(seq_len=8, global_batch=8, stack=stack)
    times = RoundTimes(node=round_cluster().node)
    return LinearExchange(training, times, chosen, np.array([tokens]), HIDDEN, changes)


def seconds(found: PassSeconds) -> tuple[float, float]:
    return float(found.forward[0]), float(found.backward[0])


# per sequence and head 10 x (10 + 20) numbers in fp32, of four ranks; three tokens of (2 x 40 + 160) channels in bf16 before the rank's own
STATES = CP * BATCH * 8 * 10 * (10 + 20) * 4 * 1e-9
HALO = BATCH * 3 * (2 * 40 + 160) * 2 * 1e-9


def test_states_are_gathered_in_both_passes_whatever_the_length() -> None:
    for tokens in (TOKENS, 4 * TOKENS):
        found = exchange(tokens=tokens).pass_seconds(LINEAR, *NOTHING)
        assert seconds(found) == pytest.approx((STATES + HALO, STATES + HALO))
    assert seconds(exchange(tp=2).pass_seconds(LINEAR, *NOTHING))[0] == pytest.approx((STATES + HALO) / 2)
    assert seconds(exchange(cp=1).pass_seconds(LINEAR, *CORE)) == (0, 0)


def test_what_a_part_of_the_sequence_does_to_the_state_is_computed_besides() -> None:
    """4 x 10 x 20, 2 x 100 and 2 x 1000 / 10 FLOPs of a token, of 2 (10 (30 + 40) + 3 x 200) for the recurrence itself."""
    share = (800 + 200 + 200) / 2600
    found = exchange().pass_seconds(LINEAR, *CORE)
    assert seconds(found) == pytest.approx((STATES + HALO + share * 3, STATES + HALO + share * 7))


def test_hidden_states_change_their_ranks_where_the_kind_of_attention_changes() -> None:
    moved = 0.5 * TOKENS * HIDDEN * 2 * 1e-9
    found = exchange(changes=0.5).pass_seconds(LINEAR, *NOTHING)
    assert seconds(found)[0] == pytest.approx(STATES + HALO + moved)
    config = SMALL_MOE | {"model_type": "qwen3_next", "num_hidden_layers": 8}
    # LLLF LLLF: in, out, in, out, for six linear layers
    assert layout_changes(read(config)) == pytest.approx(4 / 6)
    assert layout_changes(read(config | {"layer_types": ["linear_attention"] * 8})) == 0


def test_a_layer_keeps_the_state_that_it_begins_with() -> None:
    found = exchange()
    assert found.kept_bytes(LINEAR)[0] == BATCH * 8 * 10 * 20 * 4
    assert found.working_bytes(LINEAR)[0] == pytest.approx(2 * STATES * 1e9)
    assert exchange(cp=1).kept_bytes(LINEAR)[0] == exchange(cp=1).working_bytes(LINEAR)[0] == 0


def test_in_pieces_all_ranks_gather_what_each_does_and_the_recurrence_has_more_columns() -> None:
    """Two pieces a rank; beside 10 x 20 numbers of the state 10 x 10, whose columns cost as those of values do."""
    found = exchange(stack="shardwright", changes=0.5).pass_seconds(LINEAR, *NOTHING)
    both = 2 * STATES + 2 * CP * HALO
    assert seconds(found) == pytest.approx((both, both))
    trading = CONTEXT_PARALLEL.index("ulysses")
    assert seconds(exchange(stack="shardwright", context_parallel=trading).pass_seconds(LINEAR, *NOTHING))[
        0
    ] == pytest.approx(both / 2)
    more = 2 * 10 * 20 + 2 * (2 * 10 + 3 * 10) * 10
    share = 8 * more / (8 * 2600 + 2 * 240 * 4)
    core = exchange(stack="shardwright").pass_seconds(LINEAR, *CORE)
    assert seconds(core) == pytest.approx((both + share * 3, both + share * 7))
    kept = exchange(stack="shardwright").kept_bytes(LINEAR)[0]
    assert kept == pytest.approx(2 * STATES * 1e9 + 2 * BATCH * 8 * 10 * 20 * 4 + 2 * TOKENS * 8 * 10)


def test_by_heads_all_projections_and_outputs_travel(monkeypatch: pytest.MonkeyPatch) -> None:
    _trades_heads(monkeypatch)
    both = TOKENS * (LINEAR.input_width + 160) * 2 * 1e-9
    assert LINEAR.input_width == 2 * 40 + 160 + 160 + 2 * 8
    assert seconds(exchange().pass_seconds(LINEAR, *CORE)) == pytest.approx((both, both))
    assert exchange().kept_bytes(LINEAR)[0] == 0


def test_by_heads_cp_divides_what_tp_leaves_of_the_key_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    _trades_heads(monkeypatch)
    config = SMALL_MOE | {"model_type": "qwen3_next", "num_hidden_layers": 4, "linear_num_key_heads": 4}
    job = TrainingSpec(seq_len=64, global_batch=8, stack="megatron-core-0.15")
    check_context_parallel(4, 1, "all-gather", read(config), job, sequence_parallel=False)
    with pytest.raises(SpecError, match="tp 2 and cp 4 together do not divide the 4 key heads"):
        check_context_parallel(4, 2, "all-gather", read(config), job, sequence_parallel=False)


def _trades_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    known = named_stack("megatron-core-0.15")
    runs = known.runs.model_copy(update={"linear_context": "heads"})
    monkeypatch.setattr("shardwright.specs.training.named_stack", lambda name: known.model_copy(update={"runs": runs}))


def test_the_planner_divides_long_sequences_of_linear_attention_where_a_stack_does() -> None:
    config = SMALL_MOE | {"model_type": "qwen3_next", "num_hidden_layers": 4, "hidden_size": 512}
    model, cluster = read(config), load_cluster("h100-sxm:8")

    def largest_cp(name: str) -> int:
        job = TrainingSpec(seq_len=262_144, global_batch=1, stack=name)
        return search(model, cluster, job).plan.mesh.cp

    assert largest_cp("megatron-core-0.15") > 1
    assert largest_cp("shardwright") > 1
    assert largest_cp("megatron-core") == 1
