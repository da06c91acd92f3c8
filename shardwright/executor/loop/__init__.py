"""What goes on around the steps of a run: learning rates, evaluation, limits, event files, the bias of routers, and a warning where the prediction is off."""

from .early_warning import EarlyWarning
from .ending import Ending, Limits
from .evaluation import Evaluation, Evaluations, evaluate
from .event_files import EventFiles, check_event_files
from .router_bias import RouterBias, check_router_bias
from .scalars import Log
from .schedules import learning_rate_at
from .wandb_log import WandbLog, check_wandb

__all__ = [
    "EarlyWarning",
    "Ending",
    "Evaluation",
    "Evaluations",
    "EventFiles",
    "Limits",
    "Log",
    "RouterBias",
    "WandbLog",
    "check_event_files",
    "check_router_bias",
    "check_wandb",
    "evaluate",
    "learning_rate_at",
]
