"""A step without storage: real code and shapes, but real numbers in no floating-point tensor.

Floating-point tensors are torch's fake ones, which have shapes and types alone. Integers that the code itself makes are real:
ranks of a mesh, positions, labels, numbers of tokens. So the code branches as in a run. Where it asks for a number that only
real data would give, it gets a stand-in:

- a scalar of a fake tensor (loss, norm) is 1.0, so that nothing is clipped;
- routers send as many tokens to every expert, and get as many from every rank as they send to it;
- stages vote, before the first step, that they know what they will receive, as all stages of a run do.

Attention with a lower-right causal mask runs without a mask in memory, as a fused kernel on a GPU does.
"""

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.nn.attention.bias import CausalBias
from torch.utils._python_dispatch import TorchDispatchMode

from shardwright.executor.passes import LOSS

from .collectives import NAMESPACES, Collective, read_collective
from .flops import operator_flops

_aten = torch.ops.aten
_DEVICE, _META = torch.ops.prim.device.default, torch.device("meta")
_PLAIN = (Tensor, nn.Parameter, FakeTensor)
_LIKE: Mapping[Any, Any] = {_aten.empty_like.default: torch.empty, _aten.zeros_like.default: torch.zeros}
_COUNTED = (torch.int32, torch.int64)


class Tracing(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's
    """Runs what is inside it without storage, and counts collectives and FLOPs.

    `collectives`: calls by collective and whether they are part of the loss.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # likewise
        self.collectives: Counter[tuple[Collective, bool]] = Counter()
        self.flops = 0
        self._fake = FakeTensorMode(allow_non_fake_inputs=True)
        self._regions: list[str] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # torch would wrap each call, so that its compiler, which nothing here uses, leaves it alone

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        with self._fake, self, _fused_attention():
            yield

    @property
    def in_loss(self) -> bool:
        return LOSS in self._regions

    def forget(self) -> None:
        """Start to count anew."""
        self.collectives.clear()
        self.flops = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is _DEVICE and type(args[0]) is FakeTensor:  # more than half of all calls
            return _META if args[0].fake_mode.in_kernel_invocation else args[0].fake_device
        if any(kind not in _PLAIN for kind in types):
            return NotImplemented  # tensors of several ranks, whose parts come here
        options = dict(kwargs or {})
        output = self._run(func, args, options)
        self._count(func, args, options, output)
        return output

    def _run(self, func: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        tensors = [*_tensors(args), *_tensors(options.values())]
        if func in _LIKE and tensors[0].is_meta and _leaves_meta(options):  # storage of a module that had none
            return _LIKE[func](
                tensors[0].shape, dtype=options.get("dtype") or tensors[0].dtype, device=options["device"]
            )
        if any(isinstance(tensor, FakeTensor) for tensor in tensors):
            return self._run_fake(func, args, options)
        if not tensors and not _is_real(func, args, options):
            return func(*args, **options)
        with unset_fake_temporarily():
            if func is torch.ops._c10d_functional.all_to_all_single.default:
                return args[0].clone()  # numbers of tokens: every rank sends here what this one sends there
            if func is torch.ops.c10d.recv_.default:
                args[0][0].fill_(1)  # the vote of another stage
            return func(*args, **options)

    def _run_fake(self, func: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        if func is _aten._local_scalar_dense.default:
            return 1.0
        if func is _aten.bincount.default:
            return _even_counts(args[0].numel(), args[2] if len(args) > 2 else options["minlength"])
        return func(*args, **options)

    def _count(self, func: Any, args: tuple[Any, ...], options: Mapping[str, Any], output: Any) -> None:
        if func.namespace in NAMESPACES:
            if found := read_collective(func, args):
                self.collectives[found, self.in_loss] += 1
        elif func.namespace == "profiler":
            self._enter_or_leave(func, args)
        else:
            self.flops += operator_flops(func, args, options, output)

    def _enter_or_leave(self, func: Any, args: tuple[Any, ...]) -> None:
        if "enter" in func.name():
            self._regions.append(args[0])
        else:
            self._regions.pop()


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """Those among arguments of an operator, which nest in lists alone."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _leaves_meta(options: Mapping[str, Any]) -> bool:
    device = options.get("device")
    return device is not None and torch.device(device).type != "meta"


def _is_real(func: Any, args: tuple[Any, ...], options: Mapping[str, Any]) -> bool:
    """Whether a tensor made of nothing is real: integers, the skeleton of the model, which is on the meta device, and what has
    no elements, from which torch makes subclasses."""
    if options.get("device") is not None and not _leaves_meta(options):
        return True
    if func is _aten.empty.memory_format and list(args[0]) == [0]:
        return True
    dtype = options.get("dtype")
    return dtype in _COUNTED or (dtype is None and func.overloadpacket is _aten.arange)


def _even_counts(items: int, places: int) -> Tensor:
    """Return (places,) numbers that add up to `items` and differ by one at most."""
    with unset_fake_temporarily():
        counts = torch.full((places,), items // places)
        counts[: items % places] += 1
        return counts


@contextlib.contextmanager
def _fused_attention() -> Iterator[None]:
    """Let attention stay one operator, as on a GPU, that torch computes in several on a CPU: with a lower-right causal mask, which stays an
    argument in place of a tensor, and with values that are not as wide as queries."""
    functional: Any = nn.functional
    attend = functional.scaled_dot_product_attention

    def fused(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **options: Any) -> Tensor:
        lower_right, wide = isinstance(attn_mask, CausalBias), query.shape[-1] == value.shape[-1]
        given = (query, key, value)
        if not lower_right and (wide or attn_mask is not None):
            output: Tensor = attend(*given, attn_mask=attn_mask, **options)
            return output
        causal, scale = lower_right or options.get("is_causal", False), options.get("scale")
        if wide:
            output = _aten._scaled_dot_product_flash_attention_for_cpu(*given, 0.0, causal, scale=scale)[0]
        else:
            output = _aten._scaled_dot_product_efficient_attention(*given, None, True, 0.0, causal, scale=scale)[0]
        return output

    functional.scaled_dot_product_attention = fused
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = attend
