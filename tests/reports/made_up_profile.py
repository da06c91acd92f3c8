"""Profiles with round numbers: what each operation takes follows from a formula that a test can say again."""

from collections.abc import Callable, Sequence
from itertools import product

from shardwright.specs.profile import Curve, Figure, Format, LayerCheck, MachineFingerprint, Point, Profile, Series

PEAK_FLOPS_PER_S = {"fp32": 100e9, "bf16": 200e9}
MEMORY_BYTES_PER_S = 20e9
_SHAPE = {"elements_per_s": 1e15, "m_half": 1e-3, "k_half": 64.0, "n_half": 1e-3, "reach": 1.0, "noise": 0.1}
_PARTS = ("forward", "input_gradient", "weight_gradient")


def fingerprint(**changes: object) -> MachineFingerprint:
    """Two cores of a made-up processor, shared by one rank."""
    values: dict[str, object] = {
        "device": "Cray-1",
        "kind": "cpu",
        "device_memory_bytes": 8e9,
        "torch": "2.13.0+cpu",
        "python": "3.11.9",
        "host": "museum",
        "cores": 2,
        "threads": 2,
        "ranks": 1,
        "date": "2026-01-02T03:04:05+00:00",
    }
    return MachineFingerprint.model_validate(values | changes)


def point(at: Sequence[float], seconds: float, *, spread: float = 0.01) -> Point:
    """A point whose interval is `spread` of its median to either side."""
    low, high = seconds * (1 - spread), seconds * (1 + spread)
    return Point(at=tuple(at), seconds=seconds, low_seconds=low, high_seconds=high, repeats=9)


def matmul_seconds(m: float, k: float, n: float, format: str) -> float:
    """Half of the peak is reached at an inner size of 64, and a start takes 2 µs."""
    return 2e-6 + 2 * m * k * n * (1 + 64 / k) / PEAK_FLOPS_PER_S[format]


def matmul(part: str, format: Format, *, factor: float = 1.0, spread: float = 0.01) -> Series:
    """Twenty-seven shapes."""
    shapes = product((128, 512, 2048), (64, 256, 1024), (128, 512, 2048))
    return Series(
        operation="matmul",
        variant=part,
        format=format,
        axes=("m", "k", "n"),
        points=tuple(point(shape, factor * matmul_seconds(*shape, format), spread=spread) for shape in shapes),
        curve=Curve(
            form="matmul",
            parameters={"start_seconds": 2e-6, "flops_per_s": PEAK_FLOPS_PER_S[format], **_SHAPE},
            residual_median=0.021,
            residual_p90=0.083,
            left_out_median=0.034,
        ),
    )


def _attention(variant: str, format: Format) -> Series:
    times = 2.5 if variant == "backward" else 1.0
    return Series(
        operation="attention",
        variant=variant,
        format=format,
        axes=("batch", "heads", "kv_heads", "length", "head_size"),
        points=tuple(
            point(
                (1, 4, 4, length, head),
                times * (4e-6 + 2 * 4 * length * (length + 1) * head / (PEAK_FLOPS_PER_S[format] * head / (head + 32))),
            )
            for length, head in product((128, 512, 2048), (32, 64, 128))
        ),
    )


def _by_size(
    operation: str,
    variant: str,
    sizes: Sequence[Sequence[float]],
    seconds: Callable[..., float],
    axes: tuple[str, ...],
    format: Format | None = None,
) -> Series:
    return Series(
        operation=operation,
        variant=variant,
        format=format,
        axes=axes,
        points=tuple(point(size, seconds(*size)) for size in sizes),
    )


def profile(*, factor: float = 1.0, spread: float = 0.01, **changes: object) -> Profile:
    """One of everything; matmuls take `factor` times their time, every interval of theirs is `spread` wide."""
    rows_and_widths = list(product((128, 1024, 4096), (256, 1024)))
    kib = [2.0**exponent for exponent in range(12, 27, 3)]
    groups = [(size, 2.0, 1.0, 1.0) for size in kib] + [(size, 2.0, 2.0, 2.0) for size in kib]

    def moved(passes: float) -> Callable[[float, float], float]:
        return lambda rows, width: 3e-6 + 4 * passes * rows * width / MEMORY_BYTES_PER_S

    table = ("rows", "width")
    group = ("size_bytes", "ranks_per_node", "nodes", "sharing")
    values: dict[str, object] = {
        "fingerprint": fingerprint(),
        "series": (
            *(matmul(part, format, factor=factor, spread=spread) for format in ("fp32", "bf16") for part in _PARTS),
            *(_attention(variant, "fp32") for variant in ("forward", "backward")),
            _by_size("eager_rmsnorm", "forward", rows_and_widths, moved(6), table, "fp32"),
            _by_size("eager_rmsnorm", "backward", rows_and_widths, moved(14), table, "fp32"),
            _by_size("addition", "forward", rows_and_widths, moved(3), table, "fp32"),
            _by_size("cross_entropy", "forward", [(256, 4096), (2048, 4096)], moved(5), table, "fp32"),
            _by_size(
                "adamw",
                "fused",
                [(1e5, 4), (1e6, 4), (1e7, 4)],
                lambda n, _: 1e-5 + 28 * n / MEMORY_BYTES_PER_S,
                ("elements", "tensors"),
                "fp32",
            ),
            _by_size(
                "host_copy",
                "to_device-pageable",
                [(size,) for size in kib],
                lambda size: 1e-6 + size / 10e9,
                ("size_bytes",),
            ),
            _by_size(
                "host_copy",
                "to_host-pageable",
                [(size,) for size in kib],
                lambda size: 1e-6 + size / 8e9,
                ("size_bytes",),
            ),
            _by_size("disk_read", "direct", [(size,) for size in kib], lambda size: 1e-4 + size / 1e9, ("size_bytes",)),
            _by_size(
                "disk_write", "buffered", [(size,) for size in kib], lambda size: 1e-4 + size / 0.5e9, ("size_bytes",)
            ),
            _by_size("all_reduce", "", groups, lambda size, _, nodes, __: nodes * (5e-5 + size / 2e9), group),
        ),
        "figures": {
            "dispatch_seconds": Figure(
                value=3e-6, unit="s", meaning="one small operation under autograd", low=2.9e-6, high=3.1e-6
            ),
            "context_bytes": Figure(value=280 * 2**20, unit="B", meaning="a process before its first tensor"),
            "allocator_overhead": Figure(value=0.04, unit="share", meaning="reserved beyond allocated"),
        },
        "layers": (
            LayerCheck(
                model="tiny",
                seq_len=512,
                micro_batch=2,
                format="fp32",
                recompute="none",
                forward_seconds=0.010,
                backward_seconds=0.020,
                activation_bytes=10e6,
                predicted_forward_seconds=0.011,
                predicted_backward_seconds=0.019,
                predicted_activation_bytes=9.5e6,
            ),
        ),
        "remarks": ("other programs used the CPU: points repeat less tightly",),
        "seconds": 61.0,
    }
    return Profile.model_validate(values | changes)
