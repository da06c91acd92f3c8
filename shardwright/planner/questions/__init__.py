"""Questions that vary a job: the longest sequence, the largest batch or model, the fewest devices, the cost, the best
shape, what to do with documents of several lengths.

Each value is one `search` for the fastest plan, so that `search` itself confirms the answer.
"""

from .asking import Case, Largest
from .devices import Costs, FewestDevices, costs, fewest_devices
from .largest_batch import largest_global_batch, largest_micro_batch
from .largest_model import Growth, largest_model
from .longest_sequence import STEP, longest_sequence
from .packings import Bucket, Bucketed, Packings, packings
from .shapes import Shapes, shapes, work_per_s
from .token_time import TokenTime, token_time

__all__ = [
    "STEP",
    "Bucket",
    "Bucketed",
    "Case",
    "Costs",
    "FewestDevices",
    "Growth",
    "Largest",
    "Packings",
    "Shapes",
    "TokenTime",
    "costs",
    "fewest_devices",
    "largest_global_batch",
    "largest_micro_batch",
    "largest_model",
    "longest_sequence",
    "packings",
    "shapes",
    "token_time",
    "work_per_s",
]
