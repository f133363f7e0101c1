"""The published TSV format: read, clipped a little, refused with file, line and column."""

from pathlib import Path

import pytest

from rlkv.errors import HeadsFileError
from rlkv.heads import read_tsv


@pytest.mark.parametrize("name", ["adapter_weights.tsv", "full_attention_heads.tsv"])
def test_reads_a_row_per_layer_and_clips(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(
        "1.000000000000000000e+00\t7.226562500000000000e-01\t-4.760742187500000000e-03\n"
        "1.007812500000000000e+00\t0\t1\n"
    )
    assert read_tsv(path) == ((1.0, 0.72265625, 0.0), (1.0, 0.0, 1.0))


@pytest.mark.parametrize("text", ["0.5\t1.0\r\n0\t0.25\r\n", "0.5\t1.0\n0\t0.25", "0.5\t1.0\n0\t0.25\n\n"])
def test_line_ends_do_not_matter(text: str, tmp_path: Path) -> None:
    path = tmp_path / "heads.tsv"
    path.write_bytes(text.encode())
    assert read_tsv(path) == ((0.5, 1.0), (0.0, 0.25))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("0\t1\n0.5\t1.0501\n", ":2:2: found 1.0501, expected a number in [0, 1] up to 0.05"),
        ("-0.0501\t1\n", ":1:1: found -0.0501, expected a number in [0, 1] up to 0.05"),
        ("0\tnan\n", ":1:2: found nan, expected a number in [0, 1] up to 0.05"),
        ("0\t1\ninf\t0\n", ":2:1: found inf, expected a number in [0, 1] up to 0.05"),
        ("0\t1\n0\t1\n0\tone\n", ":3:2: found 'one', expected a number"),
        ("0,1\n", ":1:1: found '0,1', expected a number"),
        ("0\t1\t\n", ":1:3: found '', expected a number"),
        ("0\t1\n\n0\t1\n", ":2:1: found '', expected a number"),
        ("0\t1\n0\n", ":2: has 1 columns, expected 2 as in line 1"),
        ("0\t1\n0\t1\t1\n", ":2: has 3 columns, expected 2 as in line 1"),
        ("", ": is empty, expected a row per layer"),
        ("\n \n", ": is empty, expected a row per layer"),
    ],
)
def test_malformed_files_are_refused(text: str, line: str, tmp_path: Path) -> None:
    path = tmp_path / "heads.tsv"
    path.write_text(text)
    with pytest.raises(HeadsFileError) as caught:
        read_tsv(path)
    assert str(caught.value) == f"{path}{line}"


def test_the_tolerance_is_inclusive(tmp_path: Path) -> None:
    path = tmp_path / "heads.tsv"
    path.write_text("-0.05\t1.05\n")
    assert read_tsv(path) == ((0.0, 1.0),)


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    missing = tmp_path / "heads.tsv"
    with pytest.raises(HeadsFileError) as caught:
        read_tsv(missing)
    assert str(caught.value) == f"{missing}: cannot read: No such file or directory"
    missing.write_bytes(b"\xff\xfe")
    with pytest.raises(HeadsFileError, match="is not text: 'utf-8' codec"):
        read_tsv(missing)
