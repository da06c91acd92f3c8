"""Why a plan is what it is: its neighbours under one change, sentences with numbers, and a second opinion by integer programs."""

from .certificate import certify
from .sentences import explain

__all__ = ["certify", "explain"]
