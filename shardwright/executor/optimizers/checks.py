"""What the optimizer of a plan needs of this machine and of the plan, before anything starts."""

from importlib.util import find_spec

from shardwright.base import SpecError
from shardwright.costmodel import PlanFile, off_device
from shardwright.costmodel import check_optimizer as check_method

_MODULES = {"torchao": "torchao", "pytorch-optimizer": "pytorch_optimizer"}


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
            f"optimizer {optimizer} is run by {package}, which is not installed; pip install 'shardwright[optimizers]', or plan with adamw"
        )
