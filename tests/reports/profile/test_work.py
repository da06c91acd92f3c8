"""Work of measured sizes: against formulas said anew, and against what the cost model counts."""

import pytest

from shardwright.catalog.huggingface.load import load_model
from shardwright.costmodel.layers.core import attention_core_flops
from shardwright.costmodel.layers.traffic import backward_traffic, forward_traffic
from shardwright.costmodel.op_times.curves import attention_flops
from shardwright.costmodel.op_times.passes import operator_passes
from shardwright.reports.profile.work import best_point, family, memory_rate, rate, rate_unit, seconds_per_element, work
from shardwright.specs.profile import Figure, Format, Series
from shardwright.specs.training import TrainingSpec
from tests.reports.made_up_profile import MEMORY_BYTES_PER_S, point, profile

ATTENTION = ("batch", "heads", "kv_heads", "length", "head_size")
GROUP = ("size_bytes", "ranks_per_node", "nodes", "sharing")


def one(
    operation: str, variant: str, axes: tuple[str, ...], at: tuple[float, ...], format: Format | None = None
) -> Series:
    """A series of one point that takes half a second."""
    return Series(operation=operation, variant=variant, format=format, axes=axes, points=(point(at, 0.5),))


def done(series: Series) -> tuple[float, float]:
    found = work(series, series.points[0])
    assert found is not None
    return found.flops, found.moved_bytes


@pytest.mark.parametrize(("format", "element"), [("fp32", 4), ("bf16", 2), ("fp8", 1)])
def test_a_matmul_is_two_flops_a_product_and_three_matrices(format: Format, element: int) -> None:
    series = one("matmul", "forward", ("m", "k", "n"), (3, 5, 7), format)
    assert done(series) == (2 * 3 * 5 * 7, element * (15 + 35 + 21))
    grouped = one("matmul", "grouped_forward", ("m", "k", "n", "groups"), (3, 5, 7, 11), format)
    assert done(grouped) == (11 * 2 * 3 * 5 * 7, 11 * element * (15 + 35 + 21))


class TestAttention:
    def test_flops_are_those_of_the_cost_model(self) -> None:
        """Of a model's layer, and of the curve that is fitted."""
        model = load_model("llama-3.2-1b")
        block = model.blocks[0].block
        heads, kv_heads, head = block.attention.heads, block.attention.kv_heads, block.attention.head_size
        flops, _ = done(one("attention", "forward", ATTENTION, (2, heads, kv_heads, 512, head), "bf16"))
        training = TrainingSpec(seq_len=512, global_batch=2)
        assert flops == pytest.approx(float(attention_core_flops(block, training, 2 * 512, 1, causal=True)))
        assert flops == pytest.approx(float(attention_flops(2 * heads, 512, head)))

    def test_latent_heads_have_values_of_two_thirds(self) -> None:
        """Scores of 192, weighted values of 128; queries, keys, values and results in 16 bits."""
        flops, moved = done(one("attention", "forward-cudnn-mla", ATTENTION, (1, 8, 8, 9, 192), "bf16"))
        assert flops == pytest.approx(2 * 8 * 9 * 5 * (192 + 128))
        assert moved == pytest.approx(2 * 9 * 8 * 2 * (192 + 128))

    def test_backward_computes_five_matmuls_for_two(self) -> None:
        at = (2, 8, 2, 64, 16)
        forward, moved = done(one("attention", "forward", ATTENTION, at, "bf16"))
        assert done(one("attention", "backward", ATTENTION, at, "bf16")) == (2.5 * forward, 2 * moved)
        assert moved == 2 * 2 * 64 * 16 * (8 + 8 + 2 + 2)

    def test_without_the_mask_every_key_counts(self) -> None:
        flops, _ = done(one("attention", "forward-noncausal", ATTENTION, (1, 1, 1, 10, 4), "fp32"))
        assert flops == 2 * 2 * 10 * 10 * 4
        causal, _ = done(one("attention", "forward-math", ATTENTION, (1, 1, 1, 10, 4), "fp32"))
        assert causal == 2 * 2 * 55 * 4


class TestCasts:
    """Of 6 x 32 numbers in 16 bits."""

    @pytest.mark.parametrize(
        ("variant", "each"),
        [("fp8", 5), ("fp8-compiled", 5), ("fp8-rowwise", 3), ("mxfp8", 3 + 1 / 32), ("nvfp4-compiled", 4.5 + 1 / 16)],
    )
    def test_a_scale_of_the_tensor_reads_it_twice(self, variant: str, each: float) -> None:
        series = one("cast", variant, ("rows", "width"), (6, 32), "bf16")
        assert done(series)[1] == pytest.approx(each * 192)
        assert rate(series, series.points[0]) == pytest.approx(each * 192 / 0.5)
        assert seconds_per_element(series, series.points[0]) == 0.5 / 192
        assert (family("cast"), rate_unit("cast")) == ("casts", "B/s")

    def test_other_operations_are_not_counted_by_element(self) -> None:
        series = one("copy", "forward", ("rows", "width"), (6, 32), "bf16")
        assert seconds_per_element(series, series.points[0]) is None


