"""What the optimizer of a plan needs of this machine and of the plan, before anything starts."""

from importlib.util import find_spec

from shardwright.base import SpecError
from shardwright.costmodel import PlanFile, off_device
from shardwright.costmodel import check_optimizer as check_method
from shardwright.specs import Optimizer

_MODULES = {"torchao": "torchao", "pytorch-optimizer": "pytorch_optimizer"}
_EXTRAS = {"torchao": "eight-bit", "pytorch-optimizer": "optimizers"}  # of pyproject.toml


def check_optimizer(plan_file: PlanFile) -> None:
    """Check that the optimizer updates the model where the plan has it, and that the package that runs it is here.

    Raises:
        SpecError: it does not, or the package is not; says what to give or how to get it.
    """
    training = plan_file.training
    optimizer = training.method
    check_method(plan_file.model(), training)
    if plan_file.plan.offload.optimizer_fraction and not optimizer.may_leave_device:
        raise SpecError(off_device(training))
    package = optimizer.needs_package
    if package is not None and find_spec(_MODULES[package]) is None:
        raise SpecError(
            f"optimizer {optimizer} is run by {package}, which is not installed; "
            f"pip install '.[{_EXTRAS[package]}]', or plan with adamw"
        )


def check_clipping(optimizer: Optimizer, clip_norm: float | None) -> None:
    """Check that an optimizer that updates in the backward pass is not to wait for the norm of all gradients.

    Raises:
        SpecError: it is.
    """
    if optimizer.layerwise and clip_norm is not None:
        raise SpecError(
            f"optimizer {optimizer} updates a layer before the norm of all gradients is known, and clip_norm {clip_norm:g} waits for it; "
            "give --clip-norm 0, or plan without layerwise=1"
        )
