"""What a norm of 64 elements keeps of a token, in bf16."""

import pytest

from shardwright.costmodel.layers.saved import LayerCode, norm_bytes
from shardwright.costmodel.layers.saved.norms import norm_weight_bytes
from shardwright.specs.model.norm import Norm

LAYER_NORM = Norm(kind="layernorm", bias=True)


@pytest.mark.parametrize(
    ("norm", "code", "kept"),
    [
        (LAYER_NORM, LayerCode(), 2 * 64 + 4 + 4),  # input, mean, deviation
        (Norm(), LayerCode(), 4 * 64 + 4 + 2 * 64),  # fp32 input, inverse root, what the weight multiplies
        (Norm(), LayerCode(weighs_in_fp32=True), 4 * 64 + 4 + 4 * 64),
        (Norm(weight=False), LayerCode(), 4 * 64 + 4),
    ],
)
def test_kept_bytes(norm: Norm, code: LayerCode, kept: int) -> None:
    assert norm_bytes(norm, code, 2, 64) == kept


def test_statistics_are_those_of_each_row() -> None:
    assert norm_bytes(Norm(), LayerCode(), 2, 64, rows=4) == (4 + 2) * 64 + 4 * 4


def test_one_plus_the_weight_is_a_new_tensor() -> None:
    assert norm_weight_bytes(Norm(), LayerCode(adds_one=True), 2, 64) == 4 * 64
    assert norm_weight_bytes(Norm(), LayerCode(), 2, 64) == 0
    assert norm_weight_bytes(Norm(kind="layernorm", written_out=True), LayerCode(), 2, 64) == 4 * 64
    assert norm_weight_bytes(Norm(kind="layernorm", written_out=True), LayerCode(), 4, 64) == 0
