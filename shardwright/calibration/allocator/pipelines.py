"""`python -m shardwright.calibration.allocator.pipelines`: what torch's caching allocator holds without use in torch's own pipeline with FSDP2.

Activations of several sizes come and go, and between them the first backward pass of a stage leaves its summed gradients in fp32
(torch/distributed/fsdp/_fully_shard/_fsdp_param.py, to_accumulated_grad_if_needed), which stay to the end of the step in pieces of
larger blocks. The reductions after the last backward pass take a block as large as a layer's gradients, twice, and states of the
optimizer come after the first step. Gathers have a stream of their own, whose two buffers no other tensor reuses.

This simulates the allocator under the tensors of a compiled Llama layer with sequence parallelism. It prints bytes reserved, less the most
bytes allocated, as a share of what a layer's backward pass works in where the layer runs again, and of two copies of its gradients. A share of
all activations would vary thirtyfold with recompute; this one hardly does.
"""

import argparse
from dataclasses import dataclass, field
from statistics import mean
from typing import Literal, NamedTuple

from rich.console import Console
from rich.table import Table

from shardwright.base import units as readable
from shardwright.costmodel.pipeline import ActionKind, make_schedule

from .caching import Allocator, Block

_STEPS = 3


class Layer(NamedTuple):
    """A layer of `hidden` and `inner` columns over `tp` ranks, with as many `tokens` in a microbatch; activations in 16 bits."""

    hidden: int
    inner: int
    tp: int
    tokens: int

    @property
    def whole(self) -> float:
        """Bytes of the hidden states of all tokens."""
        return 2.0 * self.tokens * self.hidden

    @property
    def part(self) -> float:
        """Bytes of the hidden states of a rank's tokens, and of a rank's heads."""
        return self.whole / self.tp

    @property
    def columns(self) -> float:
        """Bytes of a rank's columns of the feed-forward."""
        return 2.0 * self.tokens * self.inner / self.tp

    @property
    def weights(self) -> tuple[float, ...]:
        """Elements of each matrix on a rank: queries and output, keys and values (an eighth of the heads), and the feed-forward."""
        square, wide = self.hidden**2 / self.tp, self.hidden * self.inner / self.tp
        return (square, square, square / 8, square / 8, wide, wide, wide)


@dataclass
class Rank:
    """What one rank of a pipeline allocates in a step.

    `counts_parameters`: parameters, gradients and states are allocated too; otherwise activations and messages alone.
    """

    layer: Layer
    memory: Allocator = field(default_factory=Allocator)
    recomputes: bool = True
    counts_parameters: bool = True
    sums: dict[tuple[int, int], list[Block | None]] = field(default_factory=dict)

    def take(self, *sizes: float) -> list[Block | None]:
        return [self.memory.allocate(size) for size in sizes]

    def lasting(self, *sizes: float) -> list[Block | None]:
        """Blocks of parameters, gradients or states."""
        return self.take(*sizes) if self.counts_parameters else []

    def free(self, blocks: list[Block | None]) -> None:
        for block in blocks:
            self.memory.free(block)

    def forward(self, *, keeps: bool) -> tuple[list[Block | None], list[Block | None]]:
        """Run a layer; return its output, and the tensors inside it that its backward pass reads, where it `keeps` them."""
        layer, memory = self.layer, self.memory
        inside = self.take(
            layer.whole, *4 * (layer.part,)
        )  # the gathered norm; queries, keys, values and what attention gives
        if not keeps:
            self.free(inside)
        with memory.held(layer.whole):
            stream = self.take(layer.part)
        more = self.take(layer.whole, *3 * (layer.columns,))  # the gathered norm; gate, up and their product
        if not keeps:
            self.free(more)
        with memory.held(layer.whole):
            out = self.take(layer.part)
        if keeps:
            return out, [*inside, *stream, *more]
        self.free(stream)
        return out, []

    def backward(self, place: tuple[int, int], inside: list[Block | None]) -> list[Block | None]:
        """Run a layer back from the tensors `inside` it, which are freed; return the gradient of its input."""
        layer, memory = self.layer, self.memory
        if not inside:
            out, inside = self.forward(keeps=True)
            self.free(out)
        gradients: list[Block | None] = []
        with memory.held(layer.whole, layer.columns):  # the gathered gradient, and that of the product
            gradients += self.take(*(2 * weight for weight in layer.weights[4:]))
            columns = self.take(layer.columns, layer.columns)
        with memory.held(layer.whole, layer.whole):  # gradients that gate and up give of their input
            self.free(columns)
            between = self.take(layer.part)
        self.free(inside[6:])
        with memory.held(layer.whole, layer.part):
            gradients += self.take(*(2 * weight for weight in layer.weights[:4]))
            with memory.held(2 * layer.part):  # attention sums the gradient of queries in fp32
                heads = self.take(*3 * (layer.part,))
        with memory.held(*3 * (layer.whole,)):  # what queries, keys and values give
            self.free(heads)
            given = self.take(layer.part)
        self.free([*inside[:6], *between])
        if place not in self.sums:
            self.sums[place] = self.lasting(*(4 * weight for weight in layer.weights))
        self.free(gradients)
        return given


