"""What is near a job: fewer devices of its cluster, and other batches. Offers where nothing divides, notes where they are faster."""

from .job import FoundJob, search_job

__all__ = ["FoundJob", "search_job"]
