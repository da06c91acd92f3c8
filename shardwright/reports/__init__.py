"""What people are shown: tables for the terminal, figures, and pages that need nothing else."""

from .page import render_page, write_page

__all__ = ["render_page", "write_page"]
