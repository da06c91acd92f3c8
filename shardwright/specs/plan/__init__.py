"""The plan: every choice for a run, the layers of its stages, what leaves the device, how replicas agree, and
replicas in several groups."""

from .approximations import (
    APPROXIMATIONS,
    LSH_MOE,
    PER_CENTROID,
    QUALITY_OF_MEANS,
    SKIPPIPE,
    Approximation,
    named_approximation,
    quality_of,
    read_sync,
)
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
from .sync import SENT_BLOCK, Outer, Sync, SyncMethod, sent_bytes

__all__ = [
    "APPROXIMATIONS",
    "CONTEXT_PARALLEL",
    "EXPERT_DISPATCH",
    "LSH_MOE",
    "PER_CENTROID",
    "PLAIN_STRATEGIES",
    "POLICIES",
    "QUALITY_OF_MEANS",
    "SENT_BLOCK",
    "SKIPPIPE",
    "VOCABULARY",
    "Approximation",
    "ContextParallel",
    "ExpertDispatch",
    "LayerRun",
    "Offload",
    "Outer",
    "Plan",
    "RecomputePolicy",
    "Replicas",
    "Stage",
    "Strategy",
    "Sync",
    "SyncMethod",
    "VocabularyParallel",
    "ZeroStage",
    "named_approximation",
    "quality_of",
    "read_sync",
    "sent_bytes",
    "strategies_of",
]
