"""The plans that a row can mean: its mesh, schedule and batch, and the usual choices for what it leaves open."""

from .axes import routing_of_row
from .plans import Reading, RowPlans, plans_of_row
from .work import with_work

__all__ = ["Reading", "RowPlans", "plans_of_row", "routing_of_row", "with_work"]
