"""What the parameters of a row take, on the device and on the host."""

from dataclasses import replace

import numpy as np
import pytest

from shardwright.costmodel.layers.all_rows import WorkModel
from shardwright.costmodel.tables.build import build_tables
from shardwright.costmodel.tables.cost_tables import CostTables
from shardwright.specs.plan import POLICIES
from shardwright.specs.training import TrainingSpec
from tests.costmodel.fakes import RoundTimes, round_cluster, small_experts, small_model
from tests.specs.test_candidates import candidates

MODEL = small_model()
LAYER = sum(p.elements for p in MODEL.layer_classes[0].parameters(MODEL.hidden_size))


def tables(**degrees: float) -> CostTables:
    training = TrainingSpec(seq_len=128, global_batch=64)
    degrees.setdefault("offload_optimizer", 0)
    return build_tables(MODEL, training, candidates(**degrees), RoundTimes())


def layer_bytes(**degrees: float) -> dict[str, float]:
    """Bytes per parameter of the layer's row, by part."""
    return {name: value[0, 0] / LAYER for name, value in vars(tables(**degrees).static).items()}


@pytest.mark.parametrize(
    ("degrees", "expected"),
    [
        # fp32 master 4, bf16 copy 2, fp32 gradient 4, two fp32 moments 8
        (dict(microbatches=2), dict(parameters=4, gathered=2, gradients=4, optimizer_state=8, late_gradients=0)),
        # the gradients of one microbatch come as its activations go
        (dict(), dict(parameters=4, gathered=2, gradients=0, optimizer_state=8, late_gradients=4)),
        (dict(dp_shard=8, zero_stage=1, microbatches=2), dict(parameters=0.5, gathered=2, gradients=4, optimizer_state=1)),
        (dict(dp_shard=8, zero_stage=2, microbatches=2), dict(parameters=0.5, gathered=2, gradients=0.5, optimizer_state=1)),
        (dict(dp_shard=8, zero_stage=3), dict(parameters=0.5, gathered=0, gather_window=2, stream_gradients=0.5, reduce_buffer=4 + 2)),
        (dict(dp_shard=8, zero_stage=3, pp=2, microbatches=2), dict(parameters=0.5, gathered=0, gradients=0.5)),
        (dict(offload_optimizer=1), dict(parameters=0, gradients=0, optimizer_state=0, gathered=2, host=4 + 4 + 8)),
        # three eighths on the host: five eighths of master, gradient and moments stay
        (dict(offload_optimizer=0.375), dict(parameters=2.5, late_gradients=2.5, optimizer_state=5, gathered=2, host=6)),
    ],
)  # fmt: skip
def test_bytes_per_parameter(degrees: dict[str, float], expected: dict[str, float]) -> None:
    found = layer_bytes(**degrees)
    assert {name: found[name] for name in expected} == pytest.approx(expected)


@pytest.mark.parametrize(
    ("degrees", "expected"),
    [
        # half of the sum of two microbatches' gradients stays; a layer's fp32 gradients wait for their copy
        (dict(offload_optimizer=1, offload_gradients=0.5, microbatches=2), dict(gradients=2, reduce_buffer=4, host=16)),
        (dict(offload_optimizer=1, offload_gradients=0.5), dict(gradients=0, late_gradients=0, reduce_buffer=0, host=16)),
        # a quarter of the layers comes for each pass, a whole layer at a time; the host keeps its bf16 copy
        (dict(offload_parameters=0.25), dict(gathered=1.5, gather_window=2, host=0.5)),
        (dict(dp_shard=8, zero_stage=3, offload_parameters=0.25), dict(gathered=0, gather_window=2, host=0)),
        # three quarters of the master and the moments of the half on the host are on drives; its gradients are not
        (dict(offload_optimizer=0.5, offload_nvme=0.75), dict(host=0.5 * (0.25 * 12 + 4), nvme=0.5 * 0.75 * 12)),
        # passes read a copy of the half's master
        (dict(offload_optimizer=0.5, delayed_update=1), dict(host=0.5 * (16 + 4), parameters=2)),
    ],
)  # fmt: skip
def test_bytes_per_parameter_off_the_device(degrees: dict[str, float], expected: dict[str, float]) -> None:
    found = layer_bytes(**{"offload_gradients": 0, "offload_parameters": 0, "offload_nvme": 0} | degrees)
    assert {name: found[name] for name in expected} == pytest.approx(expected)


