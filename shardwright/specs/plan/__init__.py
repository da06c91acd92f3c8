"""The plan: every choice for a run, the layers of its stages, what leaves the device, and replicas in several groups."""

from .offload import Offload
from .plan import (
    CONTEXT_PARALLEL,
    EXPERT_DISPATCH,
    VOCABULARY,
    ContextParallel,
    ExpertDispatch,
    Plan,
    VocabularyParallel,
)
from .stage import (
    PLAIN_STRATEGIES,
    POLICIES,
    LayerRun,
    RecomputePolicy,
    Replicas,
    Stage,
    Strategy,
    ZeroStage,
    strategies_of,
)

__all__ = [
    "CONTEXT_PARALLEL",
    "EXPERT_DISPATCH",
    "PLAIN_STRATEGIES",
    "POLICIES",
    "VOCABULARY",
    "ContextParallel",
    "ExpertDispatch",
    "LayerRun",
    "Offload",
    "Plan",
    "RecomputePolicy",
    "Replicas",
    "Stage",
    "Strategy",
    "VocabularyParallel",
    "ZeroStage",
    "strategies_of",
]
