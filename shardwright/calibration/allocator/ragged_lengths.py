"""`python -m shardwright.calibration.allocator.ragged_lengths`: what torch's caching allocator reserves when every sequence has another length.

A fine-tune that neither packs nor pads to one length asks for blocks of other sizes in each step. A free block serves a request
that is no larger, so that a longer sequence than all before finds none, and takes new memory beside the old blocks. This
simulates the allocator under the tensors of a layer and a loss of transformers' Llama with full recompute.

It prints bytes reserved over the most bytes allocated, less the same ratio of equal lengths, as a share.
"""

import argparse
import math
import random
from collections.abc import Callable, Sequence
from statistics import mean
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from shardwright.base import units as readable

from .caching import Allocator

_STEPS, _SEEDS = 200, 5


class Shape(NamedTuple):
    """Sizes of a model; 16 bits."""

    hidden: int
    inner: int
    vocabulary: int
    layers: int


_SHAPES = (Shape(4096, 11008, 32000, 16), Shape(4096, 11008, 151936, 16))


def run_step(memory: Allocator, shape: Shape, tokens: int) -> None:
    """Allocate and free what a step of one sequence does: inputs of layers, each layer's tensors, the loss, and the layers backwards."""
    hidden, inner, logits = 2 * tokens * shape.hidden, 2 * tokens * shape.inner, 2 * tokens * shape.vocabulary
    # norm in fp32 and 16 bits, queries, keys, values, output; norm again; gate, its activation, up and their product
    layer = (*(2 * hidden, hidden, hidden, hidden, hidden, hidden, 2 * hidden, hidden), *4 * (inner,))
    kept = [memory.allocate(hidden)]
    for _ in range(shape.layers):
        with memory.held(*layer):
            kept.append(memory.allocate(hidden))
    softmax = [memory.allocate(size) for size in (logits, 2 * logits, 2 * logits)]
    for block in softmax[:2]:
        memory.free(block)
    with memory.held(2 * logits, 2 * logits):
        memory.free(softmax[2])
    with memory.held(logits):
        gradient = memory.allocate(hidden)
    for block in reversed(kept):
        with memory.held(*layer, inner, inner, hidden):
            after = memory.allocate(hidden)
        memory.free(block)
        memory.free(gradient)
        gradient = after
    memory.free(gradient)


def _reserved(shape: Shape, lengths: Sequence[int]) -> float:
    """Bytes reserved after steps of such lengths, over the most allocated."""
    memory = Allocator()
    for tokens in lengths:
        run_step(memory, shape, tokens)
    return memory.reserved / memory.most


def slack(shape: Shape, draw: Callable[[random.Random], int], seed: int, steps: int = _STEPS) -> float:
    """Bytes reserved beyond those of equal lengths, over the most allocated, when `draw` gives the length of each step."""
    source = random.Random(seed)
    lengths = [draw(source) for _ in range(steps)]
    return _reserved(shape, lengths) - _reserved(shape, [max(lengths)] * 2)


def _up_to(limit: int, median: float) -> Callable[[random.Random], int]:
    """Log-normal lengths, cut off at `limit`, as those of instructions with answers."""
    return lambda source: min(limit, 16 + int(source.lognormvariate(math.log(median), 0.8)))


LENGTHS: dict[str, Callable[[random.Random], int]] = {
    "uniform from 64 to 2048": lambda source: source.randint(64, 2048),
    "log-normal, median 250, at most 2048": _up_to(2048, 250),
    "log-normal, median 650, at most 2048": _up_to(2048, 650),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Simulate and print."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args(
        arguments
    )
    table = Table(
        "lengths", "vocabulary", title="Reserved beyond equal lengths, of the most allocated", title_justify="left"
    )
    for column in ("least", "mean", "most"):
        table.add_column(column, justify="right")
    every: list[float] = []
    for name, draw in LENGTHS.items():
        for shape in _SHAPES:
            found = [slack(shape, draw, seed) for seed in range(_SEEDS)]
            every += found
            table.add_row(name, str(shape.vocabulary), *map(readable.share, (min(found), mean(found), max(found))))
    table.add_section()
    table.add_row("all", "", *map(readable.share, (min(every), mean(every), max(every))))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
