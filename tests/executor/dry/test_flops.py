"""FLOPs of single operators, by hand and by brute force."""

import torch

from shardwright.executor.dry.flops import operator_flops, seen_pairs

_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default


def test_pairs_are_those_of_a_lower_right_triangle() -> None:
    for queries, keys in ((1, 1), (4, 4), (3, 8), (8, 8)):
        mask = torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries)
        assert seen_pairs(queries, keys) == int(mask.sum())


def test_attention_counts_the_keys_that_are_seen() -> None:
    query, key = torch.zeros(2, 4, 3, 8), torch.zeros(2, 2, 6, 8)
    given = (query, key, key, 0.0, True)
    assert operator_flops(_ATTENTION, given, {}, None) == 2 * 2 * 4 * seen_pairs(3, 6) * (8 + 8)
    assert operator_flops(_ATTENTION, (*given[:4], False), {}, None) == 2 * 2 * 4 * 3 * 6 * (8 + 8)


def test_a_backward_has_five_matmuls_for_two() -> None:
    tensor = torch.zeros(2, 4, 6, 8)
    backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default
    forward_flops = operator_flops(_ATTENTION, (tensor, tensor, tensor, 0.0, True), {}, None)
    given = (tensor, tensor, tensor, tensor, tensor, tensor, 0.0, True)
    assert operator_flops(backward, given, {}, None) == 2.5 * forward_flops


def test_matmuls_count_as_in_torch_and_groups_by_their_rows() -> None:
    left, right = torch.zeros(3, 5), torch.zeros(5, 7)
    assert operator_flops(torch.ops.aten.mm.default, (left, right), {}, left @ right) == 2 * 3 * 5 * 7
    experts = torch.zeros(4, 5, 7)
    assert operator_flops(torch.ops.aten._grouped_mm.default, (left, experts), {}, None) == 2 * 3 * 5 * 7
    assert operator_flops(torch.ops.aten.add.Tensor, (left, left), {}, left) == 0