class TestOperators:
    @pytest.mark.parametrize("stack", ["shardwright", "megatron-core"])
    @pytest.mark.parametrize("name", ["llama-3.2-1b", "gpt2-124m"])
    def test_passes_are_those_of_the_cost_model(self, stack: str, name: str) -> None:
        model = load_model(name)
        block, training = model.blocks[0].block, TrainingSpec(seq_len=512, global_batch=2, stack=stack)
        for moving in (*forward_traffic(block, model, training), *backward_traffic(block, model, training)):
            variant = "backward" if moving.backward else "forward"
            formats: tuple[tuple[Format, int], ...] = (("bf16", 2), ("fp32", 4))
            for format, element in formats:
                _, moved = done(one(moving.operator, variant, ("rows", "width"), (6, 4), format))
                passes = operator_passes(moving.operator, element, backward=moving.backward)
                assert moved == pytest.approx(element * 24 * passes), moving.operator

    def test_an_embedding_reads_what_it_gives_and_its_gradient_the_table_and_the_tokens(self) -> None:
        assert done(one("embedding", "forward", ("rows", "width"), (10, 8), "fp32")) == (0, 4 * 2 * 80)
        backward = one("embedding", "backward", ("rows", "width", "tokens"), (100, 8, 10), "fp32")
        assert done(backward) == (0, 4 * (3 * 800 + 80))

    def test_an_update_moves_seven_elements_a_parameter(self) -> None:
        axes = ("elements", "tensors")
        assert done(one("adamw", "fused", axes, (1000, 3), "fp32")) == (0, 28_000)
        assert done(one("adamw", "foreach", axes, (1000, 3), "bf16")) == (0, 14_000)
        assert done(one("clip", "", axes, (1000, 3), "fp32")) == (0, 12_000)
        assert done(one("host_adamw", "fused", ("elements", "threads"), (1000, 2), "fp32")) == (0, 28_000)


class TestTransfers:
    @pytest.mark.parametrize(
        ("name", "share"),
        [
            ("all_reduce", 1.5),
            ("all_gather", 0.75),
            ("reduce_scatter", 0.75),
            ("all_to_all", 0.75),
            ("broadcast", 1.0),
            ("send", 1.0),
        ],
    )
    def test_the_busiest_link_of_four_ranks(self, name: str, share: float) -> None:
        assert done(one(name, "", GROUP, (1000, 2, 2, 1))) == (0, 1000 * share)

    def test_both_ways_at_once_move_twice_as_much(self) -> None:
        assert done(one("host_copy", "to_device-pinned", ("size_bytes",), (1000,))) == (0, 1000)
        assert done(one("host_copy", "to_device-pinned-together", ("size_bytes",), (1000,))) == (0, 2000)

    def test_a_rate_is_over_the_median_seconds(self) -> None:
        series = one("disk_read", "direct", ("size_bytes",), (1000,))
        assert rate(series, series.points[0]) == 2000


def test_units_and_families() -> None:
    assert (rate_unit("matmul"), rate_unit("attention"), rate_unit("dropout")) == ("FLOP/s", "FLOP/s", "B/s")
    families = {series.operation: family(series.operation) for series in profile().series}
    assert families["cross_entropy"] == families["addition"] == "operators"
    assert families["disk_write"] == "disk"
    assert family("teleport") == "other"


def test_what_is_not_known_has_no_rate() -> None:
    for series in (
        one("teleport", "", ("size_bytes",), (8,)),
        one("matmul", "forward", ("rows", "width"), (8, 8), "fp32"),
    ):
        assert rate(series, series.points[0]) is None
        assert best_point(series) is None


def test_the_memory_rate_is_that_of_large_tensors() -> None:
    """A small tensor comes from a cache, however fast."""
    cached = one("copy", "forward", ("rows", "width"), (1, 64), "fp32")
    fast = cached.model_copy(update={"points": (point((1, 64), 1e-12),)})
    found = memory_rate(profile(series=(*profile().series, fast)))
    assert found == pytest.approx(MEMORY_BYTES_PER_S, rel=0.01)


def test_a_measured_memory_rate_comes_first() -> None:
    figures = {"memory_bytes_per_s": Figure(value=7e9, unit="B/s", meaning="a large copy")}
    assert memory_rate(profile(figures=figures)) == 7e9


def test_a_profile_without_operators_has_no_memory_rate() -> None:
    assert memory_rate(profile(series=())) is None
