"""What is near a job: fewer devices of its cluster, and other batches. Offers where nothing divides, notes where they are faster."""

from .job import FoundJob, search_job
from .replanned import replanned

__all__ = ["FoundJob", "replanned", "search_job"]