def test_embedding_and_head_are_not_streamed() -> None:
    found = tables(offload_parameters=1)
    np.testing.assert_array_equal(found.static.gathered[0, 1:], tables().static.gathered[0, 1:])


def test_drives_read_and_write_beside_the_update_of_the_host() -> None:
    """Four ranks share 2 GB/s read and 1 GB/s written: 12 bytes of a parameter both ways take 72 ns, its update 40 ns."""
    node = round_cluster().node
    drives = node.host.model_copy(
        update={"nvme_bytes": 1e12, "nvme_read_bytes_per_s": 2e9, "nvme_write_bytes_per_s": 1e9}
    )
    times = RoundTimes(node=node.model_copy(update={"host": drives}))
    training = TrainingSpec(seq_len=128, global_batch=64)
    for share, seconds in ((0, 40e-9), (0.5, 40e-9), (1, 72e-9)):
        chosen = candidates(offload_optimizer=1, offload_nvme=share)
        found = build_tables(MODEL, training, chosen, times).optimizer_seconds[0, 0]
        assert found == pytest.approx(LAYER * seconds), share


@pytest.mark.parametrize("microbatches", [1, 4])
def test_a_delayed_update_of_the_host_runs_beside_the_passes(microbatches: int) -> None:
    """It moves 40 bytes of a parameter and 8 of the copy that passes read, at 1 GB/s. Embedding and head have the layers' share."""
    plain = tables(offload_optimizer=1, microbatches=microbatches)
    found = tables(offload_optimizer=1, microbatches=microbatches, delayed_update=1)
    seconds = 48e-9 * LAYER
    left = seconds - microbatches * (plain.forward.total + plain.backward.total)[0, 0].min()
    assert 0 < left < seconds
    assert found.optimizer_seconds[0, 0] == pytest.approx(left)
    ends = plain.optimizer_seconds[0, 1:] * 48 / 40
    assert found.optimizer_seconds[0, 1:] == pytest.approx(left / seconds * ends)


@pytest.mark.parametrize("tied", [False, True])
def test_zero_3_keeps_the_head_gathered_and_what_is_tied_to_it(tied: bool) -> None:
    training, chosen = TrainingSpec(seq_len=128, global_batch=64), candidates(dp_shard=8, zero_stage=3)
    static = build_tables(small_model(tied=tied), training, chosen, RoundTimes()).static
    layer, embedding = static.gathered[0, 0], static.gathered[0, 1]
    assert layer == 0
    assert bool(embedding > 0) is tied
    assert tied or static.gathered[0, 2] > 0


def test_sends_carry_the_hidden_states_of_a_microbatch() -> None:
    hidden_bytes = 2 * 128 * 2 * MODEL.hidden_size
    assert tables(pp=2, micro_batch=2).send_seconds[0] == pytest.approx(hidden_bytes * 1e-9)
    split = tables(pp=2, micro_batch=2, tp=4, sequence_parallel=1)
    assert split.send_seconds[0] == pytest.approx(hidden_bytes / 4 * 1e-9)
    assert tables(pp=1).send_seconds[0] == 0


def test_a_host_optimizer_updates_at_the_hosts_rate() -> None:
    assert tables(offload_optimizer=1).optimizer_seconds[0, 0] == pytest.approx(LAYER * (28 + 12) * 1e-9)


@pytest.mark.parametrize(("stack", "seconds"), [("shardwright", 0.25 * 40 + 0.75 * 8), ("megatron-core", 0.25 * 40)])
def test_host_and_device_update_their_shares_one_after_the_other_or_at_once(stack: str, seconds: float) -> None:
    """A whole parameter takes the host 40 ns (28 + 12 bytes) and the device here 4 + 4; a quarter is on the host."""

    class Slow(RoundTimes):
        def operator_seconds(self, operator: object, elements: object, moved_bytes: object, **_: object) -> np.ndarray:
            return np.asarray(elements, dtype=float) * 4e-9

    training = TrainingSpec(seq_len=128, global_batch=64, stack=stack)
    found = build_tables(MODEL, training, candidates(offload_optimizer=0.25), Slow()).optimizer_seconds[0, 0]
    # Megatron-Core's update of parameters that it keeps in fp32 moves as much
    assert found == pytest.approx(LAYER * seconds * 1e-9)


