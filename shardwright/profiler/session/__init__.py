"""One measuring session: rank 0 gives orders, all ranks measure, a journal
records, and the findings become a profile."""

from .journal import journal_path
from .measure import Hooks, ProfileRequest, measure_profile
from .progress import Progress, ShowProgress
from .stopped import StoppedError

__all__ = ["Hooks", "ProfileRequest", "Progress", "ShowProgress", "StoppedError", "journal_path", "measure_profile"]
