"""What the optimizer of a plan needs of this machine and of the plan, before anything starts."""

from importlib.util import find_spec

from shardwright.base import SpecError
from shardwright.specs import Optimizer

_MODULES = {"torchao": "torchao", "pytorch-optimizer": "pytorch_optimizer"}


def check_optimizer(optimizer: Optimizer) -> None:
    """Check that the package that runs it is here.

    Raises:
        SpecError: it is not; says how to get it.
    """
    package = optimizer.needs_package
    if package is not None and find_spec(_MODULES[package]) is None:
        raise SpecError(
            f"optimizer {optimizer} is run by {package}, which is not installed; pip install 'shardwright[optimizers]', or plan with adamw"
        )
