"""What writers of twins share."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from datamodules.errors import DataError
from datamodules.jobs import Tick
from datamodules.raw.media import read_image
from datamodules.raw.records import edition_of
from datamodules.synth.twin import TruthRow, check_range, cut_file, encode_jpeg, read_truth, write_twin

POINTS = np.arange(136, dtype=np.float32).reshape(68, 2)


def write_piece(root: Path, piece: str, tick: Tick) -> list[TruthRow]:
    (root / f"{piece}.txt").write_text(piece)
    tick(2)
    label = {"b": {"AU01": 3, "AU06": 1}, "a": {"AU06": 0, "expression": 2}}[piece]
    return [TruthRow(piece, "T1", 7, None, False, label), TruthRow(piece, "T1", 5, POINTS, True, {"AU06": -1})]


def write(out: Path, pieces: str = "ba") -> Path:
    return write_twin(out, list(pieces), write_piece, total=4, workers=0, progress=False, description="test")


def test_the_truth_is_one_sorted_table(tmp_path: Path) -> None:
    out = write(tmp_path / "twin")
    assert sorted(path.name for path in out.iterdir()) == ["a.txt", "b.txt", "truth.parquet"]
    assert [path.name for path in tmp_path.iterdir()] == ["twin"]
    table = pq.read_table(out / "truth.parquet")
    types = {field.name: str(field.type) for field in table.schema}
    assert types.pop("landmarks") == "fixed_size_list<element: float>[136]"
    assert types == {
        **{"subject": "string", "sequence": "string", "frame": "int64", "image": "bool"},
        **dict.fromkeys(["AU01", "AU06", "expression"], "int8"),
    }
    assert table["subject"].to_pylist() == ["a", "a", "b", "b"]
    assert table["frame"].to_pylist() == [5, 7, 5, 7]
    assert table["image"].to_pylist() == [True, False, True, False]
    assert table["AU06"].to_pylist() == [-1, 0, -1, 1]
    assert table["AU01"].to_pylist() == [-1, -1, -1, 3]
    assert table["expression"].to_pylist() == [-1, 2, -1, -1]
    assert table["landmarks"][0].as_py() == list(range(136))
    assert np.isnan(table["landmarks"][1].as_py()).all()


def test_rows_can_be_read_again(tmp_path: Path) -> None:
    rows = list(read_truth(write(tmp_path / "twin")))
    assert [(row.subject, row.sequence, row.frame, row.image) for row in rows] == [
        ("a", "T1", 5, True),
        ("a", "T1", 7, False),
        ("b", "T1", 5, True),
        ("b", "T1", 7, False),
    ]
    np.testing.assert_array_equal(rows[2].landmarks, POINTS)
    assert rows[1].landmarks is None
    assert rows[3].labels == {"AU01": 3, "AU06": 1, "expression": -1}


def test_bytes_do_not_depend_on_the_order_of_the_pieces(tmp_path: Path) -> None:
    first, second = write(tmp_path / "first", "ba"), write(tmp_path / "second", "ab")
    rows = [[row[:3] for row in read_truth(root)] for root in (first, second)]
    assert rows[0] == rows[1]
    assert (write(tmp_path / "third", "ba") / "truth.parquet").read_bytes() == (first / "truth.parquet").read_bytes()


def test_a_folder_with_truth_is_a_twin(tmp_path: Path) -> None:
    out = write(tmp_path / "twin")
    assert edition_of(out) == "twin"
    with pytest.raises(DataError, match="published"):
        edition_of(out, "published")


def test_an_existing_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "twin").mkdir()
    with pytest.raises(DataError, match="exists"):
        write(tmp_path / "twin")
    assert list(tmp_path.rglob("*")) == [tmp_path / "twin"]


def fail(root: Path, piece: str, tick: Tick) -> list[TruthRow]:
    (root / "half.txt").write_text("half")
    raise OSError(28, "No space left on device")


def test_a_full_disk_is_said_and_leaves_no_twin(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="twin cannot be written: No space left on device"):
        write_twin(tmp_path / "twin", ["a"], fail, total=1, workers=0, progress=False, description="test")
    assert not (tmp_path / "twin").exists()
    write(tmp_path / "twin")  # what the failure left is no hindrance, and not taken over
    assert not (tmp_path / "twin" / "half.txt").exists()


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="twin cannot be written"):
        write(tmp_path / "file" / "twin")


def test_numbers_out_of_range_are_refused() -> None:
    check_range("bp4d", "subjects", 1, 1, 41)
    check_range("bp4d", "subjects", 41, 1, 41)
    with pytest.raises(DataError, match="bp4d: subjects=42 is out of range") as caught:
        check_range("bp4d", "subjects", 42, 1, 41)
    assert caught.value.remedy == "choose subjects from 1 to 41"


@pytest.mark.parametrize("lines", [["0,1", *["22,333"] * 3], ["a long header in the first line", "1,0", "2,0"]])
def test_a_cut_file_ends_within_a_line(tmp_path: Path, lines: list[str]) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("\n".join(lines) + "\n")
    cut_file(path)
    *whole, last = path.read_text().split("\n")
    assert whole == lines[: len(whole)]
    assert 1 <= len(whole) < len(lines)
    assert last
    assert lines[len(whole)].startswith(last)
    assert last != lines[len(whole)]


def test_pictures_survive_their_file() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(60, 190, (8, 8, 3)).repeat(8, axis=0).repeat(8, axis=1).astype(np.uint8)  # one colour a block
    assert np.abs(read_image(encode_jpeg(image)).astype(int) - image).max() <= 6
