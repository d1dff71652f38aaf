"""The parser against a small folder in BP4D+'s layout, written here without the code under test."""

import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from datamodules.errors import DataError
from datamodules.raw.bp4d_plus import BP4DPlusRaw

AUS = [1, 2, 4, 5, 6, 7, *range(9, 21), 22, 23, 24, *range(27, 40)]
FIRST, LAST = 9, 12  # labelled frames of every sequence, from 1


def jpeg(number: int) -> bytes:
    """A picture as bright as ten times its number."""
    return cv2.imencode(".jpg", np.full((16, 16), 10 * number, np.uint8))[1].tobytes()


def read_number(image: np.ndarray) -> int:
    return round(image.mean() / 10)


def write_folder(root: Path) -> Path:
    """F001 packed, M002 unpacked; pictures 0 to 12 of T1 and T8."""
    (root / "2D+3D").mkdir(parents=True)
    with zipfile.ZipFile(root / "2D+3D" / "F001.zip", "w") as packed:
        for task in ("T8", "T1", "T10"):
            for number in (12, 3, 10, 1, 0, 2, 11, 9, 4, 5, 6, 8, 7):
                content = jpeg(number) if task != "T10" else b"of another task"
                packed.writestr(f"F001/{task}/{number}.jpg", content)
            packed.writestr(f"F001/{task}/11.obj", b"3D model")
    for task in ("T1", "T8"):
        folder = root / "2D+3D" / "M002" / task
        folder.mkdir(parents=True)
        for number in range(13):
            (folder / f"{number:04d}.jpg").write_bytes(jpeg(number))
        for subject in ("F001", "M002"):
            occurrence = root / "AUCoding" / "AU_OCC" / f"{subject}_{task}.csv"
            occurrence.parent.mkdir(parents=True, exist_ok=True)
            lines = [",".join(map(str, (frame, *((au + frame) % 2 for au in AUS)))) for frame in range(FIRST, LAST + 1)]
            occurrence.write_text("\n".join([",".join(map(str, (0, *AUS))), *lines]) + "\n")
            for au in (6, 10, 12, 14, 17):
                path = root / "AUCoding" / "AU_INT" / f"AU{au:02d}" / f"{subject}_{task}_AU{au:02d}.csv"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("".join(f"{frame},{(au + frame) % 6}\n" for frame in range(FIRST, LAST + 1)))
    return root


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "raw")


def rewrite(path: Path, content: dict[str, bytes | None]) -> None:
    """Replace entries of a zip; None leaves them out."""
    with zipfile.ZipFile(path) as packed:
        entries = {name: packed.read(name) for name in packed.namelist()}
    with zipfile.ZipFile(path, "w") as packed:
        for name, data in {**entries, **content}.items():
            if data is not None:
                packed.writestr(name, data)


def refusal(folder: Path, **options: object) -> str:
    with pytest.raises(DataError) as caught:
        BP4DPlusRaw(folder, **options).check()  # type: ignore[arg-type]
    assert caught.value.remedy
    return f"{caught.value} | {caught.value.remedy}"


def test_pictures_count_from_0_labels_from_1_packed_or_not(folder: Path) -> None:
    raw = BP4DPlusRaw(folder)
    raw.check()
    assert (raw.name, raw.delivers) == ("bp4d_plus", "")
    assert raw.clips() == ["F001_T1", "F001_T8", "M002_T1", "M002_T8"]
    assert raw.label_columns[:4] == ["AU01", "AU02", "AU04", "AU05"]
    assert raw.label_columns[-6:-3] == ["AU39", "AU06_intensity", "AU10_intensity"]
    for clip in raw.clips():
        assert raw.count(clip) == 4
        records = list(raw.frames(clip))
        assert [(record.subject, record.sequence) for record in records] == [tuple(clip.split("_"))] * 4
        assert [record.frame for record in records] == [9, 10, 11, 12]
        assert [read_number(record.image) for record in records] == [8, 9, 10, 11]
        assert [record.labels["AU01"] for record in records] == [0, 1, 0, 1]
        assert [record.labels["AU12_intensity"] for record in records] == [3, 4, 5, 0]


def test_the_other_reading_of_the_frame_numbers(folder: Path) -> None:
    raw = BP4DPlusRaw(folder, frame_offset=0)
    raw.check()
    for clip in ("F001_T1", "M002_T8"):
        assert [read_number(record.image) for record in raw.frames(clip)] == [9, 10, 11, 12]


def test_entries_at_any_depth(folder: Path) -> None:
    path = folder / "2D+3D" / "F001.zip"
    with zipfile.ZipFile(path) as packed:
        entries = {name: packed.read(name) for name in packed.namelist()}
    for top in ("", "BP4D+/2D+3D/F001/"):
        with zipfile.ZipFile(path, "w") as packed:
            for name, data in entries.items():
                packed.writestr(top + name.removeprefix("F001/"), data)
        assert [read_number(record.image) for record in BP4DPlusRaw(folder).frames("F001_T8")] == [8, 9, 10, 11]


