"""Activations between a layer's forward and its backward: a share of each tensor that autograd saves is on the host.

Hooks for saved tensors see every tensor that a layer keeps. With recomputation that is what the layer, or a part of it, is computed again
from (ALST keeps checkpoints on the host so, arXiv 2506.13996). The share is one of bytes, front part first: a share of tokens, as MEMO
swaps them (arXiv 2407.12117), where the tokens lead.
"""

import contextlib
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._pytree import tree_leaves

from .resources import Ledger, Stream, Streams, Ticket, hand_over, pinned, unpin

_CHUNK_BYTES = 64
"""Shares are cut at cache lines, so that elements of every type stay whole."""


class Activations:
    """Takes a share of what layers save to the host, and brings it back a layer ahead of its backward.

    Host memory is taken only within the ledger's limit. What has no room there stays on the device.
    """

    def __init__(self, *, device: torch.device, streams: Streams, ledger: Ledger) -> None:
        self._streams = streams
        self._pool = _HostPool(device, ledger)
        self._newest: dict[nn.Module, _Pass] = {}

    def take(self, layer: nn.Module, share: float, *, before: nn.Module | None) -> None:
        """Let `share` of what `layer` saves in each forward pass go to the host. `before`: the layer taken that runs before it."""
        own: Any = layer
        if getattr(layer, "gradient_checkpointing", False):
            # the whole layer is recomputed, and its inputs are saved outside its forward
            inner = own._gradient_checkpointing_func
            own._gradient_checkpointing_func = self._around(layer, inner, share, before, first=1)
        else:
            own.forward = self._around(layer, own.forward, share, before, first=0)

    def _around(
        self, layer: nn.Module, forward: Callable[..., Any], share: float, previous: nn.Module | None, *, first: int
    ) -> Callable[..., Any]:
        def passes(*given: Any, **named: Any) -> Any:
            if not torch.is_grad_enabled():
                return forward(*given, **named)
            # all other inputs belong to all layers: masks, positions, rotary tables
            shared = tree_leaves((given[first + 1 :], named))
            with self._pass(layer, share, previous, [leaf for leaf in shared if isinstance(leaf, Tensor)]):
                return forward(*given, **named)

        return passes

    @contextlib.contextmanager
    def _pass(self, layer: nn.Module, share: float, previous: nn.Module | None, shared: list[Tensor]) -> Iterator[None]:
        before = None if previous is None else self._newest.get(previous)
        if before is not None and before.before is not None:
            before.before.await_copies()  # two layers at most wait on the device for their way down
        this = self._newest[layer] = _Pass(layer, share, shared, before, self._streams, self._pool)
        with saved_tensors_hooks(this.pack, this.unpack):
            yield
        this.end_forward()


class _Saved(NamedTuple):
    """A saved tensor as a view of its storage."""

    stored: "_Stored"
    of_pass: "_Pass"
    dtype: torch.dtype
    size: torch.Size
    stride: tuple[int, ...]
    offset: int


