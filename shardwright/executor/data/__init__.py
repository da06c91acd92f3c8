"""The sequences of each step: text, conversations and tokens, in windows or documents, from one source or a mixture of several."""

from .batches import PlanBatches, open_held_back, open_plan_batches, said_of
from .documents import Sequences
from .tokenised import TOKENS_FOLDER, new_tokens_go_with_a_mistake
from .windows import Begins

__all__ = [
    "TOKENS_FOLDER",
    "Begins",
    "PlanBatches",
    "Sequences",
    "new_tokens_go_with_a_mistake",
    "open_held_back",
    "open_plan_batches",
    "said_of",
]
