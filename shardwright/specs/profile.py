"""The profile: measured costs of operations on one machine. The profiler writes it, the cost model reads it."""

import json
import re
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from shardwright.base import write_whole

from .spec import NonNegativeFloat, PositiveFloat, PositiveInt, Spec, read_document

SCHEMA_VERSION: Literal[1] = 1

Format = Literal["fp32", "tf32", "fp16", "bf16", "fp8"]


class Point(Spec):
    """One measured size. `at`: along the axes of its series. `seconds`: the median of `repeats` repeats; `low_seconds` and
    `high_seconds`: the 95% confidence interval of that median."""

    at: tuple[PositiveFloat, ...] = Field(min_length=1)
    seconds: PositiveFloat
    low_seconds: PositiveFloat
    high_seconds: PositiveFloat
    repeats: PositiveInt

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not self.low_seconds <= self.seconds <= self.high_seconds:
            raise ValueError(
                f"seconds {self.seconds:.4g} are outside their interval, {self.low_seconds:.4g} to {self.high_seconds:.4g}"
            )
        return self

    @property
    def uncertainty(self) -> float:
        """The farther end of the interval from the median, as a share of the median."""
        return max(self.high_seconds - self.seconds, self.seconds - self.low_seconds) / self.seconds


class Curve(Spec):
    """A physical curve fitted to the points of a series (see curves.py for the forms and their parameters).

    `residual_median` and `residual_p90`: median and 90th percentile of |fitted / measured - 1|. `left_out_median`: the
    median for points that the fit and the interpolation had not seen, a fifth at a time; None with too few points.
    """

    form: str
    parameters: dict[str, float]
    residual_median: NonNegativeFloat
    residual_p90: NonNegativeFloat
    left_out_median: NonNegativeFloat | None = None


class Series(Spec):
    """Points of one operation in one format and variant.

    `axes` name the sizes of each point, e.g. ("m", "k", "n"). `format` is None where the operation has none (a copy).
    """

    operation: str = Field(min_length=1)
    variant: str = ""
    format: Format | None = None
    axes: tuple[str, ...] = Field(min_length=1)
    points: tuple[Point, ...] = ()
    curve: Curve | None = None

    @property
    def key(self) -> str:
        """Unique in a profile: `matmul/forward/bf16`."""
        return "/".join(part for part in (self.operation, self.variant, self.format) if part)

    @model_validator(mode="after")
    def _sizes_have_axes(self) -> Self:
        for point in self.points:
            if len(point.at) != len(self.axes):
                raise ValueError(f"{self.key}: a point has {len(point.at)} sizes for {len(self.axes)} axes {self.axes}")
        return self


class Figure(Spec):
    """One measured number, with its unit and the observed spread."""

    value: NonNegativeFloat
    unit: str
    meaning: str
    low: NonNegativeFloat | None = None
    high: NonNegativeFloat | None = None


class LayerCheck(Spec):
    """One real transformer layer of a model: measured, and predicted as the sum of its operators.

    Seconds are of one microbatch; `activation_bytes`: what autograd keeps of it.
    """

    model: str
    seq_len: PositiveInt
    micro_batch: PositiveInt
    format: Format
    recompute: Literal["none", "selective", "full"]
    forward_seconds: PositiveFloat
    backward_seconds: PositiveFloat
    activation_bytes: NonNegativeFloat
    predicted_forward_seconds: PositiveFloat
    predicted_backward_seconds: PositiveFloat
    predicted_activation_bytes: NonNegativeFloat


class MachineFingerprint(Spec):
    """What a profile was measured on. `ranks` measured at once on `nodes` nodes, each with `threads` host threads.

    `cores`: those of a node. `clock_hz`: the device's clock while it computed; None if unknown.
    """

    device: str = Field(min_length=1)
    kind: Literal["gpu", "cpu"]
    device_memory_bytes: PositiveFloat
    driver: str | None = None
    cuda: str | None = None
    torch: str
    python: str
    clock_hz: PositiveFloat | None = None
    host: str
    cores: PositiveInt
    threads: PositiveInt
    ranks: PositiveInt
    nodes: PositiveInt = 1
    date: str

    @property
    def has_own_memory(self) -> bool:
        """Whether the device's memory is apart from its host's, so that copies between the two are page-locked."""
        return self.kind == "gpu"

    @property
    def is_launched_ahead(self) -> bool:
        """Whether the host launches kernels while earlier ones run. Times of a CPU include their dispatch."""
        return self.kind == "gpu"

    @property
    def shared_by_ranks(self) -> bool:
        """Whether the ranks of a node share the device, so that its figures hold for their number alone."""
        return self.kind == "cpu"


class Profile(Spec):
    """Measured tables and fitted curves of one machine, with its fingerprint.

    `remarks`: notes for the reader, such as noise, throttling, and what was left out and why. `complete`: whether everything
    requested was measured. `seconds`: how long measuring took.
    """

    kind: Literal["shardwright-profile"] = "shardwright-profile"
    schema_version: Literal[1] = SCHEMA_VERSION
    fingerprint: MachineFingerprint
    series: tuple[Series, ...] = ()
    figures: dict[str, Figure] = Field(default_factory=dict)
    layers: tuple[LayerCheck, ...] = ()
    remarks: tuple[str, ...] = ()
    complete: bool = True
    seconds: NonNegativeFloat = 0.0

    @model_validator(mode="after")
    def _one_series_a_key(self) -> Self:
        keys = [series.key for series in self.series]
        if twice := {key for key in keys if keys.count(key) > 1}:
            raise ValueError(f"series {', '.join(sorted(twice))} is there twice")
        return self

    def find(self, operation: str, variant: str = "", format: Format | None = None) -> Series | None:
        """The series with points of that key; None where there is none."""
        return next(
            (
                each
                for each in self.series
                if each.points and (each.operation, each.variant, each.format) == (operation, variant, format)
            ),
            None,
        )

    @property
    def points(self) -> int:
        """How many points were measured."""
        return sum(len(series.points) for series in self.series)


def read_profile(path: Path) -> Profile:
    """Read a profile file.

    Raises:
        SpecError: the file is no profile file, has a newer schema, or is not valid.
    """
    make = f"measure one with 'shardwright profile --out {path.name}'"
    return read_document(Profile, path, name="profile", make=make, again="measure again")


def write_profile(path: Path, profile: Profile) -> None:
    """Write a profile file whole or not at all; an existing file is replaced only by a complete one.

    Raises:
        SpecError: the folder is missing or not writable, or the disk is full.
    """
    write_whole(path, profile_text(profile))


def profile_text(profile: Profile) -> str:
    """The file's text: indented, each point on a line of its own."""
    data = profile.model_dump(mode="json")
    rows: list[str] = []
    for series in data["series"]:
        for index, point in enumerate(series["points"]):
            series["points"][index] = f"@{len(rows)}@"
            rows.append(json.dumps(point, allow_nan=False))
    text = json.dumps(data, indent=1, allow_nan=False)
    return re.sub('"@([0-9]+)@"', lambda mark: rows[int(mark[1])], text) + "\n"
