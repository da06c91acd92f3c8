"""What the exchange of tokens with the experts of other ranks adds to the passes of a layer, and what hides it.

Three ways, of which a training has one at most:

- Beside another microbatch (`TrainingSpec.overlaps_dispatch`): the exchanges of a forward and a backward run beside the compute of both, but for
  microbatches that find no other: as many as pipeline ranks, at the ends of the step. A rank of a pipeline needs several chunks for that
  (Megatron-Core, combined_1f1b.py).
- Beside the dense branch of its own layer, where a shortcut leads around the experts: no other microbatch is needed (LongCat-Flash, arXiv
  2509.01322, section 2.2).
- In r pieces beside the layer's own experts (`TrainingSpec.dispatch_pieces`; Pan et al. 2025, FSMoE, arXiv 2501.10714; Tutel, arXiv 2206.03382, section
  4.2): while experts compute one piece, others travel. The first piece's way there and the last one's way back stay exposed, 1/r of the
  exchange. Each piece has its own latency, and experts multiply smaller matrices.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from shardwright.base import Array
from shardwright.costmodel.layers.exchanges import ExpertExchange
from shardwright.costmodel.layers.frame import WorkFrame
from shardwright.costmodel.layers.operators import Matmul
from shardwright.costmodel.layers.weight_matmuls import WeightMatmuls
from shardwright.costmodel.op_times import exposed_beside
from shardwright.specs.model import Block

from .passes import Passes


@dataclass(frozen=True)
class Dispatch:
    """The exchange of one layer. `compute`: seconds of its passes. `experts`: the matmuls of routed experts, and `linear` their seconds.
    `beside`: seconds of compute that needs no result of them."""

    frame: WorkFrame
    block: Block
    compute: Passes
    experts: Sequence[Matmul]
    linear: WeightMatmuls
    beside: Passes | None = None

    @cached_property
    def balance(self) -> Array:
        """(N,): seconds of a loss on routers over all data-parallel ranks, in one forward."""
        return self._exchange(1).balance_seconds(self.block.ffn)

    @cached_property
    def exposed(self) -> Passes:
        """Seconds that the exchange adds to a forward and to a backward."""
        chosen, training = self.frame.candidates, self.frame.training
        if training.dispatch_pieces > 1:
            return self._in_pieces
        if not training.overlaps_dispatch:
            return Passes(self._alone, self._alone)
        if self.beside is not None:
            return Passes(*(self._left_beside(compute, self._alone) for compute in self.beside))
        both = self._left_beside(self.compute.forward + self.compute.backward, 2 * self._alone) / 2
        can = (chosen.pp == 1) | (chosen.stages_per_rank > 1)
        paired = np.where(can, np.maximum(0.0, 1 - chosen.pp / chosen.microbatches), 0.0)
        exposed = np.asarray(paired * both + (1 - paired) * self._alone)
        return Passes(exposed, exposed)

    @property
    def again(self) -> Array:
        """(N,): the same of a backward whose layer repeats its exchange. Beside another microbatch none of the three is overlapped
        (Megatron-Core refuses the two together)."""
        exposed, paired = self.exposed, self.frame.training.overlaps_dispatch and self.beside is None
        return 3 * self._alone - exposed.forward if paired else exposed.forward + exposed.backward

    @cached_property
    def _alone(self) -> Array:
        """(N,): seconds of one pass in which tokens go to the ranks of their experts and back."""
        return self._exchange(1).pass_seconds(self.block.ffn)

    @property
    def _in_pieces(self) -> Passes:
        pieces = self.frame.training.dispatch_pieces
        traded = pieces * self._exchange(pieces).pass_seconds(self.block.ffn)
        smaller = [replace(matmul, m=np.asarray(matmul.m, dtype=float) / pieces) for matmul in self.experts]

        def exposed(whole: Array, piece: Array) -> Array:
            middle = (1 - 1 / pieces) * traded
            left = traded / pieces + self._left_beside((pieces - 1) * piece, middle) + pieces * piece - whole
            return np.where(traded > 0, left, 0.0)

        return Passes(
            exposed(self.linear.forward_seconds([*self.experts]), self.linear.forward_seconds(smaller)),
            exposed(self.linear.backward_seconds([*self.experts]), self.linear.backward_seconds(smaller)),
        )

    def _left_beside(self, compute: Array, network: Array) -> Array:
        job, taken = (
            (self.frame.times.node.device, self.frame.times.constants),
            self.frame.training.dispatch_multiprocessors,
        )
        return exposed_beside(*job, compute, network, multiprocessors=taken).network

    def _exchange(self, pieces: int) -> ExpertExchange:
        frame = self.frame
        job = (frame.training, frame.times, frame.candidates, frame.tokens / pieces)
        return ExpertExchange(*job, frame.model.hidden_size)
