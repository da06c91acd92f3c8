"""Measured collectives: the catalog's algorithm with its latency and its rate scaled to the measurements."""

from dataclasses import dataclass
from typing import Self

import numpy as np

from shardwright.base import Array, FloatArray, Number
from shardwright.specs import RankGroup, Series

from .datasheet import CatalogTimes
from .fitting import Interpolation
from .protocol import CollectiveName

_REACH, _NOISE = 2.0, 0.1


@dataclass(frozen=True)
class _Scales:
    """Factors on the catalog's latency and on its transfer time, and an interpolation of their residuals."""

    latency: float
    transfer: float
    around: Interpolation


@dataclass(frozen=True)
class ScaledCollective:
    """One collective. Groups inside a node and across nodes have separate scales, because they use different links."""

    name: CollectiveName
    catalog: CatalogTimes
    inside: _Scales | None
    across: _Scales | None

    @classmethod
    def fit(cls, name: CollectiveName, series: Series, catalog: CatalogTimes) -> Self:
        """Fit points of sizes (size_bytes, ranks_per_node, nodes, sharing), by least squares of the relative error."""
        sizes = np.array([point.at for point in series.points], dtype=float)
        seconds = np.array([point.seconds for point in series.points])
        crosses = sizes[:, 2] > 1
        inside, across = (_scales(name, catalog, sizes[part], seconds[part]) for part in (~crosses, crosses))
        return cls(name, catalog, inside, across)

    def seconds(self, size_bytes: Number, group: RankGroup) -> Array:
        """Seconds as in `OpTimes.collective_seconds`. Kinds of groups without measurements use the catalog."""
        latency, transfer = _parts(self.name, self.catalog, size_bytes, group)
        sizes = (np.maximum(size_bytes, 1.0), group.ranks_per_node, group.nodes, group.sharing)

        def scaled(scales: _Scales | None) -> Array:
            if scales is None:
                return latency + transfer
            return (scales.latency * latency + scales.transfer * transfer) * scales.around.factor(*sizes)

        seconds = np.where(np.asarray(group.nodes) > 1, scaled(self.across), scaled(self.inside))
        return np.where(group.ranks > 1, seconds, 0.0)


def _scales(name: CollectiveName, catalog: CatalogTimes, sizes: FloatArray, seconds: FloatArray) -> _Scales | None:
    from scipy.optimize import nnls  # here: only plans with a profile need it

    if not len(seconds):
        return None
    size_bytes, *group = sizes.T
    parts = np.stack(_parts(name, catalog, size_bytes, RankGroup(*group)), axis=1)
    (latency, transfer), _ = nnls(parts / seconds[:, None], np.ones_like(seconds))
    # parts that no point depends on stay as in the catalog
    latency, transfer = (scale if scale > 0 else 1.0 for scale in (latency, transfer))
    base = parts @ np.array([latency, transfer])
    return _Scales(float(latency), float(transfer), Interpolation(sizes, np.log(seconds / base), _REACH, _NOISE))


def _parts(name: CollectiveName, catalog: CatalogTimes, size_bytes: Number, group: RankGroup) -> tuple[Array, Array]:
    """Return the catalog's seconds of an empty message, and the seconds that the bytes add."""
    latency = catalog.collective_seconds(name, np.zeros_like(np.asarray(size_bytes, dtype=float)), group)
    return latency, catalog.collective_seconds(name, size_bytes, group) - latency
