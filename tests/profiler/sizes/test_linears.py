import pytest

from shardwright.profiler.sizes.linears import Linear, family_experts, family_linears, model_linears
from shardwright.specs.training import TrainingSpec
from tests.costmodel.fakes import small_model

_TRAINING = TrainingSpec(seq_len=128, global_batch=8)


def test_a_pass_has_its_result_first_and_the_inner_size_between() -> None:
    linear = Linear(tokens=2, inputs=3, outputs=5)
    assert linear.sizes("forward") == (2.0, 3.0, 5.0)
    assert linear.sizes("input_gradient") == (2.0, 5.0, 3.0)
    assert linear.sizes("weight_gradient") == (3.0, 2.0, 5.0)
    assert Linear(2, 3, 5, groups=7).flops == 2 * 2 * 3 * 5 * 7


def test_a_models_linears_are_its_projections_feed_forward_and_head() -> None:
    found = model_linears(small_model(hidden=64), _TRAINING, micro_batches=(2,))
    assert set(found) == {
        Linear(256, 64, 1000),  # head
        Linear(256, 64, 64),  # queries of 4 heads of 16, and the output
        Linear(256, 64, 32),  # keys and values of 2 heads
        Linear(256, 64, 128),  # gate and up
        Linear(256, 128, 64),
    }


def test_software_that_joins_projections_runs_wider_ones() -> None:
    joined = _TRAINING.model_copy(update={"stack": "megatron-core"})
    assert {Linear(128, 64, 64 + 2 * 32), Linear(128, 64, 2 * 128)} <= set(
        model_linears(small_model(hidden=64), joined)
    )


def test_tensor_parallelism_divides_columns_and_rows_and_what_does_not_divide_is_left_out() -> None:
    found = model_linears(small_model(hidden=64), _TRAINING, tp=(16,))
    assert {(linear.inputs, linear.outputs) for linear in found} == {(64, 4), (64, 2), (4, 64), (64, 8), (8, 64)}


@pytest.mark.parametrize("device_type", ["cpu", "cuda"])
def test_families_span_squares_ups_downs_and_heads(device_type: str) -> None:
    family = family_linears(device_type)
    ratios = {linear.outputs / linear.inputs for linear in family}
    assert {1.0, 4.0, 0.25} <= ratios
    assert max(ratios) >= 8.0
    for linear in [*family, *family_experts(device_type)]:
        assert linear.tokens % 16 == linear.inputs % 16 == linear.outputs % 16 == 0
        assert device_type == "cuda" or linear.flops <= 6e9


@pytest.mark.parametrize("device_type", ["cpu", "cuda"])
def test_experts_are_from_one_to_many_with_few_tokens_to_many(device_type: str) -> None:
    family = family_experts(device_type)
    assert {linear.groups for linear in family} == {1, 4, 8, 64}
    assert {linear.tokens for linear in family} == {16, 64, 256, 1024, 8192}
