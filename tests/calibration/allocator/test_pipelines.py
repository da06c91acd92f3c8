"""torch's allocator under a pipeline of torch's: what a layer allocates by hand, and what summed gradients do to it."""

import pytest

from shardwright.calibration.allocator.pipelines import LAYERS, Layer, Pipeline, Rank, slack, working_bytes

GIB = 2**30
SMALL = Layer(hidden=4096, inner=8192, tp=2, tokens=8192)


def test_a_layer_that_ran_forward_leaves_its_output_alone() -> None:
    """8192 tokens of 4096 columns in two bytes are 64 MiB, and half of that on each of two ranks."""
    rank = Rank(SMALL)
    out, inside = rank.forward(keeps=False)
    assert inside == []
    assert rank.memory.allocated == 32 * 2**20
    rank.free(out)
    assert rank.memory.allocated == 0


def test_only_summed_gradients_stay_behind_a_backward_pass() -> None:
    rank = Rank(SMALL)
    for _ in range(2):
        rank.free(rank.backward((0, 0), []))
        assert rank.memory.allocated == 4 * sum(SMALL.weights)
    assert working_bytes(SMALL) > 3 * SMALL.whole + 3 * SMALL.columns


@pytest.mark.parametrize("recomputes", [True, False])
def test_a_step_gives_back_all_but_shards_states_and_buffers(recomputes: bool) -> None:
    pipeline = Pipeline("1f1b", 2, 1, 4, layers=2)
    memory = pipeline.run(Rank(SMALL, recomputes=recomputes))
    large = sum(weight for weight in SMALL.weights if 4 * weight / 8 > 2**20)  # smaller blocks have a pool of their own
    assert memory.allocated == 3 * 4 * large * 2 / 8 + 2 * 4 * SMALL.part


def test_without_gradients_less_is_held_without_use() -> None:
    pipeline, layer = Pipeline("1f1b", 4, 1, 4), LAYERS["405B"]
    share = slack(pipeline, layer, recomputes=True)
    assert share == pytest.approx(0.493, abs=0.01)
    activations = pipeline.run(Rank(layer, counts_parameters=False))
    assert activations.reserved - activations.most < 0.7 * share * working_bytes(layer)
    assert activations.most < 24 * GIB
