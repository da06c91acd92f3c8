"""Checks whether this torch and this machine can run a piece of work."""

from collections.abc import Callable

import torch
from torch import Tensor

from .probe import UnavailableError, Work


def tried(make: Callable[[], Work], what: str) -> Work:
    """Return the result of `make` after it ran once.

    Raises:
        UnavailableError: it cannot be made, or does not run; one line names it and the reason.
    """
    try:
        work = make()
        work()
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, NotImplementedError, ValueError, TypeError, AttributeError) as error:
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise UnavailableError(f"{what}: {reason[:200]}") from None
    return work


def available(name: str, *holders: object) -> Callable[..., Tensor]:
    """Return the function `name` of the first of `holders` that has it. Versions of torch move and rename functions.

    Raises:
        UnavailableError: none has it.
    """
    for holder in holders:
        for spelled in (name, f"_{name}"):
            if callable(function := getattr(holder, spelled, None)):
                return function  # type: ignore[no-any-return]  # looked up by name
    raise UnavailableError(f"torch {torch.__version__} has no {name}")
