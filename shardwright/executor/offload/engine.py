"""The engine of one rank: its shards in their places, and what a step does with those that left the device."""

import contextlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from shardwright.specs import OPTIMIZER_STATES, Offload, OptimizerName

from .activations import Activations
from .buckets import Bucket, Buckets
from .fetching import Fetcher, Source
from .hosted import Hosted, InMemory, OnDrive, Update, bring_down
from .placement import Placement, Room, place
from .resources import BufferPool, Ledger, Streams, Ticket
from .rule import UpdateRule
from .shards import Shard, read_shards
from .spaces import DriveSpace, MemorySpace, Piece


class OffloadEngine:
    """Keeps a share of a rank's parameters, gradients and optimizer state on the host and its drives, and updates them there.

    Gradients go down as FSDP2 reduces them, updates run bucket by bucket in a thread, and parameters come up before FSDP2 gathers them.
    `attach` says how to update. With `during_backward` a bucket is updated as soon as its last gradient is down. Otherwise, as clipping
    needs the norm of all gradients, `step` begins with the buckets that the next forward pass needs first, and that pass waits
    for no others.

    With `Offload.delayed_update` passes read a copy of the host's parameters, which `step` makes before it begins the updates: these
    run beside the next step's passes.

    `stages` are the rank's FSDP2 modules in order. `late`: a parameter whose gradient the caller changes after the backward passes; it
    is taken by `collect_late`. `sums`: gradients arrive several times a step.
    """

    def __init__(
        self,
        stages: Sequence[nn.Module],
        offload: Offload,
        optimizer: OptimizerName,
        *,
        room: Room,
        folder: Path,
        device: torch.device,
        sums: bool,
        late: nn.Parameter | None = None,
        streams: Streams | None = None,
    ) -> None:
        self.ledger = Ledger({"host": room.host_bytes, "nvme": room.nvme_bytes})
        self.streams = streams or Streams(device)
        self.activations = Activations(device=device, streams=self.streams, ledger=self.ledger)
        self._factor: float | None = None
        self.device, self._late = device, late
        self.delays = offload.delayed_update
        self._stages = {stage: index for index, stage in enumerate(stages)}
        self._last = [True] * len(stages)
        shards = read_shards(stages)
        trained = [shard for shard in reversed(shards) if shard.parameter.requires_grad]
        placement = place(trained, offload, optimizer, room, sums=sums)
        self._hosted, self._staging = self._build(placement, OPTIMIZER_STATES[optimizer], folder)
        self._sources = self._leave(shards)
        self._by_parameter = {shard.parameter: source for shard, source in self._sources.items()}
        self._fetcher = Fetcher(self._sources, device=device, streams=self.streams, ledger=self.ledger)
        self._down: dict[Shard, list[Ticket]] = {}
        self._update: Update | None = None
        self._during_backward = False
        self._rule = UpdateRule(optimizer)
        self._begin_step()
        self._listen(shards)

    @property
    def device_parts(self) -> Mapping[nn.Parameter, nn.Parameter | None]:
        """For each parameter that left the device in part or as a whole: what stays there, (n,), which the caller updates; None: nothing."""
        return {parameter: self._part_of(source) for parameter, source in self._by_parameter.items()}

    def attach(self, rule: UpdateRule, decays: Mapping[nn.Parameter, float], *, during_backward: bool) -> None:
        """Say how to update. `decays`: the weight decay of each parameter."""
        self._rule, self._during_backward = rule, during_backward and not self.delays
        for shard in self._sources:
            shard.weight_decay = decays[shard.parameter]

    def set_learning_rate(self, learning_rate: float) -> None:
        """Say the learning rate of the step, before its first backward pass."""
        self._update = Update(self._rule, learning_rate, None)

    def before_backward(self, stage: nn.Module, *, last: bool) -> None:
        """Say that a backward pass of a stage follows; `last`: it is the stage's last one of the step."""
        self._last[self._stages[stage]] = last

    def collect_late(self) -> None:
        """Take the gradient of the parameter that is `late`."""
        if self._late is not None and self._late in self._by_parameter:
            self._gradient_is_there(self._by_parameter[self._late])

    def gradient_of(self, parameter: nn.Parameter) -> Tensor | None:
        """Return this rank's gradient of a parameter, wherever it is, in the shape of its shard; None: it has none in this step."""
        source = self._by_parameter.get(parameter)
        if source is None or (parameter is self._late and parameter.grad is not None):
            gradient = parameter.grad
            return gradient._local_tensor if isinstance(gradient, DTensor) else gradient
        shard = source.shard
        if not shard.arrived:
            return None
        self.streams.wait(self._down.get(shard, ()))
        if len(source.pieces) == 1 and source.device_part is None:
            hosted, piece = source.pieces[0]
            return hosted.gradients[piece.offset : piece.end].view(shard.shape)
        whole = torch.empty(shard.elements, device=self.device)
        for hosted, piece in source.pieces:
            whole[piece.start : piece.stop] = hosted.gradients[piece.offset : piece.end]
        part = self._part_of(source)
        if part is not None:
            assert part.grad is not None
            whole[source.device_start :] = part.grad
        return whole.view(shard.shape)

    def scale_gradients(self, factor: float) -> None:
        """Multiply the step's gradients by `factor` before the update, here and in the parts that stay on the device."""
        assert not self._during_backward, "an update that runs in the backward pass comes before the norm"
        self._factor = factor
        for source in self._sources.values():
            part = self._part_of(source)
            if part is not None and part.grad is not None:
                part.grad.mul_(factor)

    def step(self) -> None:
        """Submit the updates that are not under way. They go on beside what follows, and the next use of their parameters waits."""
        assert self._update is not None, "the learning rate is set before the backward passes"
        update = self._update._replace(factor=self._factor)
        if self.delays:
            for hosted in self._hosted:
                for bucket in reversed(hosted.buckets.all):
                    hosted.show(bucket)
        for hosted in self._hosted:
            for bucket in reversed(hosted.buckets.all):  # in the order of the forward pass
                if bucket.waiting or not self._during_backward:
                    self._submit(hosted, bucket, update)
        for shard in self._sources:
            shard.steps += bool(shard.arrived)

    def end_step(self) -> None:
        """Forget the gradients of the step, and bring up what the next one needs first."""
        for source in self._sources.values():
            part = self._part_of(source)
            if part is not None:
                part.grad = None
        self._begin_step()
        self._fetcher.begin_step()

    def forward_only(self) -> contextlib.AbstractContextManager[None]:
        """Wrap forward passes between two steps that no backward pass follows."""
        return self._fetcher.apart()

    def settle(self) -> None:
        """Wait for all updates, so that host and drives hold the parameters after the last step."""
        for hosted in self._hosted:
            self.streams.wait(bucket.update for bucket in hosted.buckets.all if bucket.update is not None)

    def close(self) -> None:
        """End the engine's threads."""
        self.streams.close()

    @property
    def state_names(self) -> tuple[str, ...]:
        """What is kept for each element beside its value, as torch names it."""
        return self._rule.state_names

    def show_latest(self) -> None:
        """Let the next passes read the parameters as the last update left them."""
        for hosted in self._hosted if self.delays else ():
            for bucket in hosted.buckets.all:
                hosted.show(bucket)

    def forget_fetched(self) -> None:
        """Drop parameters that are on their way up, because others take their place."""
        self._fetcher.forget()

    def sources(self) -> Sequence[Source]:
        """Return where the shards that left the device lie."""
        return list(self._sources.values())

    def _build(self, placement: Placement, states: int, folder: Path) -> tuple[list[Hosted], BufferPool | None]:
        ledger, device, streams = self.ledger, self.device, self.streams
        bucket = placement.bucket_elements

        def pool(count: int) -> BufferPool:
            return BufferPool(count, bucket, ledger=ledger, device=device)

        hosted: list[Hosted] = []
        if placement.on_drive:
            path = folder / f"rank-{dist.get_rank()}.bin"
            drive = DriveSpace(path, placement.on_drive, arrays=1 + states, ledger=ledger)
            pools = pool(placement.reading), pool(placement.updating)
            buckets = Buckets(placement.on_drive, bucket)
            for piece in placement.on_drive:
                drive.fill(piece, pools[0])
            hosted.append(
                OnDrive(drive, buckets, arrays=1 + states, pools=pools, ledger=ledger, device=device, streams=streams)
            )
        if placement.in_memory:
            memory = MemorySpace(placement.in_memory, ledger=ledger, device=device)
            for piece in placement.in_memory:
                values = piece.shard.values[piece.start : piece.stop]
                memory.parameters[piece.offset : piece.end].copy_(values)
            memory.add_states(states)
            if self.delays:
                memory.show_apart()
            hosted.append(
                InMemory(memory, Buckets(memory.pieces, bucket), ledger=ledger, device=device, streams=streams)
            )
        return hosted, pool(placement.staging) if placement.staging and hosted else None

    def _leave(self, shards: Sequence[Shard]) -> dict[Shard, Source]:
        """Take the pieces' elements off the device, and put back there what only waited for its place."""
        pieces: dict[Shard, list[tuple[Hosted, Piece]]] = {}
        for hosted in self._hosted:
            for piece in hosted.buckets.pieces:
                pieces.setdefault(piece.shard, []).append((hosted, piece))
        sources = {}
        for shard in shards:
            if shard not in pieces:
                shard.unpark(self.device)
                continue
            start = max(piece.stop for _, piece in pieces[shard])
            part = None
            if start < shard.elements:
                part = nn.Parameter(shard.values[start:].to(self.device, copy=True))
                self.ledger.take("parameters", "device", 4 * part.numel())
            source = sources[shard] = Source(shard, pieces[shard], part, start)
            ((hosted, piece), *others) = source.pieces
            whole = part is None and not others and isinstance(hosted, InMemory)
            values = hosted.arrays()[0][piece.offset : piece.end] if whole else None
            shard.leave(values, partial(self._fetch, shard))
        return sources

    def _listen(self, shards: Sequence[Shard]) -> None:
        """Be told when FSDP2 has reduced a gradient. Those that stay leave the buffers that they share with the others."""
        mixed = {shard.group for shard in self._sources}
        for shard in shards:
            if not shard.parameter.requires_grad or shard.parameter is self._late:
                continue
            source = self._sources.get(shard)
            if source is not None:
                shard.on_gradient(partial(self._gradient_is_there, source))
            elif shard.group in mixed:
                shard.on_gradient(shard.compact_gradient)

    def _fetch(self, shard: Shard) -> Tensor:
        return self._fetcher.fetch(shard)

    def _gradient_is_there(self, source: Source) -> None:
        shard = source.shard
        gradient = shard.take_gradient()
        part = self._part_of(source)
        if part is not None:
            own = gradient[source.device_start :]
            part.grad = own.clone() if part.grad is None else part.grad.add_(own)
        staging = self._staging if shard.arrived else None
        assert not shard.arrived or staging is not None, "gradients that arrive several times have a buffer"
        tickets = self._down.setdefault(shard, [])
        for hosted, piece in source.pieces:
            copied = gradient[piece.start : piece.stop]
            # the update of the step before reads the gradient that this one replaces
            earlier = hosted.buckets.updates_of(piece)
            if self.delays:  # or gradients would gather on the device beside a slow host
                self.streams.wait(earlier)
            tickets.append(self.streams.down.submit(partial(bring_down, hosted, piece, copied, staging), after=earlier))
        shard.arrived += 1
        if self._during_backward and self._last[shard.stage]:
            assert self._update is not None, "the learning rate is set before the backward passes"
            for hosted in self._hosted:
                for bucket in hosted.buckets.arrived(shard):
                    self._submit(hosted, bucket, self._update)

    def _submit(self, hosted: Hosted, bucket: Bucket, update: Update) -> None:
        after = [ticket for shard in bucket.shards for ticket in self._down.get(shard, ())]
        hosted.submit(bucket, update, after=after)

    def _begin_step(self) -> None:
        self._factor = None
        self._down.clear()
        for hosted in self._hosted:
            hosted.buckets.begin_step()
        for shard in self._sources:
            shard.arrived = 0

    @staticmethod
    def _part_of(source: Source) -> nn.Parameter | None:
        part = source.device_part
        assert part is None or isinstance(part, nn.Parameter)
        return part
