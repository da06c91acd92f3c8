"""The roofline of a profile: the rate of arithmetic against its FLOPs for each byte."""

from matplotlib.axes import Axes

from shardwright.base import units as readable
from shardwright.reports.figures import GREY, Paint, legend_right, logarithmic, mark
from shardwright.specs import Device, Profile

from .lines import known_device
from .work import family, memory_rate, work

Points = dict[str, list[tuple[float, float]]]


def arithmetic_points(profile: Profile) -> Points:
    """(FLOPs a byte, FLOP/s) of each matmul and attention, by operation and format; variants share a mark."""
    points: Points = {}
    for series in profile.series:
        if family(series.operation) not in ("matmul", "attention"):
            continue
        for point in series.points:
            done = work(series, point)
            if done is not None and done.flops > 0:
                label = f"{series.operation} {series.format or ''}".strip()
                points.setdefault(label, []).append((done.intensity, done.flops / point.seconds))
    return points


def roofline(profile: Profile) -> Paint:
    """FLOP/s against FLOPs for each byte. The slope is the measured memory bandwidth and the roof the best rate. The data
    sheet's peaks are dashed if the catalog knows the device. Points above the slope read from caches."""
    points, slope, device = arithmetic_points(profile), memory_rate(profile), known_device(profile.fingerprint)

    def paint(axes: Axes) -> None:
        best = max(y for pairs in points.values() for _, y in pairs)
        least = min(y for pairs in points.values() for _, y in pairs)
        xs = [x for pairs in points.values() for x, _ in pairs]
        low, high = min(xs) / 1.6, max(xs) * 1.6
        for place, (label, pairs) in enumerate(points.items()):
            x, y = zip(*pairs, strict=True)
            axes.scatter(x, y, s=16, alpha=0.7, linewidths=0, label=label, **mark(place))  # type: ignore[arg-type] # scatter takes any property
        if slope:
            low = min(low, best / slope / 4)
            _slope(axes, low, min(best / slope, high), slope)
        _roof(axes, max(low, best / slope) if slope else low, high, best)
        _data_sheet(axes, _peaks(points, device), high)
        axes.set_xlim(low, high)
        roofs = [best, *_peaks(points, device).values()]
        axes.set_ylim(min(least, low * slope if slope else least) / 1.4, max(roofs) * 1.5)
        logarithmic(axes, "FLOPs a byte of operands and results", "FLOP/s")
        legend_right(axes)

    return paint


def _slope(axes: Axes, low: float, bend: float, slope: float) -> None:
    axes.plot([low, bend], [low * slope, bend * slope], color=GREY, linewidth=1.3)
    middle = (low * bend) ** 0.5
    axes.annotate(
        f"memory {readable.amount(slope, 'B/s')}",
        (middle, middle * slope),
        xytext=(7, -3),
        textcoords="offset points",
        va="top",
        fontsize=8.5,
    )


def _roof(axes: Axes, low: float, high: float, best: float) -> None:
    axes.plot([low, high], [best, best], color=GREY, linewidth=1.3)
    _right_of(axes, high, best, f"best {readable.amount(best, 'FLOP/s')}", below=True)


def _peaks(points: Points, device: Device | None) -> dict[str, float]:
    """The data sheet's peaks of the measured formats."""
    formats = {label.rpartition(" ")[2] for label in points}
    return {name: peak for name, peak in device.peak_flops_per_s.items() if name in formats} if device else {}


def _data_sheet(axes: Axes, peaks: dict[str, float], high: float) -> None:
    for format, peak in peaks.items():
        axes.axhline(peak, color=GREY, linestyle="--", linewidth=0.9)
        _right_of(axes, high, peak, f"data sheet, {format}: {readable.amount(peak, 'FLOP/s')}", below=False)


def _right_of(axes: Axes, x: float, y: float, text: str, *, below: bool) -> None:
    axes.annotate(
        text,
        (x, y),
        xytext=(-2, -3 if below else 3),
        textcoords="offset points",
        ha="right",
        va="top" if below else "bottom",
        fontsize=8.5,
    )
