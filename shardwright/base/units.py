"""Numbers for people: three significant digits and a unit that suits them."""

import math

_BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_DECIMAL = ("", "k", "M", "G", "T", "P", "E")
_SHORT_SECONDS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))


def seconds(value: float) -> str:
    """`12.3 s`, `45.6 ms`, `2 h 05 min` from 100 minutes on."""
    if value >= 6000:
        hours, minutes = divmod(round(value / 60), 60)
        return f"{hours} h {minutes:02d} min"
    for size, unit in _SHORT_SECONDS:
        if value >= size:
            return f"{number(value / size)} {unit}"
    return "0 s" if value == 0 else f"{number(value / 1e-9)} ns"


def days(value_seconds: float) -> str:
    """A long span: `12.3 days` from two days on, else as `seconds`."""
    return f"{number(value_seconds / 86400)} days" if value_seconds >= 2 * 86400 else seconds(value_seconds)


def size(value_bytes: float) -> str:
    """Bytes in binary units: `71.9 GiB`."""
    exponent = 0 if value_bytes < 1 else min(int(math.log(value_bytes, 1024)), len(_BINARY) - 1)
    return f"{number(value_bytes / 1024**exponent)} {_BINARY[exponent]}"


def amount(value: float, unit: str = "") -> str:
    """A count or rate with a decimal prefix: `70.6 G`, `989 TFLOP/s`."""
    exponent = 0 if value < 1000 else min(int(math.log10(value) // 3), len(_DECIMAL) - 1)
    return f"{number(value / 1000**exponent)} {_DECIMAL[exponent]}{unit}".rstrip()


def count(value: float) -> str:
    """A whole number with thousands separated: `412,345`."""
    return f"{value:,.0f}"


def share(value: float) -> str:
    """A fraction of one as a percentage: `41.2%`."""
    return f"{100 * value:.1f}%"


def signed_share(value: float) -> str:
    """A relative error: `+12.3%`."""
    return f"{100 * value:+.1f}%"


def number(value: float) -> str:
    """`0.00953`, `1.18`, `31.1`, `311`: three significant digits, more for whole numbers, two between 0.1 and 1."""
    if 0 < value < 0.1:
        return f"{value:.3g}"
    if value >= 99.95:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"