@pytest.mark.parametrize("pp", [1, 2])
def test_a_tied_embedding_on_two_stages_sums_its_gradients_once_a_step(pp: int) -> None:
    """64,000 fp32 gradients in one all-reduce, on the first stage and on the last; one stage has nothing to sum."""

    def after_the_last(tied: bool) -> list[float]:
        training, chosen = TrainingSpec(seq_len=128, global_batch=64), candidates(pp=pp, offload_optimizer=0)
        tables = build_tables(small_model(tied=tied), training, chosen, RoundTimes())
        return [float(seconds) for seconds in tables.last_backward.data_parallel[0, :, 0]]

    added = [tied - apart for tied, apart in zip(after_the_last(True), after_the_last(False), strict=True)]
    summed = 4 * 64_000 * 1e-9 if pp > 1 else 0.0
    assert added == pytest.approx([0.0, summed, summed])


@pytest.mark.parametrize("overlaps", [False, True])
def test_candidates_share_rows_only_where_their_work_is_alike(overlaps: bool) -> None:
    """What a dispatch hides behind depends on the pipeline and on the number of microbatches."""
    model = small_experts()
    training = TrainingSpec(seq_len=128, global_batch=64, overlaps_dispatch=overlaps)
    one = candidates(dp_shard=8, ep=8, offload_optimizer=0, expert_dispatch=0)
    pipelines = {"pp": [1, 1, 4, 4, 4], "microbatches": [1, 4, 16, 16, 4], "stages_per_rank": [1, 1, 1, 2, 2]}
    chosen = replace(one[np.zeros(5, dtype=np.int64)], **{name: np.array(of) for name, of in pipelines.items()})
    together = build_tables(model, training, chosen, RoundTimes()).forward.expert_parallel
    alone = WorkModel(model, training, RoundTimes(), chosen).rows()
    for row, work in enumerate(alone):
        assert together[:, row, 0] == pytest.approx(work.expert_parallel_forward_seconds)
    seconds = together[:, 0, 0]
    assert len(set(seconds.tolist())) == (2 if overlaps else 1)
    assert seconds[0] == seconds[2] == seconds[4]  # a single microbatch, one chunk, none left over
    assert (seconds[1] < seconds[0]) == (seconds[3] < seconds[0]) == overlaps


@pytest.mark.parametrize(("microbatches", "copies"), [(1, 0.0), (2, 2 - 1 / 2), (4, 2 - 1 / 4)])
def test_gradients_on_the_host_come_and_go_with_every_microbatch(microbatches: int, copies: float) -> None:
    """Four bytes of a parameter each way, but the first microbatch brings none; beside compute they cost a fifth of their time."""
    training = TrainingSpec(seq_len=4096, global_batch=64)

    def backward(share: float) -> CostTables:
        chosen = candidates(microbatches=microbatches, offload_optimizer=1, offload_gradients=share)
        return build_tables(MODEL, training, chosen, RoundTimes())

    found, plain = backward(0.5), backward(0)
    added = found.backward.host_copy[0, 0, 0] - plain.backward.host_copy[0, 0, 0]
    assert added == pytest.approx(0.2 * copies * 0.5 * 4 * LAYER * 1e-10)
    once = 0.2 * 4 * LAYER * 1e-10  # after the last microbatch all fp32 gradients went, now half of them
    assert plain.last_backward.host_copy[0, 0, 0] == pytest.approx(once)
    assert found.last_backward.host_copy[0, 0, 0] == pytest.approx(once if microbatches == 1 else once / 2)


def test_streamed_weights_come_for_the_forward_and_for_the_backward() -> None:
    """A quarter of two bytes of a parameter, in both passes of every microbatch."""
    training = TrainingSpec(seq_len=4096, global_batch=64)
    found = build_tables(MODEL, training, candidates(offload_parameters=0.25), RoundTimes())
    expected = 0.2 * 0.25 * 2 * LAYER * 1e-10
    assert found.forward.host_copy[0, 0, 0] == pytest.approx(expected)
    assert found.backward.host_copy[0, 0, 0] == pytest.approx(expected)
    assert found.forward.host_copy[0, 1:].max() == 0


