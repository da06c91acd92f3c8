"""One accelerator, or one CPU rank's share of a host: its figures and what kind of device it is."""

from typing import Annotated, Literal

from pydantic import Field

from .spec import Capacity, Latency, NonNegativeFloat, PositiveFloat, PositiveInt, Rate, Spec

Generation = Literal[
    "pascal", "volta", "turing", "ampere", "ada", "hopper", "blackwell", "blackwell-ultra", "blackwell-rtx"
]
DeviceFormat = Literal["fp32", "tf32", "bf16", "fp16", "fp8", "fp4"]
_FLOPS_PER_EXPONENTIAL = 128


class Device(Spec):
    """One accelerator (or one CPU rank's share of a host), by its data sheet.

    Peaks are dense, in FLOP/s, per compute format. For a CPU they are measured matmul rates, which include efficiency.
    `matmul_share`: matmul rate of the best shape over the peak, at the full clock if `matmul_watts` says what the clock falls
    to, otherwise as it is sustained; `matmul_share_by_format` for formats that differ from bf16.
    `power_watts`: its power limit. `matmul_watts`: power that matmuls would draw at the clock of the peak, by format.
    `exponentials_per_s`: of its special function units at that clock; None for an Ampere's ratio to the peak.
    `attention_flops_per_s`: measured rates of fused causal attention, forward and backward, counting the causal half;
    empty where the cost model derives them from the peak.
    `keeps_clock`: its power limit leaves it the full clock under matmuls, whatever `matmul_watts` says.
    `launch_seconds`: the least time between two kernel starts; for a CPU the dispatch time of one small operation.
    `memory_reserve`: share of the memory that a plan leaves free; None for the cost model's own. `context_bytes`: what a
    process holds before its first tensor. `generation`: where peaks don't tell it (see
    `since_hopper`). `sources`: the source of each figure, by field.
    """

    name: str = Field(min_length=1)
    kind: Literal["gpu", "cpu"] = "gpu"
    memory_bytes: Capacity
    memory_bytes_per_s: Rate
    peak_flops_per_s: dict[DeviceFormat, Rate] = Field(min_length=1)
    matmul_share: Annotated[PositiveFloat, Field(le=1)] = 0.80
    matmul_share_by_format: dict[DeviceFormat, Annotated[PositiveFloat, Field(le=1)]] = Field(default_factory=dict)
    attention_flops_per_s: dict[DeviceFormat, Rate] = Field(default_factory=dict)
    power_watts: PositiveFloat | None = None
    matmul_watts: dict[DeviceFormat, PositiveFloat] = Field(default_factory=dict)
    exponentials_per_s: Rate | None = None
    keeps_clock: bool = False
    multiprocessors: PositiveInt = 1
    launch_seconds: Latency = 0.0
    memory_reserve: Annotated[NonNegativeFloat, Field(lt=1)] | None = None
    context_bytes: NonNegativeFloat = 0.0
    generation: Generation | None = None
    sources: dict[str, str] = Field(default_factory=dict)

    @property
    def has_own_memory(self) -> bool:
        """Whether the device's memory is apart from its host's, held by a caching allocator, with buffers for each communicator.

        A CPU rank lives in its process's heap.
        """
        return self.kind == "gpu"

    @property
    def waits_for_the_slowest(self) -> bool:
        """Whether ranks differ by chance from step to step, each with a clock of its own. CPU ranks share one machine."""
        return self.kind == "gpu"

    @property
    def computes_beside_traffic(self) -> bool:
        """Whether collectives and copies run beside compute. On a CPU they need the same cores."""
        return self.kind == "gpu"

    @property
    def is_launched_ahead(self) -> bool:
        """Whether the host launches kernels while earlier ones run. On a CPU the same cores launch and compute."""
        return self.kind == "gpu"

    @property
    def rates_include_efficiency(self) -> bool:
        """Whether peaks and memory bandwidth are sustained rates, as a CPU's are. Those of a GPU are from its data sheet."""
        return self.kind == "cpu"

    @property
    def collective_library(self) -> Literal["nccl", "gloo"]:
        """The library of collectives between such devices: NCCL (RCCL) between GPUs, gloo between CPUs."""
        return "nccl" if self.kind == "gpu" else "gloo"

    @property
    def torch_type(self) -> Literal["cuda", "cpu"]:
        """Torch's name of this kind of device; a GPU of AMD has the same name."""
        return "cuda" if self.kind == "gpu" else "cpu"

    @property
    def since_hopper(self) -> bool:
        """Whether this is a GPU of Hopper's generation or a later one: as `generation` says, else by its peak in 16 bits, which
        is 989 TFLOP/s for an H100 SXM and 312 for an A100."""
        if self.generation is not None:
            return self.generation == "hopper" or self.is_blackwell
        return max(self.peak_flops_per_s.get(name, 0.0) for name in ("bf16", "fp16")) > 500e12

    @property
    def is_blackwell(self) -> bool:
        """Whether `generation` says that this is a data-center GPU of Blackwell's generation."""
        return self.generation in ("blackwell", "blackwell-ultra")

    @property
    def exponential_rate(self) -> float:
        """Exponentials/s. Where nobody says: a 128th of the peak in 16 bits, as 16 beside 2048 FLOPs a clock on an A100."""
        if self.exponentials_per_s is not None:
            return self.exponentials_per_s
        peaks = self.peak_flops_per_s
        return max(peaks.get("bf16", 0.0), peaks.get("fp16", 0.0), peaks.get("fp32", 0.0)) / _FLOPS_PER_EXPONENTIAL

    def best_matmul_share(self, peak_format: DeviceFormat) -> float:
        """Matmul rate of the best shape over the peak of `peak_format`, at the full clock or as sustained (`matmul_share`)."""
        return self.matmul_share_by_format.get(peak_format, self.matmul_share)

    def matmul_clock(self, peak_format: DeviceFormat) -> float:
        """Clock under sustained matmuls in `peak_format` over the clock of the peak.

        Voltage follows the clock, so that dynamic power grows with its cube: (limit / draw at the full clock)^(1/3). Formats
        that `matmul_watts` lacks draw what bf16 does: fp16 on the same units, tf32 at half the rate.
        """
        draw = self.matmul_watts.get(peak_format, self.matmul_watts.get("bf16"))
        if self.keeps_clock or self.power_watts is None or draw is None:
            return 1.0
        return float(min(1.0, (self.power_watts / draw) ** (1 / 3)))
