"""What of a plan lives on the host instead of the device."""

from typing import Self

from pydantic import model_validator

from shardwright.specs.spec import Fraction, Spec


class Offload(Spec):
    """What lives on the host instead of the device.

    `optimizer_fraction`: share of the optimizer (this rank's fp32 parameters, gradients and optimizer state, and the
    update itself) on the host. `nvme_fraction`: share of that part whose parameters and state lie on the drives of the host.
    `gradient_fraction`: share of the gradients that the host keeps while the microbatches of a step add to them; it is part of
    `optimizer_fraction`, and there is one data-parallel rank. `parameter_fraction`: share of the layers whose weights come from the
    host for each pass and leave the device after it (below ZeRO-3, which shards them instead). `delayed_update`: the host's update runs
    beside the passes of the next step, which read its parameters as they were before (ZeRO-Offload, arXiv 2101.06840, section 5.2: delayed parameter
    update). The training is then an approximation.
    """

    optimizer_fraction: Fraction = 0
    gradient_fraction: Fraction = 0
    parameter_fraction: Fraction = 0
    nvme_fraction: Fraction = 0
    delayed_update: bool = False

    @model_validator(mode="after")
    def _inside_the_optimizer(self) -> Self:
        if self.gradient_fraction > self.optimizer_fraction:
            raise ValueError(
                f"gradient_fraction {self.gradient_fraction:g} is more than optimizer_fraction {self.optimizer_fraction:g}: gradients on the "
                "host are those that it updates; lower the first, or raise the second"
            )
        if self.nvme_fraction and not self.optimizer_fraction:
            raise ValueError(
                f"nvme_fraction {self.nvme_fraction:g} is a share of the optimizer on the host, and optimizer_fraction is 0; set it, or "
                "leave nvme_fraction out"
            )
        if self.delayed_update and not self.optimizer_fraction:
            raise ValueError(
                "delayed_update delays the host's update, and optimizer_fraction is 0; set it, or leave delayed_update out"
            )
        if self.delayed_update and self.nvme_fraction:
            raise ValueError(
                f"delayed_update keeps parameters of two steps in the host's memory, and nvme_fraction {self.nvme_fraction:g} has them on its "
                "drives; leave out one of them"
            )
        return self

    @property
    def optimizer_place(self) -> str:
        """Where the optimizer is: `on the device`, `on the host` or `62.5% on the host`."""
        if self.optimizer_fraction in (0, 1):
            return "on the host" if self.optimizer_fraction else "on the device"
        return f"{100 * self.optimizer_fraction:.3g}% on the host"

    @property
    def others(self) -> list[str]:
        """What else leaves the device, in words: `gradients on the host`, `12.5% of the layers' weights streamed from the host`."""
        found = []
        if self.gradient_fraction:
            found.append(f"{_percent(self.gradient_fraction)}gradients on the host")
        if self.parameter_fraction:
            part = "" if self.parameter_fraction == 1 else f"{100 * self.parameter_fraction:.3g}% of "
            found.append(f"{part}the layers' weights streamed from the host")
        if self.nvme_fraction:
            part = "" if self.nvme_fraction == 1 else f"{100 * self.nvme_fraction:.3g}% of "
            found.append(f"{part}its optimizer state on drives")
        if self.delayed_update:
            found.append("the host's update one step late (approximate)")
        return found


def _percent(share: float) -> str:
    return "" if share == 1 else f"{100 * share:.3g}% of "
