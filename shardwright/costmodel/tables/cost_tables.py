"""Cost tables: the costs of each kind of layer, the embedding and the head, for every candidate and strategy of a layer.

Arrays have the axes (candidate N, row R, strategy P: what is recomputed, and how much of the activations goes to the host). Rows are the model's layer classes, then the embedding,
then the head (final norm, LM head and loss). The cost of a stage is the sum over its rows, so these tables serve one
plan and the whole search alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from shardwright.base import Array


@dataclass(frozen=True)
class Seconds:
    """Seconds by cause, each (N, R, P). Communication and copies count only where compute does not hide them.

    `straggler`: waiting for the slowest rank.
    """

    compute: Array
    recompute: Array
    tensor_parallel: Array
    context_parallel: Array
    expert_parallel: Array
    data_parallel: Array
    host_copy: Array
    straggler: Array

    @property
    def total(self) -> Array:
        return sum(vars(self).values(), np.zeros(1))


@dataclass(frozen=True)
class StaticBytes:
    """Bytes per row (N, R) that are held over a step. All but `host` and `nvme` are on the device.

    `gathered`: compute-format copies kept from forward to backward. `gather_window`: such a copy where it is freed
    after each use; a rank holds two at once. `reduce_buffer`: the input of one row's gradient reduction; one at a time.
    `fragments`: what torch's allocator holds without use in torch's pipelines; the largest row's counts.
    `step`: temporaries of the optimizer step, when no activation is alive; `step_window`: of which only the largest row's count. `late_gradients`: gradients of a step with one
    microbatch, which come as its activations go, so that they meet the temporaries and not the loss.
    `stream_gradients`: such gradients from the stream of their reduction. The allocator keeps their room apart for it
    when they are gone. `flat`: flat buffers of reduction and step.
    They are made after those, and the allocator cannot place them where activations or temporaries were. `unplaced`: on
    a CPU, extra room that the heap of the process holds for each step's gathered copies and gradients. Small blocks
    break up the memory that activations free, so nothing as large fits there. `outputs`: logits of a step's other microbatches,
    where a pipeline's last stage keeps them (`Stack.stage_outputs`).
    """

    parameters: Array
    gathered: Array
    gather_window: Array
    gradients: Array
    optimizer_state: Array
    reduce_buffer: Array
    fragments: Array
    step: Array
    step_window: Array
    late_gradients: Array
    stream_gradients: Array
    flat: Array
    unplaced: Array
    outputs: Array
    host: Array
    nvme: Array

    @property
    def stays(self) -> Array:
        """Bytes that a rank holds of a row at every moment, summed over its rows."""
        gradients = self.gradients + self.stream_gradients
        held = self.parameters + self.gathered + gradients + self.optimizer_state
        return np.asarray(held + self.flat + self.unplaced + self.outputs)


@dataclass(frozen=True)
class CostTables:
    """The costs of each row for the rank that holds it.

    `forward`, `backward`: one microbatch. `first_forward`, `last_backward`: extra costs of the first microbatch's
    forward and of the last one's backward. `weight_gradient_seconds` (N, R): the part of `backward` that only the
    weights' gradients take, which a schedule may postpone. `optimizer_seconds` (N, R): clipping and update once a step.
    `send_seconds` (N,): bringing one microbatch's hidden states to the next stage. `activation_bytes`: kept for each
    microbatch in flight. `working_bytes`: in use while that row's backward runs. `slack` (N,): unused bytes of the
    allocator, as a share of all bytes not held over the whole step. `host_activation_bytes` (N, R, P): on the host for each
    microbatch in flight; None where no strategy puts any there.
    """

    forward: Seconds
    backward: Seconds
    first_forward: Seconds
    last_backward: Seconds
    weight_gradient_seconds: Array
    optimizer_seconds: Array
    send_seconds: Array
    activation_bytes: Array
    working_bytes: Array
    slack: Array
    static: StaticBytes
    host_activation_bytes: Array | None = None

    def __len__(self) -> int:
        return len(self.send_seconds)

    @classmethod
    def joined(cls, tables: "Sequence[CostTables]") -> "CostTables":
        """Return the candidates of all `tables`, in their order."""
        return cls(**{field.name: _joined([getattr(each, field.name) for each in tables]) for field in fields(cls)})


def _joined(parts: Sequence[Any]) -> Any:
    """The candidates of arrays, of `Seconds` or of `StaticBytes`, on their first axis."""
    if parts[0] is None or isinstance(parts[0], np.ndarray):
        return None if parts[0] is None else np.concatenate(parts)
    return type(parts[0])(**{name: _joined([getattr(part, name) for part in parts]) for name in vars(parts[0])})
