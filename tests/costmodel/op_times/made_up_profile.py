"""A profile whose every second follows from a rule, so that what is read off it can be checked."""

from collections.abc import Callable, Iterable
from itertools import product

from shardwright.specs.profile import Figure, Format, MachineFingerprint, Point, Profile, Series

FLOPS_PER_S, ELEMENTS_PER_S, BYTES_PER_S, START_SECONDS = 50e12, 2e11, 20e9, 2e-6
_POWERS = [2.0**power for power in range(7, 14, 2)]


def point(at: tuple[float, ...], seconds: float) -> Point:
    return Point(at=at, seconds=seconds, low_seconds=0.99 * seconds, high_seconds=1.01 * seconds, repeats=11)


def series(
    operation: str,
    variant: str,
    format: Format | None,
    axes: tuple[str, ...],
    sizes: Iterable[tuple[float, ...]],
    rule: Callable[..., float],
) -> Series:
    return Series(
        operation=operation,
        variant=variant,
        format=format,
        axes=axes,
        points=tuple(point(at, rule(*at)) for at in sizes),
    )


def matmul_rule(m: float, k: float, n: float, groups: float = 1.0) -> float:
    return START_SECONDS + 2 * m * k * n * groups / FLOPS_PER_S


def attention_rule(batch: float, heads: float, kv_heads: float, length: float, head_size: float) -> float:
    return START_SECONDS + 2 * batch * heads * length * (length + 1) * head_size / (FLOPS_PER_S / 2)


def elements_rule(rows: float, width: float) -> float:
    return START_SECONDS + rows * width / ELEMENTS_PER_S


def fingerprint(*, kind: str = "gpu", device: str = "round", ranks: int = 1) -> MachineFingerprint:
    return MachineFingerprint.parse(
        {
            "device": device, "kind": kind, "device_memory_bytes": 80e9, "torch": "2.13.0", "python": "3.11.7", "host": "here",
            "cores": 8, "threads": 8, "ranks": ranks, "date": "2026-01-02T03:04:05+00:00",
        },
        source="test",
    )  # fmt: skip


def made_up_profile(*, format: Format = "bf16", kind: str = "gpu", slower: float = 1.0) -> Profile:
    """Matmuls in all layouts and grouped, attention, two operators, AdamW, an all-reduce, copies; `slower` times the rule."""
    matmuls = list(product(_POWERS, _POWERS, _POWERS))
    attention = [(1.0, heads, heads, length, 128.0) for heads in (8.0, 32.0) for length in (512.0, 2048.0, 8192.0)]
    rows = [(rows, width) for rows in _POWERS for width in (1024.0, 4096.0)]
    axes = ("m", "k", "n")

    def slow(rule: Callable[..., float], factor: float = 1.0) -> Callable[..., float]:
        return lambda *at: slower * factor * rule(*at)

    return Profile(
        fingerprint=fingerprint(kind=kind),
        series=(
            series("matmul", "forward", format, axes, matmuls, slow(matmul_rule)),
            series("matmul", "input_gradient", format, axes, matmuls, slow(matmul_rule, 2.0)),
            series("matmul", "weight_gradient", format, axes, matmuls, slow(matmul_rule, 3.0)),
            series("matmul", "grouped_forward", format, (*axes, "groups"), [(*at, 8.0) for at in matmuls], slow(matmul_rule, 1.5)),
            series("attention", "forward", format, ("batch", "heads", "kv_heads", "length", "head_size"), attention, slow(attention_rule)),
            series("attention", "backward", format, ("batch", "heads", "kv_heads", "length", "head_size"), attention, slow(attention_rule, 3.0)),
            series("copy", "forward", format, ("rows", "width"), rows, slow(elements_rule)),
            series("eager_rmsnorm", "forward", format, ("rows", "width"), rows, slow(elements_rule, 4.0)),
            series("eager_rmsnorm", "backward", format, ("rows", "width"), rows, slow(elements_rule, 9.0)),
            series("adamw", "fused", "fp32", ("elements", "tensors"), [(2.0**power, 8.0) for power in range(16, 28, 2)], slow(lambda elements, _: elements_rule(elements, 5.0))),
            series("host_copy", "to_device-pinned", None, ("size_bytes",), [(2.0**power,) for power in range(16, 30, 2)], slow(lambda size: START_SECONDS + size / BYTES_PER_S)),
            series("host_copy", "to_host-pinned", None, ("size_bytes",), [(2.0**power,) for power in range(16, 30, 2)], slow(lambda size: START_SECONDS + 3 * size / BYTES_PER_S)),
            series(
                "all_reduce", "", None, ("size_bytes", "ranks_per_node", "nodes", "sharing"),
                [(2.0**power, 4.0, 1.0, 1.0) for power in range(12, 30, 3)], slow(lambda size, *_: 1e-5 + size / 1e9),
            ),
        ),
        figures={"host_seconds_per_kernel": Figure(value=8e-6, unit="s", meaning="host time to launch one kernel")},
    )  # fmt: skip
