"""Which dataset a folder is of, and the likeliest reason for a folder that is not there."""

from pathlib import Path

import pytest

from datamodules.errors import DataError
from datamodules.known import Known
from datamodules.raw.archive import absent, check_published, read_text, recognise


@pytest.mark.parametrize(
    ("entry", "dataset"),
    [
        ("Sequences(2D+3D)/F001", "bp4d"),
        ("BP4D-training/F001", "bp4d"),
        ("AU Intensity Codes3.0/AU06", "bp4d"),
        ("2D+3D/F001", "bp4d_plus"),
        ("Physiology/F001", "bp4d_plus"),
        ("Video_RightCamera", "disfa"),
        ("ActionUnit_Labels/SN001", "disfa"),
        ("DISFAPlusDataset/Images", "disfa_plus"),
        ("cropped_aligned/video61", "affwild2"),
        ("Third ABAW Annotations/MTL_Challenge", "affwild2"),
        ("CAER-S/train", "caer_s"),
        ("data/session01/multiview", "multi_pie"),
        ("session03/multiview", "multi_pie"),
        ("photographs", None),
    ],
)
def test_a_layout_is_recognised(tmp_path: Path, entry: str, dataset: str | None) -> None:
    (tmp_path / entry).mkdir(parents=True)
    assert recognise(tmp_path) == dataset


def test_layouts_of_common_names_take_a_second_look(tmp_path: Path) -> None:
    for name in ("Images", "Labels", "train", "test"):
        (tmp_path / name).mkdir()
    assert recognise(tmp_path) is None
    (tmp_path / "Labels" / "SN001").mkdir()
    assert recognise(tmp_path) == "disfa_plus"
    (tmp_path / "train" / "Angry").mkdir()
    assert recognise(tmp_path) is None  # both: no guess
    (tmp_path / "Labels" / "SN001").rmdir()
    assert recognise(tmp_path) == "caer_s"


def reason(root: Path, wanted: str) -> tuple[str, str]:
    error = absent(root, "bp4d_plus", root / wanted)
    return str(error), error.remedy


def test_the_likeliest_reason_is_given(tmp_path: Path) -> None:
    root = tmp_path / "raw"
    assert reason(root, "AUCoding") == (f"{root} does not exist", "point --raw to BP4D+'s root folder")
    root.touch()
    assert reason(root, "AUCoding")[0] == f"{root} is a file, not a folder"
    root.unlink()
    root.mkdir()
    assert reason(root, "AUCoding")[0] == f"{root / 'AUCoding'} is missing"
    (root / "copy" / "AUCoding").mkdir(parents=True)
    assert reason(root, "AUCoding")[1] == f"point --raw to {root / 'copy'}"
    (tmp_path / "AUCoding").mkdir()
    assert reason(root, "AUCoding")[1] == f"point --raw to {tmp_path}"
    for name in ("AUCoding.tar.gz", "AUCoding2.zip"):
        (root / name).touch()
    assert reason(root, "AUCoding") == (
        f"{root / 'AUCoding.tar.gz'} is not unpacked",
        f"unpack it so that the folder {root / 'AUCoding'} exists",
    )
    (root / "Sequences(2D+3D)").mkdir()
    what, remedy = reason(root, "2D+3D")
    assert "has the layout of BP4D, not of BP4D+" in what
    assert f"prepare.py bp4d --raw {root}" in remedy


def test_the_published_numbers_are_held_to() -> None:
    known = Known("x", subjects=["A", "B"], rows={"A": 3}, sequence_rows={"T1": 7}, sequences=2)
    check_published(known, {"A": 3, "B": 99}, {"T1": 7, "T9": 1}, 2)
    for arguments, what in (
        (({"A": 4, "B": 1},), "A has 4 label rows, in the published archive 3"),
        (({"A": 3, "B": 1, "C": 1},), "C is no subject of the published archive"),
        (({"A": 3},), "B of the published archive are missing"),
        (({"A": 3, "B": 1}, {"T1": 6}), "all T1 have 6 label rows, in the published archive 7"),
        (({"A": 3, "B": 1}, {"T1": 7}, 3), "3 sequences are coded, in the published archive 2"),
    ):
        with pytest.raises(DataError, match=what):
            check_published(known, *arguments)
    check_published(Known("y"), {"A": 4}, {"T1": 1}, 3)  # nothing known, nothing to hold to


def test_label_files_are_read_without_marks_and_empty_ends(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_bytes(b"\xef\xbb\xbf0,1\r\n1,0\r\n\r\n")
    assert read_text(path) == ["0,1", "1,0"]
    path.write_bytes(b"\n\n")
    with pytest.raises(DataError, match=r"labels\.csv is empty"):
        read_text(path)
    with pytest.raises(DataError, match="nowhere"):
        read_text(tmp_path / "nowhere")