def test_an_unpacked_task_comes_before_the_zip(folder: Path) -> None:
    unpacked = folder / "2D+3D" / "F001" / "T1"
    unpacked.mkdir(parents=True)
    (unpacked / "008.jpg").write_bytes(jpeg(20))
    raw = BP4DPlusRaw(folder)
    raw.check()
    assert [record.image is None for record in raw.frames("F001_T1")] == [False, True, True, True]
    assert [read_number(record.image) for record in raw.frames("F001_T8")] == [8, 9, 10, 11]


def test_a_missing_entry_leaves_a_row(folder: Path) -> None:
    rewrite(folder / "2D+3D" / "F001.zip", {"F001/T1/9.jpg": None})
    raw = BP4DPlusRaw(folder)
    raw.check()
    assert [record.image is None for record in raw.frames("F001_T1")] == [False, True, False, False]


def test_faults_of_a_zip_are_named(folder: Path) -> None:
    path = folder / "2D+3D" / "F001.zip"
    rewrite(path, {"F001/T1/9.jpg": b""})
    assert f"{path}: F001/T1/9.jpg is empty" in refusal(folder)
    rewrite(path, {"F001/T1/9.jpg": jpeg(9), "F001/T1/0009.jpg": jpeg(9)})
    assert "F001/T1/9.jpg and F001/T1/0009.jpg are both of number 9" in refusal(folder)
    rewrite(path, {"F001/T1/0009.jpg": None})
    BP4DPlusRaw(folder).check()
    data = bytearray(path.read_bytes())
    at = data.index(b"F001/T1/10.jpg") + 40
    data[at : at + 200] = bytes(200)
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"F001\.zip: F001/T1/10\.jpg cannot be read"):
        list(BP4DPlusRaw(folder).frames("F001_T1"))
    path.write_bytes(path.read_bytes()[:-500])
    assert f"{path} cannot be read as zip" in refusal(folder)
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("F001/T6/1.jpg", jpeg(1))
    assert f"{path / 'T1'} should hold numbers 8 to 11, and holds no picture" in refusal(folder)


def test_an_intensity_file_of_another_length_is_named(folder: Path) -> None:
    path = folder / "AUCoding" / "AU_INT" / "AU10" / "M002_T1_AU10.csv"
    lines = path.read_text().splitlines()
    for changed, rows in ((lines[:-1], 3), (["8,0", *lines[:-1]], 4)):
        path.write_text("\n".join(changed) + "\n")
        assert f"{path} has {rows} rows, {folder / 'AUCoding' / 'AU_OCC' / 'M002_T1.csv'} 4" in refusal(folder)


def test_a_missing_subject_is_named(folder: Path) -> None:
    (folder / "2D+3D" / "F001.zip").rename(folder / "F001.zip.part")
    assert f"{folder / '2D+3D' / 'F001'} is missing" in refusal(folder)


def test_names_without_data_are_ignored(folder: Path) -> None:
    (folder / "Physiology" / "F042" / "T11").mkdir(parents=True)
    (folder / "2D+3D" / "F042T11").mkdir()
    (folder / "AUCoding" / "AU_OCC" / "F042_T11.csv").touch()
    BP4DPlusRaw(folder).check()


def test_bp4d_is_recognised(folder: Path) -> None:
    (folder / "AUCoding" / "AU_OCC" / "F001_T8.csv").rename(folder / "AUCoding" / "AU_OCC" / "F001_T2.csv")
    assert "BP4D+ has no coded T2" in (message := refusal(folder))
    assert "prepare.py bp4d;" in message
    (folder / "2D+3D").rename(folder / "BP4D-training")
    assert "has the layout of BP4D, not of BP4D+: 2D+3D is missing" in (message := refusal(folder))
    assert f"prepare.py bp4d --raw {folder}," in message


def test_the_published_edition_has_all_subjects(folder: Path) -> None:
    assert "F002, F003" in (message := refusal(folder, edition="published"))
    assert "M001, M003" in message


def test_fingerprint_follows_the_zip(folder: Path) -> None:
    path = folder / "2D+3D" / "F001.zip"
    before = {clip: BP4DPlusRaw(folder).fingerprint(clip) for clip in BP4DPlusRaw(folder).clips()}
    rewrite(path, {"F001/T1/9.jpg": jpeg(9) + b" "})
    after = {clip: BP4DPlusRaw(folder).fingerprint(clip) for clip in BP4DPlusRaw(folder).clips()}
    assert [clip for clip in before if before[clip] != after[clip]] == ["F001_T1"]
