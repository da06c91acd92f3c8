"""Sources as tables cite them, down to the table of the document."""

import pytest

from shardwright.validation.table.table import short_source_name, source_name


@pytest.mark.parametrize(
    ("cited", "name"),
    [
        (
            "o/r scripts/train/README.md@8c8dd48f72 line 75 [H100 80GB BF16 (Large Scale, >= 128 GPUs)]",
            "o/r scripts/train/README.md [H100 80GB BF16 (Large Scale, >= 128 GPUs)]",
        ),
        (
            "o/r scripts/train/README.md@8c8dd48f72 line 98 [H100 80GB BF16]",
            "o/r scripts/train/README.md [H100 80GB BF16]",
        ),
        ("o/r docs/a.md@b5bcd76c66 Table 1 line 40", "o/r docs/a.md Table 1"),
        ("o/r docs/a.md@b5bcd76c66 Table 2 lines 41-44", "o/r docs/a.md Table 2"),
        ("o/r README.md@a43a0c3c lines 5611-5616", "o/r README.md"),
        ("o/r docs/performance.md@3faaa1a0d (2024-08-23) line 7", "o/r docs/performance.md"),
        ('o/r docs/s.svg@2411b022a7 (cells "MFU" x "Best")', "o/r docs/s.svg"),
        (
            "o/r README.md images/c.png@b83477a3e8; heads/TP/PP from arXiv 2104.04473 Table 1",
            "o/r README.md images/c.png",
        ),
        ("arXiv 2104.04473 Table 2", "arXiv 2104.04473 Table 2"),
        ("https://example.org/post", "https://example.org/post"),
        (None, "unknown"),
        (" ; ", "unknown"),
    ],
)
def test_the_table_and_not_the_line(cited: str | None, name: str) -> None:
    assert source_name(cited) == name


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("owner/repo a/b/c/README.md [On 8]", "repo c/README.md [On 8]"),
        ("owner/repo README.md", "repo README.md"),
        ("arXiv 2104.04473 Table 2", "arXiv 2104.04473 Table 2"),
        ("unknown", "unknown"),
    ],
)
def test_a_short_name_keeps_what_tells_sources_apart(name: str, short: str) -> None:
    assert short_source_name(name) == short
