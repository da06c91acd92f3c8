"""What the engine holds, by kind of tensor and by place, within the limit of each place."""

import math
import threading
from collections.abc import Mapping
from typing import Literal

from shardwright.base import RunFailedError, units

Place = Literal["device", "host", "nvme"]
Kind = Literal["parameters", "gradients", "optimizer_state", "activations", "buffers"]


class Ledger:
    """Bytes that are held now and their peaks. Memory is asked for here before it is taken.

    `limits`: the largest sum of bytes of a place; a place without a limit is only counted.
    """

    def __init__(self, limits: Mapping[Place, float]) -> None:
        self.limits = dict(limits)
        self._lock = threading.Lock()
        self._held: dict[tuple[Kind, Place], int] = {}
        self._peaks: dict[tuple[Kind, Place], int] = {}
        self._sums: dict[Place, int] = {}
        self._sum_peaks: dict[Place, int] = {}

    def takes(self, kind: Kind, place: Place, size_bytes: int) -> bool:
        """Count `size_bytes` as held if they are within the limit of the place; return whether they are."""
        with self._lock:
            total = self._sums.get(place, 0) + size_bytes
            if total > self.limits.get(place, math.inf):
                return False
            self._sums[place] = total
            self._sum_peaks[place] = max(total, self._sum_peaks.get(place, 0))
            held = self._held.get((kind, place), 0) + size_bytes
            self._held[kind, place] = held
            self._peaks[kind, place] = max(held, self._peaks.get((kind, place), 0))
            return True

    def take(self, kind: Kind, place: Place, size_bytes: int) -> None:
        """Count `size_bytes` as held.

        Raises:
            RunFailedError: they would pass the limit.
        """
        if not self.takes(kind, place, size_bytes):
            raise RunFailedError(
                f"{kind} of {units.size(size_bytes)} on the {place} would pass the plan's {units.size(self.limits[place])}, of which "
                f"{units.size(self._sums.get(place, 0))} are held; plan with less offload"
            )

    def give_back(self, kind: Kind, place: Place, size_bytes: int) -> None:
        """Count `size_bytes` as held no longer."""
        with self._lock:
            self._sums[place] -= size_bytes
            self._held[kind, place] -= size_bytes

    def left_bytes(self, place: Place) -> float:
        """Return the bytes of the place that may still be taken."""
        with self._lock:
            return self.limits.get(place, math.inf) - self._sums.get(place, 0)

    def peak_bytes(self, place: Place) -> int:
        """Return the most bytes that the place held at once."""
        return self._sum_peaks.get(place, 0)

    @property
    def peaks(self) -> Mapping[tuple[Kind, Place], int]:
        """The most bytes of each kind in each place."""
        return dict(self._peaks)
