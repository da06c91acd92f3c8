"""The weight matrices of a layer, whole as transformers has them, by the matmuls that read them."""

from functools import lru_cache
from typing import NamedTuple

from shardwright.costmodel.layers.operators import attention_matmuls, ffn_matmuls
from shardwright.specs.model import Block, MixtureOfExperts


class Matrix(NamedTuple):
    """A weight of (rows, columns); `split`: tp splits it, else each rank of tp holds it whole."""

    rows: int
    columns: int
    split: bool = True

    @property
    def elements(self) -> int:
        return self.rows * self.columns

    @property
    def short(self) -> int:
        return min(self.rows, self.columns)

    @property
    def long(self) -> int:
        return max(self.rows, self.columns)


@lru_cache(maxsize=64)
def layer_matrices(block: Block, hidden: int) -> tuple[Matrix, ...]:
    """Return the matrices of a layer: queries, keys and values apart, gate and up projection apart. Those of experts are none."""
    if block.shortcut:
        return tuple(matrix for half in block.halves for matrix in layer_matrices(half, hidden))
    of_experts = isinstance(block.ffn, MixtureOfExperts)
    feed_forward = [] if of_experts else ffn_matmuls(block, hidden, 1, 1, joined=False)
    found = [*attention_matmuls(block, hidden, 1, 1, joined=False), *feed_forward]
    return tuple(
        Matrix(int(each.n), int(each.k), each.split is not None or "_b_proj" in "".join(each.modules)) for each in found
    )
