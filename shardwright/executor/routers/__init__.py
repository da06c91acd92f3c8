"""The loss on routers that balances their experts, as transformers' classes have it."""

from .check import check_router_loss
from .losses import RouterLoss, RouterSpec, load_balancing_loss, router_spec, sums_of

__all__ = ["RouterLoss", "RouterSpec", "check_router_loss", "load_balancing_loss", "router_spec", "sums_of"]
