"""The bytes per row that are held over a step: parameters, gathered copies, gradients, states, and what their update and reduction take."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from shardwright.base import Array
from shardwright.costmodel.op_times import Constants
from shardwright.specs import OWN_STACK, Candidates, Stack, TrainingSpec
from shardwright.specs.model import ModelSpec

from .cost_tables import StaticBytes
from .data_parallel import DataParallel, defers, reduces_by_chunk


@dataclass(frozen=True)
class StaticMemory:
    """Held bytes of R rows for every candidate (N,), on the device and on the host (data_parallel.py says which are where).

    `in_heap`: the device is a CPU, whose heap does not find room again. `shard` (N, R): elements of a rank's shard. `freed` (R,): rows that
    ZeRO-3 frees after their forward. `states`, `beside_states` (N, R): bytes of the optimizer, and of what replicas keep that agree
    approximately. `temporaries` (N, R): bytes of an update that needs whole matrices. `working` (N, R): what a row's backward works in where it
    runs again. `host_activations` (N, R): bytes of activations on the host.
    """

    model: ModelSpec
    training: TrainingSpec
    constants: Constants
    candidates: Candidates
    traffic: DataParallel
    in_heap: bool
    shard: Array
    freed: Array
    states: Array
    beside_states: Array
    temporaries: Array
    working: Array
    host_activations: Array

    def held(self) -> StaticBytes:
        """Return them by what holds them."""
        on_host, on_nvme = self._column("offload_optimizer"), self._column("offload_nvme")
        layerwise, (outputs, merged) = self.training.method.layerwise, self._returned_logits()
        kept_gathered, gradients = self._kept_gathered, self._gradients
        frees, streams = self._frees, self.traffic.streamed
        hot = 0.0 if self.traffic.hot is None else self.traffic.hot
        kept_gathered, gradients = kept_gathered + self.traffic.gathered_bytes * hot, gradients + self._gradient * hot
        return StaticBytes(
            parameters=self._on_device * self._master + self._frozen,
            gathered=kept_gathered,
            gather_window=np.where(frees | (streams > 0), self._gathered, 0.0),
            gradients=np.where(self._late, 0.0, gradients),
            optimizer_state=self._on_device * self.states + self.beside_states,
            reduce_buffer=self._reduce_buffer,
            fragments=self._fragments(),
            step=self._on_device * (self._stack.step_copies * self._element + self._widened) * self.shard,
            step_window=(not layerwise) * self.temporaries,
            late_gradients=np.where(self._late & ~self._on_stream, gradients, 0.0),
            stream_gradients=np.where(self._late & self._on_stream, gradients, 0.0),
            flat=self._on_device * self._flat + merged,
            unplaced=(kept_gathered + gradients) * self.in_heap,
            outputs=outputs,
            nvme=on_nvme * on_host * (self._master + self.states),
            host=on_host * ((1 - on_nvme) * (self._master + self.states) + self._element * self.shard)
            + on_host * self._column("delayed_update") * self._master
            + np.where(frees, 0.0, streams * self._gathered)
            + self.host_activations,
        )

    @property
    def _stack(self) -> Stack:
        return self.training.software

    def _column(self, name: str) -> Array:
        return np.asarray(getattr(self.candidates, name))[:, None]

    @cached_property
    def _zero(self) -> Array:
        return self._column("zero_stage")

    @cached_property
    def _several_ranks(self) -> Array:
        """(N, 1): whether gradients are reduced over data-parallel ranks."""
        return np.asarray(self._column("data_ranks") > 1)

    @cached_property
    def _several_microbatches(self) -> Array:
        return np.asarray(self._column("microbatches") > 1)

    @property
    def _on_device(self) -> Array:
        return 1 - self._column("offload_optimizer")

    @cached_property
    def _parameters(self) -> Array:
        return self.traffic.parameters + self.traffic.expert_parameters

    @property
    def _element(self) -> float:
        return self.training.precision.parameter_bytes_per_element

    @property
    def _gradient(self) -> float:
        return self.training.precision.gradient_bytes_per_element

    @property
    def _widened(self) -> float:
        """Bytes of a gradient that an update widens to the format of its parameter, beside the shard."""
        return 4.0 if self._stack.widens_gradients and self._gradient < self._element else 0.0

    @property
    def _master(self) -> Array:
        return self._element * self.shard

    @cached_property
    def _frees(self) -> Array:
        """(N, R): whether a row's gathered copy is freed after its forward."""
        return np.asarray((self._zero >= 3) & self.freed)

    @property
    def _splits_frozen(self) -> Array:
        """(N, 1): whether frozen weights are sharded. Below ZeRO-3 every rank holds them whole, and no update moves them."""
        return (self._zero >= 3) & self._several_ranks

    @property
    def _frozen(self) -> Array:
        return np.where(self._splits_frozen, self.traffic.frozen_shard_bytes, self.traffic.whole_frozen_bytes)

    @cached_property
    def _gathered(self) -> Array:
        """(N, R): bytes of the copy that compute reads, none where it reads the parameters that the optimizer updates."""
        alike = self._element == self.traffic.gathered_bytes
        reads_parameters = alike & ~self._several_ranks & (self.training.stack != OWN_STACK)
        whole_frozen = np.where(self._splits_frozen, self.traffic.whole_frozen_bytes, 0.0)
        return np.asarray(self.traffic.gathered_bytes * self._parameters * ~reads_parameters + whole_frozen)

    @cached_property
    def _kept_gathered(self) -> Array:
        """(N, R): of a rank's chunks one is gathered at a time where it runs chunk by chunk; layers at their ends lie in the window."""
        by_chunk = (self._column("by_chunk") == 1) / self._column("stages_per_rank")
        return np.asarray(np.where(self._frees, by_chunk, 1.0) * (1 - self.traffic.streamed) * self._gathered)

    @cached_property
    def _accumulated(self) -> Array:
        return self._several_microbatches | self._stack.keeps_gradient_buffer

    @cached_property
    def _defers(self) -> Array:
        """(N, 1): whether whole gradients are summed until the last microbatch under ZeRO-2 and 3."""
        return np.asarray(defers(self.training, self.candidates)[:, None])

    @property
    def _late(self) -> Array:
        """(N, 1): a single microbatch's gradients come as its activations go, so they are there in the update alone. Room in a heap is not
        found again."""
        return ~self._accumulated & (not self.in_heap)

    @property
    def _on_stream(self) -> Array:
        """(N, 1): whether gradients come from the stream of their reduction: shards of ZeRO-2 and 3."""
        return (self._zero >= 2) & self._several_ranks

    @cached_property
    def _gradients(self) -> Array:
        """(N, R): bytes of gradients over a step. An update reads them in the format of its parameters. Those in a smaller format are widened
        for it, into the shard or (Stack) beside it."""
        if self.training.method.layerwise:  # a row's gradient is alive with what its update needs, and then free
            return np.zeros(self.shard.shape)
        on_device = self._on_device * self._element * self.shard
        whole = self._gradient * self._parameters
        widened = whole if self._stack.keeps_gradient_buffer else np.maximum(whole, on_device)
        keeps_whole = ((self._zero <= 1) | self._defers) & self._accumulated
        on_host = self._several_microbatches * self._column("offload_gradients")
        found = np.where(keeps_whole, (1 - on_host) * widened, on_device)
        # one of a rank's chunks has whole gradients
        by_chunk = reduces_by_chunk(self.candidates)[:, None] & ~keeps_whole & self._accumulated
        return np.asarray(found + by_chunk / self._column("stages_per_rank") * whole)

    @property
    def _reduce_buffer(self) -> Array:
        """(N, R): what autograd made of a layer is there until it is copied for its reduction, while that of the layer before it goes on."""
        summed = self._several_microbatches * self._column("offload_gradients")
        layerwise = self.training.method.layerwise
        reduces = (self._several_ranks & ~self._defers) | (summed > 0) | layerwise
        made = self._stack.copies_gradients & self._several_ranks & ((self._zero >= 2) | self._defers)
        made = made & (not self.in_heap)
        each = np.where(reduces, self._gradient, 0.0) + made * self.training.precision.activation_bytes_per_element
        return np.asarray(each * self._parameters + layerwise * self.temporaries)

    @property
    def _flat(self) -> Array:
        """(N, R): the stream of the reduction has room of its own for the shards of gradients that came at the end."""
        late = self._element * (self._defers & self._several_ranks)
        copies = self._stack.flat_gradient_copies * self._gradient * self._parameters
        return np.asarray(
            (self._stack.flat_step_bytes_per_parameter + late) * self.shard + np.where(self._zero <= 1, copies, 0.0)
        )

    def _fragments(self) -> Array:
        """(N, R): bytes that the allocator holds without use in torch's pipelines, of which the largest layer's count.

        Summed gradients lie in pieces of blocks that the first backward pass has freed. That costs a share of what a layer works in when it
        runs again, and of two copies of its gradients (calibration/allocator/pipelines.py).
        """
        copies = 2.0 * self._gradient * self._parameters
        sums = sums_in_pipeline(self.training, self.candidates, in_heap=self.in_heap)[:, None]
        found = self.constants.fragment_share * (self.working + copies) * sums
        found[:, -2:] = 0.0
        return np.asarray(found)

    def _returned_logits(self) -> tuple[Array, Array]:
        """(N, R) each: bytes of the logits that a pipeline's last stage keeps to return them, of all microbatches but the one in its loss;
        and of all in one tensor, which is made of them at the end (torch/distributed/pipelining/schedules.py, _merge_outputs)."""
        chosen, kept = self.candidates, np.zeros(self.shard.shape)
        if self._stack.stage_outputs == "released":
            return kept, kept
        tokens = chosen.micro_batch * float(self.training.seq_len) / chosen.cp
        each = self.training.precision.activation_bytes_per_element * tokens * self.model.vocab_size / chosen.tp
        merged = kept.copy()
        kept[:, -1], merged[:, -1] = (
            (chosen.pp > 1) * number * each for number in (chosen.microbatches - 1, chosen.microbatches)
        )
        return kept, merged


def sums_in_pipeline(training: TrainingSpec, candidates: Candidates, *, in_heap: bool) -> Array:
    """(N,): where torch's own pipeline sums whole gradients over several microbatches; `StaticBytes.fragments` has the allocator's slack."""
    return np.asarray(defers(training, candidates) & (candidates.microbatches > 1) & (not in_heap))
