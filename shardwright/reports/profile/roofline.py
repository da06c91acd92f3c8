"""The roofline of a profile: the rate of arithmetic against its FLOPs for each byte."""

from shardwright.base import units as readable
from shardwright.reports.charts import Axis, Curve, Lines, Mark, series
from shardwright.specs import Device, Profile

from .lines import known_device
from .work import family, memory_rate, work

Points = dict[str, list[tuple[float, float]]]
_MARGIN = 1.6  # of the range of points, to each side


def arithmetic_points(profile: Profile) -> Points:
    """(FLOPs a byte, FLOP/s) of each matmul and attention, by operation and format; variants share a mark."""
    points: Points = {}
    for one in profile.series:
        if family(one.operation) not in ("matmul", "attention"):
            continue
        for point in one.points:
            done = work(one, point)
            if done is not None and done.flops > 0:
                label = f"{one.operation} {one.format or ''}".strip()
                points.setdefault(label, []).append((done.intensity, done.flops / point.seconds))
    return points


def roofline(profile: Profile) -> Lines:
    """FLOP/s against FLOPs for each byte. The slope is the measured memory bandwidth and the roof the best rate. The data
    sheet's peaks are marks if the catalog knows the device. Points above the slope read from caches."""
    points, slope = arithmetic_points(profile), memory_rate(profile)
    best = max(y for pairs in points.values() for _, y in pairs)
    xs = [x for pairs in points.values() for x, _ in pairs]
    low, high = min(xs) / _MARGIN, max(xs) * _MARGIN
    guides = []
    if slope:
        low = min(low, best / slope / 4)
        bend = min(best / slope, high)
        ends = ((low, low * slope), (bend, bend * slope))
        guides.append(Curve(f"memory {readable.amount(slope, 'B/s')}", "other", ends))
    roof = ((max(low, best / slope) if slope else low, best), (high, best))
    guides.append(Curve(f"best {readable.amount(best, 'FLOP/s')}", "chosen", roof))
    return Lines(
        x=Axis(name="FLOPs a byte of operands and results", logarithmic=True),
        y=Axis(name="FLOP/s", logarithmic=True),
        curves=(
            *(
                Curve(label, series(place), tuple(pairs), loose=True)
                for place, (label, pairs) in enumerate(points.items())
            ),
            *guides,
        ),
        marks=tuple(
            Mark(f"data sheet, {format}: {readable.amount(peak, 'FLOP/s')}", peak)
            for format, peak in _peaks(points, known_device(profile.fingerprint)).items()
        ),
    )


def _peaks(points: Points, device: Device | None) -> dict[str, float]:
    """The data sheet's peaks of the measured formats."""
    formats = {label.rpartition(" ")[2] for label in points}
    return {name: peak for name, peak in device.peak_flops_per_s.items() if name in formats} if device else {}
