"""The launches of kernels of a layer's passes, for which the host takes time."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from shardwright.costmodel.layers.frame import WorkFrame
from shardwright.costmodel.layers.frozen import Adapters, BaseWeights, unneeded_kernels
from shardwright.costmodel.layers.operators import Matmul
from shardwright.specs.model import Block, FeedForward

from .averaging import Averaging
from .passes import Passes

# Share of a dense layer's launches that belong to attention, its norm and its residual: 22 of 34 in transformers' Llama.
_ATTENTION_LAUNCHES = 22 / 34


@dataclass(frozen=True)
class Launches:
    """Launches (N,) of a layer with `matmuls`, beside which `adapters` may train."""

    frame: WorkFrame
    block: Block
    matmuls: Sequence[Matmul]
    adapters: Adapters

    @property
    def of_passes(self) -> Passes:
        """Of a forward and a backward. A layer of experts also has those of its router, and some for each expert that the rank holds.

        A graph takes its part off the host: that of attention with its norm and residual, that of the router, or all.
        """
        stack, ffn, frame, graphs = self.frame.stack, self.block.ffn, self.frame, self.frame.training.cuda_graphs
        every = np.ones(len(frame.tokens)) * self._share * frame.training.sequence_chunks
        if graphs == "whole":
            return Passes(0 * every, 0 * every)
        dense = every - _ATTENTION_LAUNCHES * self.block.has_attention * ("attention" in graphs)
        more_forward, more_backward = self._frozen
        hooks = self._hooks
        forward = dense * (stack.kernels_forward + more_forward) + hooks.forward
        backward = dense * np.maximum(0.0, stack.kernels_backward + more_backward) + hooks.backward
        if isinstance(ffn, FeedForward):
            return Passes(forward, backward)
        held = ffn.experts / np.asarray(frame.experts.ep)
        off = "router" in graphs
        router_forward = stack.router_kernels_forward - off * stack.gate_kernels_forward
        router_backward = stack.router_kernels_backward - off * stack.gate_kernels_backward
        averaging = Averaging(frame, self.block).kernels
        return Passes(
            forward + averaging.forward + router_forward + stack.expert_kernels_forward * held,
            backward + averaging.backward + router_backward + stack.expert_kernels_backward * held,
        )

    @property
    def _share(self) -> float:
        """Share of a layer's launches that this one has, where it is attention or a feed-forward alone."""
        block = self.block
        return _ATTENTION_LAUNCHES * block.has_attention + (1 - _ATTENTION_LAUNCHES) * block.has_ffn

    @property
    def _hooks(self) -> Passes:
        """Launches that the hooks of a layer's linears are worth under ZeRO-2 and ZeRO-3; each expert of a loop has its own linears."""
        stack, zero = self.frame.stack, self.frame.candidates.zero_stage
        sizes = [max(1, len(linear.modules)) * (linear.groups if linear.experts else 1) for linear in self.matmuls]
        fetches, reduces = np.where(zero >= 3, sum(sizes), 0.0), np.where(zero == 2, sum(sizes), 0.0)
        return Passes(
            stack.gathered_module_kernels_forward * fetches,
            stack.gathered_module_kernels_backward * fetches + stack.reduced_module_kernels_backward * reduces,
        )

    @property
    def _frozen(self) -> tuple[float, float]:
        """Launches that frozen weights add to a forward and a backward: of adapters and lower formats, less those of gradients."""
        if self.frame.training.trainable.trains_layer_weights:
            return 0.0, 0.0
        added = (self.adapters.kernels, BaseWeights(self.frame.training, self.matmuls).kernels)
        unneeded = unneeded_kernels(self.block, self.frame.stack, self.matmuls)
        return sum(each[0] for each in added), sum(each[1] for each in added) - unneeded
