"""Output for people: tables for the terminal, figures, and self-contained pages."""

from .page import render_page, write_page

__all__ = ["render_page", "write_page"]
