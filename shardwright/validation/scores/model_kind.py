"""The kind of a model, by which errors are grouped."""

from shardwright.specs.model import MixtureOfExperts, ModelSpec

# upper ends of the size classes in parameters, including experts; models above the last form one more class
_CLASSES = ((1e9, "below 1B"), (4e9, "1B to 4B"), (1e10, "4B to 10B"), (4e10, "10B to 40B"), (1e11, "40B to 100B"))
_LARGEST = "above 100B"


def model_kind(model: ModelSpec) -> str:
    """`dense, 4B to 10B` or `experts, above 100B`: whether it has experts, and its size class."""
    experts = any(isinstance(run.block.ffn, MixtureOfExperts) for run in model.blocks)
    size = next((name for end, name in _CLASSES if model.parameter_count < end), _LARGEST)
    return f"{'experts' if experts else 'dense'}, {size}"
