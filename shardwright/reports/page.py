"""Pages from templates: everything that is put in is text."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from shardwright.base import units as readable
from shardwright.base import write_whole
from shardwright.reports.charts import MEANINGS


def render_page(template: str, **content: Any) -> str:
    """Fill the template of that name in this package. Text is escaped."""
    environment = Environment(
        loader=PackageLoader("shardwright.reports", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    environment.globals["colours"] = _colours
    environment.filters |= {"share": readable.share, "signed_share": readable.signed_share}
    return environment.get_template(template).render(**content)


def _colours(variant: int) -> str:
    """The palette as CSS properties, in its light (0) or dark (1) variant."""
    return " ".join(
        f"--{meaning}: {colour[variant]};" for meaning, colour in MEANINGS.items() if "series" not in meaning
    )


def write_page(path: Path, page: str) -> None:
    """Write a page whole or not at all; an existing file is replaced only by a complete one.

    Raises:
        SpecError: the folder is missing or not writable.
    """
    write_whole(path, page)
