"""The source of a row: one table of one document, so that a fit can leave it out as a whole."""

import re

_COMMIT = re.compile(r"@[0-9a-f]{3,40}\b")
_LINES = re.compile(r"\blines?\s+\d+(?:\s*[-,]\s*\d+)*")
_REMARK = re.compile(r"\([^()]*\)")
_SECTION = re.compile(r"\[[^\[\]]*\]")


def source_name(source: str | None) -> str:
    """A `source` cell without commit, lines and remarks: the document, and the table or [section] in it if it names one.

    "o/r docs/a.md@1a2b3c4d line 7 [Large, on 8]" is "o/r docs/a.md [Large, on 8]"; "arXiv 2104.04473 Table 2" is itself.
    """
    cited = (source or "").partition(";")[0]
    section = _SECTION.search(cited)
    document = _SECTION.sub(" ", cited)
    for noise in (_COMMIT, _REMARK, _LINES):
        document = noise.sub(" ", document)
    return " ".join(f"{document} {section[0] if section else ''}".split()) or "unknown"


def short_source_name(name: str) -> str:
    """A name of `source_name` for a figure's label: without the repository's owner and the folders above the last."""
    repository, _, rest = name.partition(" ")
    if "/" not in repository:
        return name
    document, _, place = rest.partition(" ")
    shown = "/".join(document.split("/")[-2:])
    return " ".join(f"{repository.rpartition('/')[2]} {shown} {place}".split())