def test_a_tiled_feed_forward_keeps_its_input_and_runs_its_forward_again() -> None:
    """Three matmuls of 128 tokens, 64 x 128: 6.3 MFLOPs again in every backward. One of four pieces is alive."""

    def of_pieces(pieces: int) -> CostTables:
        training = TrainingSpec(seq_len=128, global_batch=64, mlp_tiles=pieces, stack="megatron-core")
        return build_tables(MODEL, training, candidates(zero_stage=0), RoundTimes())

    whole, tiled, finer = (of_pieces(pieces) for pieces in (1, 4, 8))
    again = tiled.backward.recompute[0, 0] - whole.backward.recompute[0, 0]
    np.testing.assert_allclose(again, 3 * 2 * 128 * 64 * 128 * 1e-12)
    none, full = POLICIES.index("none"), POLICIES.index("full")
    # the fused gate keeps gate and up in bf16; with its product's gradients three and more columns are alive at once
    columns = 2 * 128 * 128.0
    assert whole.activation_bytes[0, 0, none] - tiled.activation_bytes[0, 0, none] >= 2 * columns
    assert whole.activation_bytes[0, 0, full] == tiled.activation_bytes[0, 0, full]
    assert whole.working_bytes[0, 0, full] - tiled.working_bytes[0, 0, full] > 3 * columns
    assert 0 < tiled.working_bytes[0, 0, none] - finer.working_bytes[0, 0, none] < columns


def test_a_layer_in_pieces_of_the_sequence_keeps_keys_and_values_and_runs_again() -> None:
    """Of 128 tokens of 64: 16 KB of input, and three quarters of 16 KB of keys and values (2 heads of 16 each). All but the last matmul, 128 x 64,
    runs again; under full recompute also three quarters of the linears and 9/16 of the attention core before that."""

    def in_pieces(pieces: int) -> CostTables:
        training = TrainingSpec(seq_len=128, global_batch=64, sequence_chunks=pieces)
        chosen = candidates(zero_stage=0, sequence_parallel=0)
        return build_tables(MODEL, training, chosen, RoundTimes())

    whole, pieces = in_pieces(1), in_pieces(4)
    none, full = POLICIES.index("none"), POLICIES.index("full")
    assert pieces.activation_bytes[0, 0, full] == whole.activation_bytes[0, 0, full] == 2 * 128 * 64
    assert pieces.activation_bytes[0, 0, none] == 2 * 128 * (64 + 0.75 * 2 * 32)
    linears = 2 * 128 * (64 * (64 + 2 * 32 + 64) + 3 * 64 * 128) * 1e-12
    core = whole.forward.compute[0, 0, 0] - linears
    assert core > 0
    again = pieces.backward.recompute[0, 0]
    last = 2 * 128 * 128 * 64 * 1e-12
    assert again[none] == pytest.approx(linears + core - last)
    assert again[full] == pytest.approx(again[none] + 0.75 * linears + 9 / 16 * core)
    stream, seen = 2 * 128 * 64, 2 * 128 * 2 * 32
    inner = whole.working_bytes[0, 0, none] - 2 * stream  # gradients in the feed-forward
    of_one = (whole.activation_bytes[0, 0, none] + inner) / 4
    assert pieces.working_bytes[0, 0, none] == of_one + 2 * stream + 2 * seen
    assert pieces.working_bytes[0, 0, full] == pieces.working_bytes[0, 0, none] + seen


def test_each_backward_adds_its_share_of_the_sums_of_gradients() -> None:
    """Four microbatches: the first gradient is cast to the sum, 2 + 4 bytes, three are added, 2 + 4 + 4. The mean of a microbatch is 9."""
    several, one = (tables(dp_shard=8, zero_stage=1, microbatches=count) for count in (4, 1))
    added = RoundTimes().memory_bound_seconds(np.array(9.0 * LAYER))
    assert several.backward.data_parallel[0, 0, 0] == pytest.approx(float(added))
    assert one.backward.data_parallel[0, 0, 0] == 0
    # a pass for the weights alone has it, too
    weights = several.weight_gradient_seconds - one.weight_gradient_seconds
    assert weights[0, 0] == pytest.approx(float(added))