@dataclass(frozen=True)
class Pipeline:
    """The shape of a pipeline: `layers` on each rank, in `stages_per_rank` stages, over `shards` data-parallel ranks."""

    schedule: Literal["1f1b", "interleaved-1f1b"]
    pp: int
    stages_per_rank: int
    microbatches: int
    layers: int = 16
    shards: int = 8

    def run(self, rank: Rank) -> Allocator:
        """Run some steps on the pipeline's first rank."""
        layer, places = rank.layer, self.layers
        shard = [4 * weight / self.shards for weight in layer.weights] * places
        rank.lasting(*shard)
        rank.take(*self.stages_per_rank * 2 * self.microbatches * (layer.part,))  # buffers for what is received
        for step in range(_STEPS):
            gathered = rank.lasting(*[2 * weight for weight in layer.weights] * places)
            rank.free(self._passes(rank))
            rank.free(gathered)
            if step == 0:
                rank.lasting(*2 * shard)
            rank.free(rank.lasting(*shard))  # what foreach kernels allocate
        return rank.memory

    def _passes(self, rank: Rank) -> list[Block | None]:
        """Run the passes of a step; return what stages gave, which stays until its end."""
        each = self.layers // self.stages_per_rank
        kept: dict[tuple[int, int], list[list[Block | None]]] = {}
        gave: list[Block | None] = []
        finished = [0] * self.stages_per_rank
        schedule = make_schedule(self.schedule, self.pp, self.stages_per_rank, self.microbatches)
        for action in (action for work in schedule.orders[0] for action in work.passes):
            chunk, key = action.stage // self.pp, (action.stage, action.microbatch)
            if action.kind is ActionKind.FORWARD:
                found = [rank.forward(keeps=not rank.recomputes) for _ in range(each)]
                gave += found[-1][0]
                inputs: list[list[Block | None]] = [[], *(out for out, _ in found[:-1])]
                kept[key] = [part for pair in zip(inputs, (held for _, held in found), strict=True) for part in pair]
                continue
            given: list[Block | None] = []
            parts = kept.pop(key)
            for index in reversed(range(each)):
                before, given = given, rank.backward((chunk, index), parts[2 * index + 1])
                rank.free([*before, *parts[2 * index]])
            gave += given
            finished[chunk] += 1
            if finished[chunk] == self.microbatches:
                self._reduce(rank, chunk, each)
        return gave

    def _reduce(self, rank: Rank, chunk: int, each: int) -> None:
        """Copy the gradients of one layer after the other for their reduction; the copy before is there meanwhile."""
        before: list[Block | None] = []
        for index in reversed(range(each)):
            copy = rank.lasting(4 * sum(rank.layer.weights))
            rank.free(rank.sums.pop((chunk, index)))
            rank.free(before)
            before = copy
        rank.free(before)


LAYERS = {
    "8B": Layer(4096, 14336, 1, 8192),
    "70B": Layer(8192, 28672, 8, 16384),
    "405B": Layer(16384, 53248, 8, 32768),
}
_SCHEDULES: tuple[tuple[Literal["1f1b", "interleaved-1f1b"], int], ...] = (("1f1b", 1), ("interleaved-1f1b", 2))
PIPELINES = {
    f"{schedule}, {microbatches} microbatches on 4 ranks": Pipeline(schedule, 4, stages, microbatches)
    for schedule, stages in _SCHEDULES
    for microbatches in (4, 16)
}


def working_bytes(layer: Layer) -> float:
    """The most bytes that a layer's backward pass allocates where it runs again, without sums of its gradients."""
    rank = Rank(layer, counts_parameters=False)
    rank.backward((0, 0), [])
    return rank.memory.most


def slack(pipeline: Pipeline, layer: Layer, *, recomputes: bool) -> float:
    """Bytes reserved beyond the most allocated, over those that a layer works in and two copies of its gradients in fp32."""
    memory = pipeline.run(Rank(layer, recomputes=recomputes))
    parameters = sum(layer.weights)
    buffers = 2 * 2 * parameters
    return (memory.reserved - memory.most + buffers) / (working_bytes(layer) + 2 * 4 * parameters)


def main(arguments: list[str] | None = None) -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args(arguments)
    table = Table(
        "pipeline",
        title="Held without use, of what a layer works in and two copies of its gradients",
        title_justify="left",
    )
    columns = [(name, again) for again in (True, False) for name in LAYERS]
    for name, again in columns:
        table.add_column(f"{name}, {'full' if again else 'no'} recompute", justify="right")
    every: list[float] = []
    for name, pipeline in PIPELINES.items():
        found = [slack(pipeline, LAYERS[size], recomputes=again) for size, again in columns]
        every += found
        table.add_row(name, *map(readable.share, found))
    console = Console(width=150)
    console.print(table)
    console.print(f"least {min(every):.0%}, mean {mean(every):.0%}, most {max(every):.0%}")


if __name__ == "__main__":
    main()
