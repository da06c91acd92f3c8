"""Reading a table: what is in it, and one clear line for what is wrong with it."""

from importlib import resources
from pathlib import Path

import pytest

from shardwright.base.errors import SpecError
from shardwright.validation.table.table import read_table
from tests.validation.made_up_rows import LLAMA_ROW, write_csv

PUBLISHED = Path(str(resources.files("shardwright.calibration") / "published" / "training.csv"))


def test_reads_the_published_table_whole() -> None:
    rows = read_table(PUBLISHED)
    assert len(rows) == 576
    first = rows[0]
    assert (first.id, first.model, first.hidden, first.metric_value) == ("llmfoundry-001", "MPT-70b", 8192, 1007.0)
    assert first.tied_embeddings is True


def test_an_empty_cell_is_unknown_and_not_zero(tmp_path: Path) -> None:
    (only,) = read_table(write_csv(tmp_path / "t.csv", [LLAMA_ROW | {"micro_batch": None, "peak_mem_gb": None}]))
    assert only.micro_batch is None
    assert only.peak_mem_gb is None
    assert only.vpp is None


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "t.csv", [LLAMA_ROW])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_table(path)[0].id == "llama-1"


@pytest.mark.parametrize(
    ("column", "cell", "expected"),
    [
        ("gpus", "0", "greater than 0"),
        ("gpus", "-8", "greater than 0"),
        ("gpus", "eight", "valid integer"),
        ("gpus", "8.5", "valid integer"),
        ("metric_value", "nan", "finite number"),
        ("metric_value", "inf", "finite number"),
        ("metric_value", "1,007", "valid number"),
        ("tied_embeddings", "perhaps", "valid boolean"),
        ("peak_mem_gb", "0", "greater than 0"),
        ("layers", "1000000", "less than or equal to 2000"),
        ("global_batch", "999999999999", "less than or equal to 10000000"),
    ],
)
def test_a_bad_value_costs_its_row_alone_and_says_why(tmp_path: Path, column: str, cell: str, expected: str) -> None:
    path = write_csv(tmp_path / "t.csv", [LLAMA_ROW, LLAMA_ROW | {"id": "bad", column: cell}])
    good, bad = read_table(path)
    assert good.reason is None
    assert getattr(bad, column) is None
    assert bad.reason is not None
    assert bad.reason.startswith(f"column '{column}': given '{cell}'; ")
    assert expected in bad.reason
    assert "\n" not in bad.reason


def test_several_bad_values_are_all_read_as_unknown(tmp_path: Path) -> None:
    (bad,) = read_table(write_csv(tmp_path / "t.csv", [LLAMA_ROW | {"gpus": "many", "tp": "x", "hidden": "-1"}]))
    assert (bad.gpus, bad.tp, bad.hidden, bad.dp) == (None, None, None, 64)
    assert bad.reason == "column 'hidden': given '-1'; Input should be greater than 0"


def test_a_row_without_an_id_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="row 2 has no id"):
        read_table(write_csv(tmp_path / "t.csv", [LLAMA_ROW, LLAMA_ROW | {"id": None}]))


def test_an_unknown_column_names_the_nearest(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "t.csv", [LLAMA_ROW])
    path.write_text(path.read_text().replace("micro_batch,", "microbatch,", 1))
    with pytest.raises(SpecError, match=r"unknown column 'microbatch'\. Did you mean 'micro_batch'\?"):
        read_table(path)


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("id,model\na,b\n")
    with pytest.raises(SpecError, match=r"column 'layers', 'hidden', .* is missing from the header"):
        read_table(path)


def test_a_column_given_twice_is_refused(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "t.csv", [LLAMA_ROW])
    header, rest = path.read_text().split("\n", 1)
    path.write_text(f"{header.strip()},gpus\n{rest}")
    with pytest.raises(SpecError, match="column 'gpus' appears twice"):
        read_table(path)


def test_a_row_cut_off_in_the_middle_is_refused(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "t.csv", [LLAMA_ROW, LLAMA_ROW | {"id": "second"}])
    path.write_text(path.read_text()[:-60])
    with pytest.raises(SpecError, match=r"row 2 has \d+ cells for \d+ columns; is the file complete\?"):
        read_table(path)


def test_a_quotation_cut_off_is_refused(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "t.csv", [LLAMA_ROW | {"notes": "a, b"}])
    text = path.read_text()
    path.write_text(text[: text.index('"a, b') + 3])
    with pytest.raises(SpecError, match=r"row 1 is not valid CSV \(unexpected end of data\); is the file complete\?"):
        read_table(path)


def test_an_unquoted_comma_is_refused(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "t.csv", [LLAMA_ROW])
    path.write_text(path.read_text().replace("Llama-2-13B", "Llama-2,13B"))
    with pytest.raises(SpecError, match="is a comma in a cell not quoted"):
        read_table(path)


def test_a_repeated_id_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="rows 1 and 2 have the same id 'llama-1'"):
        read_table(write_csv(tmp_path / "t.csv", [LLAMA_ROW, LLAMA_ROW]))


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b"", "is empty"), (b"\xff\xfe\x00", "not a text file in UTF-8")],
)
def test_no_table_at_all(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(SpecError, match=expected):
        read_table(path)


def test_a_header_alone_is_no_table(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="a header and no row"):
        read_table(write_csv(tmp_path / "t.csv", []))


@pytest.mark.parametrize("name", ["absent.csv", "."])
def test_a_path_that_is_no_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(SpecError, match="cannot be read"):
        read_table(tmp_path / name)
