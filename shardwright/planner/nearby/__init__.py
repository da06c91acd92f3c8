"""What is near a job: fewer devices of its cluster, other batches, its plan with other memory and links, and pipelines that leave out stages. Offers where nothing divides, notes where they are faster."""

from .job import FoundJob, search_job
from .replanned import replanned
from .sensitivity import Sensitivity, sensitivities
from .skipping import skipping

__all__ = ["FoundJob", "Sensitivity", "replanned", "search_job", "sensitivities", "skipping"]