class _Pass:
    """One forward pass of a layer and the storages that it saves. `before` is the pass of the layer before it."""

    def __init__(
        self,
        layer: nn.Module,
        share: float,
        shared: list[Tensor],
        before: "_Pass | None",
        streams: Streams,
        pool: "_HostPool",
    ) -> None:
        self._layer, self._share, self._shared = layer, share, shared
        self.before, self._streams, self._pool = before, streams, pool
        self._by_storage: dict[int, tuple[Any, _Stored]] = {}
        self._stored: list[weakref.ref[_Stored]] = []
        self._copies: list[Ticket] = []
        self._nested = any(isinstance(part, FSDPModule) for part in layer.modules() if part is not layer)
        self._staying = self._find_staying()

    def pack(self, tensor: Tensor) -> Any:
        if type(tensor) is not Tensor or tensor.device != self._pool.device or not tensor.numel():
            return tensor
        if self._nested:  # inner modules have gathered their parameters since
            self._staying = self._find_staying()
        storage = tensor.untyped_storage()
        if storage.data_ptr() in self._staying:
            return tensor
        stored = self._store(storage)
        if stored is None:
            return tensor
        return _Saved(stored, self, tensor.dtype, tensor.size(), tensor.stride(), int(tensor.storage_offset()))

    def unpack(self, saved: Any) -> Tensor:
        if isinstance(saved, Tensor):
            return saved
        assert isinstance(saved, _Saved)
        self.bring_up()
        if self.before is not None:
            self.before.bring_up()
        found = torch.empty(0, dtype=saved.dtype, device=self._pool.device)
        return found.set_(saved.stored.whole(self._streams).untyped_storage(), saved.offset, saved.size, saved.stride)

    def bring_up(self) -> None:
        """Begin to bring back everything that the pass saved."""
        for reference in self._stored:
            stored = reference()
            if stored is not None:
                stored.bring_up(self._streams.up)

    def await_copies(self) -> None:
        """Wait until everything that the pass saved is down."""
        self._streams.wait(self._copies)
        self._copies.clear()

    def end_forward(self) -> None:
        """The references to what stays are for the forward pass alone."""
        self._by_storage.clear()
        self._shared.clear()
        self._staying = set()

    def _store(self, storage: torch.UntypedStorage) -> "_Stored | None":
        reference: Any = StorageWeakRef(storage)  # type: ignore[no-untyped-call]  # torch's
        known = self._by_storage.get(reference.cdata)
        if known is not None and not known[0].expired():
            return known[1]
        size_bytes = int(storage.nbytes() * self._share) // _CHUNK_BYTES * _CHUNK_BYTES
        if self._share == 1:
            size_bytes = storage.nbytes()
        buffer = self._pool.take(size_bytes) if size_bytes else None
        if buffer is None:
            return None
        stored = _Stored(storage, buffer, self._pool, self._streams.down)
        self._copies.append(stored.down)
        self._stored.append(weakref.ref(stored))
        self._by_storage[reference.cdata] = (reference, stored)
        return stored

    def _find_staying(self) -> set[int]:
        """Return the addresses of storages that live on without this layer's activations."""
        held = [*self._layer.parameters(), *self._layer.buffers(), *self._shared]
        local = (tensor._local_tensor if isinstance(tensor, DTensor) else tensor for tensor in held)
        return {tensor.untyped_storage().data_ptr() for tensor in local}


class _Stored:
    """A storage whose front part is on the host, in `buffer` (bytes,). It gives the buffer back when nothing refers to it."""

    def __init__(self, storage: torch.UntypedStorage, buffer: Tensor, pool: "_HostPool", down: Stream) -> None:
        self._buffer, self._pool = buffer, pool
        self._size_bytes = storage.nbytes()
        whole = torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
        front = whole[: len(buffer)]
        self._rest = whole[len(buffer) :].clone()
        self.down = down.submit(partial(_copy, buffer, front))
        self._up: Ticket | None = None
        self._whole: Tensor | None = None

    def bring_up(self, up: Stream) -> None:
        """Begin to put the storage together on the device."""
        if self._up is None:
            self._whole = torch.empty(self._size_bytes, dtype=torch.uint8, device=self._pool.device)
            self._up = up.submit(partial(_join, self._whole, self._buffer, self._rest), after=[self.down])

    def whole(self, streams: Streams) -> Tensor:
        """Return the bytes of the storage on the device."""
        assert self._up is not None
        assert self._whole is not None
        streams.wait([self._up])
        return hand_over(self._whole)

    def __del__(self) -> None:
        last = self._up or self.down
        last.add_done_callback(partial(_give_back, self._pool, self._buffer))


def _copy(target: Tensor, source: Tensor) -> None:
    target.copy_(source, non_blocking=True)


def _join(whole: Tensor, front: Tensor, rest: Tensor) -> None:
    whole[: len(front)].copy_(front, non_blocking=True)
    whole[len(front) :].copy_(rest)


def _give_back(pool: "_HostPool", buffer: Tensor, _done: Ticket) -> None:
    pool.give_back(buffer)


class _HostPool:
    """Buffers of exactly the sizes that are asked for. Free ones are kept for the next microbatch, and let go where others need room."""

    def __init__(self, device: torch.device, ledger: Ledger) -> None:
        self.device, self._ledger = device, ledger
        self._free: dict[int, list[Tensor]] = {}

    def take(self, size_bytes: int) -> Tensor | None:
        """Return (size_bytes,) bytes on the host; None: the plan has no room for them."""
        free = self._free.get(size_bytes)
        if free:
            return free.pop()
        while not self._ledger.takes("activations", "host", size_bytes):
            if not self._let_go():
                return None
        return pinned(size_bytes, kind="activations", device=self.device)

    def give_back(self, buffer: Tensor) -> None:
        """Keep a buffer for the next who asks for its size."""
        self._free.setdefault(len(buffer), []).append(buffer)

    def _let_go(self) -> bool:
        """Return memory to the host; False: no buffer is free."""
        for size_bytes, free in self._free.items():
            if free:
                unpin(free.pop(), device=self.device)
                self._ledger.give_back("activations", "host", size_bytes)
                return True
        return False
