"""Checkpoints at the end of a step: written on the step's path, or copied there and written beside the next steps."""

import statistics
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import psutil
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from shardwright.base import GIB, RunFailedError
from shardwright.specs import CheckpointMeasurement

from .checkpoint import Trainee, tensors_of, write_checkpoint
from .manifest import Manifest


class Saver:
    """Saves checkpoints of `trainee` into `folder`. Every rank has one and calls it at the same steps.

    `beside`: `save` copies into buffers on the host, which stay from one save to the next, and a thread writes them, over a process group
    of its own. It waits for the write before. A write that failed is raised by the next `save` or `finish`; `failed` says so earlier.
    """

    def __init__(self, folder: Path, trainee: Trainee, *, keep: int, beside: bool) -> None:
        self._folder, self._trainee, self._keep, self.beside = folder, trainee, keep, beside
        self._buffers: dict[str, torch.Tensor] = {}
        self._pending: Future[float] | None = None
        self._stalls: list[float] = []
        self._writes: list[float] = []
        if beside:
            self._group = dist.new_group(backend="gloo", group_desc="checkpoints")
            self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")

    def save(self, manifest: Manifest) -> None:
        """Save the state after a step; `beside`: begin to.

        Raises:
            RunFailedError: this checkpoint, or the one before, cannot be written; the host has no room for a copy.
        """
        begin = time.perf_counter()
        if self.beside:
            self.finish()
            copies = self._copied(tensors_of(self._trainee, step=manifest.step))
            self._pending = self._writer.submit(self._write, copies, manifest, self._group)
        else:
            self._writes.append(self._write(tensors_of(self._trainee, step=manifest.step), manifest, None))
        self._stalls.append(time.perf_counter() - begin)

    @property
    def writes(self) -> bool:
        """Whether a write runs beside the steps."""
        return self._pending is not None and not self._pending.done()

    @property
    def failed(self) -> bool:
        """Whether the write that runs beside the steps has failed on this rank."""
        return self._pending is not None and self._pending.done() and self._pending.exception() is not None

    def finish(self) -> None:
        """Wait for the write that runs.

        Raises:
            RunFailedError: it failed.
        """
        if self._pending is not None:
            pending, self._pending = self._pending, None
            self._writes.append(pending.result())

    def measured(self) -> CheckpointMeasurement | None:
        """Return medians over the saves so far; None before the first."""
        if not self._stalls:
            return None
        return CheckpointMeasurement(
            mode="async" if self.beside else "sync",
            saves=len(self._stalls),
            stall_seconds=statistics.median(self._stalls),
            write_seconds=statistics.median(self._writes) if self._writes else None,
        )

    def _write(self, tensors: dict[str, torch.Tensor], manifest: Manifest, group: dist.ProcessGroup | None) -> float:
        begin = time.perf_counter()
        write_checkpoint(self._folder, tensors, manifest, keep=self._keep, group=group)
        return time.perf_counter() - begin

    def _copied(self, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return copies on the host. Their buffers are page-locked where there is a GPU, so that copies run at the link's speed."""
        local = {name: tensor.to_local() if isinstance(tensor, DTensor) else tensor for name, tensor in tensors.items()}
        missing = {name: tensor for name, tensor in local.items() if name not in self._buffers}
        needed = sum(tensor.nbytes for tensor in missing.values())
        free = psutil.virtual_memory().available
        if needed > free:
            raise RunFailedError(
                f"an asynchronous checkpoint copies {needed / GIB:.1f} GiB of this rank to the host, where {free / GIB:.1f} GiB are free; "
                "take --checkpoint sync"
            )
        on_gpu = torch.cuda.is_available()
        for name, tensor in missing.items():
            self._buffers[name] = torch.empty_like(tensor, device="cpu", pin_memory=on_gpu)
        for name, tensor in local.items():
            self._buffers[name].copy_(tensor, non_blocking=True)
        if on_gpu:
            torch.cuda.synchronize()
        return {name: _like(tensor, self._buffers[name]) for name, tensor in tensors.items()}


def _like(tensor: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Return values on the host as a tensor that is divided over ranks as `tensor` is. `from_local` would move them to a GPU."""
    if not isinstance(tensor, DTensor):
        return values
    divided: torch.Tensor = DTensor(values, tensor._spec, requires_grad=False)  # type: ignore[no-untyped-call]  # torch's
    return divided
