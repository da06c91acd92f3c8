"""The sizes at which operations are measured: those of a model, those that span models, and those between."""

from .interpolation_error import left_out_errors, predicted_seconds
from .linears import Linear, family_experts, family_linears
from .models import Usage
from .operators import family_attention, family_latent_attention, family_operator
from .spread import model_first, size_between, spread_first

__all__ = [
    "Linear",
    "Usage",
    "family_attention",
    "family_experts",
    "family_latent_attention",
    "family_linears",
    "family_operator",
    "left_out_errors",
    "model_first",
    "predicted_seconds",
    "size_between",
    "spread_first",
]
