"""Fused attention from data sheets: matmuls, exponentials and the clock that the power limit leaves."""

from dataclasses import dataclass

import numpy as np

from shardwright.base import Array, Number
from shardwright.specs import Device, TrainingSpec

from .constants import Constants, Value, over
from .passes import ATTENTION_BACKWARD

_FORWARD_FLOPS = 4  # of each score and element of a head: two matmuls
_BLACKWELL_WIDTH = 2  # FLOPs a clock of a multiprocessor, over those of Hopper


@dataclass(frozen=True)
class AttentionKernelTimes:
    """The main kernel of fused causal attention on `device`, in the compute format of `training`, for long sequences.

    A score costs 4d FLOPs (10d backward) and one exponential, with d the head size. At the full clock

        T = max(matmuls / reach + softmax x exponentials, exponentials)

    `matmuls`: their time at the rate of the best shape. `reach`: the part of that rate which the kernel's instructions and its
    backward pass reach. `softmax`: what no matmul hides, in times of the exponentials: they and the arithmetic around them.
    The matrix units work for a part of T, so that the power limit leaves a higher clock than under matmuls alone
    (`Device.matmul_clock`): power grows with the units' work and with the cube of the clock.
    """

    device: Device
    training: TrainingSpec
    constants: Constants

    def seconds(self, flops: Array, head_size: Number, *, backward: bool) -> Array:
        """Seconds of causal `flops`, shape (...), for heads of `head_size` elements."""
        compute = self.training.precision.compute
        matmuls = flops / (self.device.peak_flops_per_s[compute] * self.device.best_matmul_share(compute))
        scores = flops / (_FORWARD_FLOPS * np.asarray(head_size, dtype=float) * (ATTENTION_BACKWARD if backward else 1))
        exponentials = scores / self.device.exponential_rate
        reach = self._reach
        if backward:
            reach = reach * self.constants.attention_backward_fraction
        exposed = over(self._softmax, flops) * exponentials
        full = np.maximum(matmuls / over(reach, flops) + exposed, exponentials)
        clock = self.device.matmul_clock(compute)
        if clock == 1:
            return np.asarray(full)
        work = matmuls / np.maximum(full, np.finfo(float).tiny)
        return np.asarray(full / np.minimum(1.0, clock / np.cbrt(np.maximum(work, np.finfo(float).tiny))))

    @property
    def _of_its_generation(self) -> bool:
        """Whether the kernel is written for a GPU of Hopper's generation or a later one, and runs there."""
        return self.training.software.attention_kernel == "flash-3" and self.device.since_hopper

    @property
    def _softmax(self) -> Value:
        if not self._of_its_generation:
            return self.constants.flash_2_softmax
        return self.constants.blackwell_softmax if self.device.is_blackwell else self.constants.flash_3_softmax

    @property
    def _reach(self) -> Value:
        """Instructions of Ampere do as much for each multiprocessor and clock on Blackwell as on Hopper."""
        constants = self.constants
        reach: Value = 1.0
        if self.training.software.attention_kernel == "flash-1":
            reach = constants.flash_1_fraction
        if self._of_its_generation or not self.device.since_hopper:
            return reach
        wider = _BLACKWELL_WIDTH if self.device.is_blackwell else 1
        return reach * constants.older_kernel_fraction / wider
