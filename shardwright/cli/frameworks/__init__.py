"""The commands between a plan and other frameworks: `export`, `import` and `diagnose`."""

from .diagnose import diagnose
from .exporting import export
from .importing import import_file

__all__ = ["diagnose", "export", "import_file"]
