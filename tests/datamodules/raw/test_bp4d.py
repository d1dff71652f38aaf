"""The parser against small folders in BP4D's layout, written here without the code under test."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from datamodules.errors import DataError
from datamodules.raw.bp4d import BP4DRaw

# A copy of the archive with a column for every AU up to 41; 4 and 40 are not coded.
HEADER = [0, *range(1, 42)]
ROWS = 4
STARTS = {"F001_T1": (2440, 4), "F001_T2": (8, 3), "M018_T8": (2, 4)}  # first frame, digits of the names


def write_picture(path: Path, number: int) -> None:
    """A picture that says its number: bits as black and white columns."""
    bits = np.repeat([(number >> bit) & 1 for bit in range(12)], 8)
    picture = np.broadcast_to((255 * bits).astype(np.uint8), (16, 96))
    path.write_bytes(cv2.imencode(".jpg", picture)[1].tobytes())


def read_number(image: np.ndarray) -> int:
    columns = image.mean(axis=(0, 2)).reshape(12, 8).mean(axis=1)
    return sum(1 << bit for bit, value in enumerate(columns.tolist()) if value > 127)


def code(au: int, frame: int) -> int:
    return 9 if au in (4, 40, 41) else (au + frame) % 2


def level(au: int, frame: int) -> int:
    return (au + frame) % 6


def write_labels(path: Path, header: list[int], frames: range) -> None:
    lines = [",".join(str(frame if au == 0 else code(au, frame)) for au in header) for frame in frames]
    path.write_text("\n".join([",".join(map(str, header)), *lines]) + "\n")


def write_folder(root: Path) -> Path:
    occurrence = root / "AUCoding" / "AU_OCC"
    occurrence.mkdir(parents=True)
    for clip, (first, digits) in STARTS.items():
        frames = range(first, first + ROWS)
        folder = root / "Sequences(2D+3D)" / clip[:4] / clip[5:]
        folder.mkdir(parents=True)
        for number in (first - 1, *frames, first + ROWS):  # more pictures than labels
            write_picture(folder / f"{number:0{digits}d}.jpg", number)
            (folder / f"{number:0{digits}d}.obj").touch()
        write_labels(occurrence / f"{clip}.csv", HEADER, frames)
        for au in (6, 10, 12, 14, 17):
            path = root / "AU Intensity Codes3.0" / f"AU{au:02d}" / f"{clip}_AU{au:02d}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(f"{frame},{level(au, frame)}\n" for frame in frames))
    return root


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "raw")


def occurrence(folder: Path, clip: str = "F001_T2") -> Path:
    return folder / "AUCoding" / "AU_OCC" / f"{clip}.csv"


def intensity(folder: Path, au: int, clip: str = "F001_T2") -> Path:
    return folder / "AU Intensity Codes3.0" / f"AU{au:02d}" / f"{clip}_AU{au:02d}.csv"


def picture(folder: Path, name: str) -> Path:
    return folder / "Sequences(2D+3D)" / name


def replace_line(path: Path, line: int, text: str) -> None:
    lines = path.read_text().splitlines()
    lines[line - 1] = text
    path.write_text("\n".join(lines) + "\n")


def refusal(folder: Path, **options: object) -> str:
    with pytest.raises(DataError) as caught:
        BP4DRaw(folder, **options).check()  # type: ignore[arg-type]
    assert caught.value.remedy
    return f"{caught.value} | {caught.value.remedy}"


def test_labels_and_pictures_belong_to_the_same_frame(folder: Path) -> None:
    raw = BP4DRaw(folder)
    raw.check()
    assert raw.clips() == ["F001_T1", "F001_T2", "M018_T8"]
    assert [raw.shard(clip) for clip in raw.clips()] == ["F001", "F001", "M018"]
    for clip in raw.clips():
        first, _ = STARTS[clip]
        assert raw.count(clip) == ROWS
        records = list(raw.frames(clip))
        assert [record.frame for record in records] == list(range(first, first + ROWS))
        for record in records:
            assert (record.subject, record.sequence) == (clip[:4], clip[5:])
            assert np.isnan(record.pts)
            assert record.landmarks is None
            assert read_number(record.image) == record.frame
            assert list(record.labels) == raw.label_columns
            assert record.labels["AU12"] == (12 + record.frame) % 2
            assert record.labels["AU14_intensity"] == (14 + record.frame) % 6
    # Written out by hand: frame 9 of F001 T2 has the odd AUs at 0, the even ones at 1.
    assert [records[1].labels["AU01"], records[1].labels["AU02"]] == [0, 1]


def test_columns_are_the_aus_that_some_file_codes(folder: Path) -> None:
    expected = [f"AU{au:02d}" for au in range(1, 40) if au != 4]
    intensities = [f"AU{au:02d}_intensity" for au in (6, 10, 12, 14, 17)]
    assert BP4DRaw(folder).label_columns == [*expected, *intensities]
    text = occurrence(folder, "M018_T8").read_text().splitlines()
    column = HEADER.index(4)
    cells = text[3].split(",")
    cells[column] = "1"
    cells[HEADER.index(41)] = "1"  # uncoded AUs are left out whatever their columns hold
    before = BP4DRaw(folder).fingerprint("F001_T1")
    replace_line(occurrence(folder, "M018_T8"), 4, ",".join(cells))
    raw = BP4DRaw(folder)
    assert raw.fingerprint("F001_T1") != before  # its rows have a column more
    assert raw.label_columns == [*(f"AU{au:02d}" for au in range(1, 40)), *intensities]
    assert [record.labels["AU04"] for record in raw.frames("M018_T8")] == [-1, -1, 1, -1]
    assert [record.labels["AU04"] for record in raw.frames("F001_T1")] == [-1] * 4


def test_columns_are_found_by_name(folder: Path) -> None:
    """Another order, fewer columns, the frame number elsewhere, a last column that is no AU."""
    before = [record.labels for record in BP4DRaw(folder).frames("F001_T1")]
    path = occurrence(folder, "F001_T1")
    dropped = {f"AU{au:02d}" for au in range(15, 40, 3)}
    header = [17, 0, *(au for au in reversed(range(1, 40)) if f"AU{au:02d}" not in dropped and au != 17)]
    write_labels(path, header, range(2440, 2444))
    lines = zip(path.read_text().splitlines(), ["occluded", "1", "1", "1", "1"], strict=True)
    path.write_text("".join(f"{line},{end}\n" for line, end in lines))
    after = [record.labels for record in BP4DRaw(folder).frames("F001_T1")]
    for old, new in zip(before, after, strict=True):
        assert new == {column: -1 if column in dropped else value for column, value in old.items()}
    path.write_text(path.read_text().replace("17,0,38,", "17,0,17,", 1))
    assert "line 1" in refusal(folder)


@pytest.mark.parametrize("unknown", ["9", "999"])
def test_unknown_codes_and_absent_intensities(folder: Path, unknown: str) -> None:
    cells = occurrence(folder).read_text().splitlines()[2].split(",")
    cells[HEADER.index(10)] = unknown
    replace_line(occurrence(folder), 3, ",".join(cells))
    # 7 and 12 are not labelled, 9 is absent
    intensity(folder, 6).write_text(f"7,3\n8,2\n10,{unknown}\n11,5\n12,4\n")
    raw = BP4DRaw(folder)
    raw.check()
    records = list(raw.frames("F001_T2"))
    assert [record.labels["AU10"] for record in records] == [code(10, 8), -1, code(10, 10), code(10, 11)]
    assert [record.labels["AU06_intensity"] for record in records] == [2, -1, -1, 5]


def test_a_missing_picture_leaves_a_row(folder: Path) -> None:
    picture(folder, "F001/T2/010.jpg").unlink()
    raw = BP4DRaw(folder)
    raw.check()
    records = list(raw.frames("F001_T2"))
    assert [record.image is None for record in records] == [False, False, True, False]
    assert records[2].labels["AU12"] == code(12, 10)
    assert read_number(records[3].image) == 11


def test_the_frame_offset_moves_pictures_against_labels(folder: Path) -> None:
    raw = BP4DRaw(folder, frame_offset=-1)
    raw.check()
    records = list(raw.frames("F001_T1"))
    assert [record.frame for record in records] == [2440, 2441, 2442, 2443]
    assert [read_number(record.image) for record in records] == [2439, 2440, 2441, 2442]
    far = refusal(folder, frame_offset=3000)
    assert "none of the 4 labelled frames of F001_T1" in far
    assert "numbers 5440 to 5443, and holds 2439 to 2444" in far
    assert "--frame_offset (now 3000)" in far


@pytest.mark.parametrize("place", ["BP4D-training", "."])
def test_other_names_of_the_sequences(folder: Path, place: str) -> None:
    for subject in ("F001", "M018"):
        (folder / place).mkdir(exist_ok=True)
        picture(folder, subject).rename(folder / place / subject)
    picture(folder, "").rmdir()
    raw = BP4DRaw(folder)
    raw.check()
    assert read_number(next(raw.frames("M018_T8")).image) == 2


@pytest.mark.parametrize(
    "name", ["AU-Intensity-Codes3.0", "BP4D-AUIntensityCodes", "BP4D-AUIntensityCodes/Project", "AUCoding/AU_INT"]
)
def test_other_names_of_the_intensities(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / "AU Intensity Codes3.0").rename(folder / name)
    raw = BP4DRaw(folder)
    raw.check()
    assert next(raw.frames("F001_T1")).labels["AU17_intensity"] == level(17, 2440)


def test_the_older_place_of_the_occurrence_files(folder: Path) -> None:
    for path in list((folder / "AUCoding" / "AU_OCC").iterdir()):
        path.rename(folder / "AUCoding" / path.name)
    (folder / "AUCoding" / "AU_OCC").rmdir()
    raw = BP4DRaw(folder)
    raw.check()
    assert next(raw.frames("F001_T2")).labels["AU01"] == 1


def test_an_archive_without_intensities(folder: Path) -> None:
    (folder / "AU Intensity Codes3.0").rename(folder.parent / "elsewhere")
    raw = BP4DRaw(folder)
    raw.check()
    assert raw.label_columns[-1] == "AU39"
    assert "AU06_intensity" not in next(raw.frames("F001_T1")).labels


def test_a_sequence_without_intensities_is_unknown(folder: Path) -> None:
    for au in (6, 10, 12, 14, 17):
        intensity(folder, au, "M018_T8").unlink()
    raw = BP4DRaw(folder)
    raw.check()
    assert {record.labels["AU12_intensity"] for record in raw.frames("M018_T8")} == {-1}
    assert -1 not in {record.labels["AU12_intensity"] for record in raw.frames("F001_T1")}


def test_strangers_are_ignored(folder: Path) -> None:
    for name in ("AUCoding/AU_OCC/.DS_Store", "AUCoding/AU_OCC/F042_T11.csv", "2DFeatures/F001/T1.mat", "readme.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    (picture(folder, "F002/T5")).mkdir(parents=True)  # pictures without labels
    raw = BP4DRaw(folder)
    raw.check()
    assert len(raw.clips()) == 3


@pytest.mark.parametrize(
    ("line", "text", "what"),
    [
        (3, "9,1,0", r"line 3: '9,1,0' is not 42 whole numbers: the file is cut or damaged"),
        (3, "9" + ",0" * 40 + ",", r"line 3.* is not 42 whole numbers"),
        (5, "1", r"line 5: '1' is not 42 whole numbers"),
        (4, "10" + ",0" * 11 + ",2" + ",0" * 29, "line 4: AU 12 is 2, not 0, 1 or 9"),
        (4, "9" + ",0" * 41, "line 4: frame 9 after frame 9; frame numbers must increase"),
        (5, "3" + ",0" * 41, "line 5: frame 3 after frame 10"),
        (1, "8" + ",0" * 41, "line 1: .* is no header of AU numbers"),
        (1, "frame" + ",x" * 41, "line 1: .* is no header of AU numbers"),
    ],
)
def test_a_wrong_occurrence_file_is_named(folder: Path, line: int, text: str, what: str) -> None:
    replace_line(occurrence(folder), line, text)
    with pytest.raises(DataError, match=what) as caught:
        BP4DRaw(folder).check()
    assert str(occurrence(folder)) in str(caught.value)
    assert "restore" in caught.value.remedy


@pytest.mark.parametrize(
    ("line", "text"), [(2, "9,6"), (2, "9"), (2, "9,-1"), (3, "9,0"), (1, "frame,intensity"), (4, "11,1,1")]
)
def test_a_wrong_intensity_file_is_named(folder: Path, line: int, text: str) -> None:
    replace_line(intensity(folder, 12), line, text)
    assert f"{intensity(folder, 12)}, line {line}:" in refusal(folder)


def test_files_without_rows_are_named(folder: Path) -> None:
    header = occurrence(folder).read_text().splitlines()[0]
    occurrence(folder).write_text(header + "\n")
    assert f"{occurrence(folder)} has a header and no rows" in refusal(folder)
    occurrence(folder).write_bytes(b"")
    assert f"{occurrence(folder)} is empty" in refusal(folder)


def test_half_unpacked_intensities_are_named(folder: Path) -> None:
    intensity(folder, 14).unlink()
    assert f"{intensity(folder, 14)} is missing" in refusal(folder)
    (folder / "AU-Intensity-Codes3.0").mkdir()
    assert "both hold intensities" in refusal(folder)


def test_an_empty_picture_is_refused_before_decoding(folder: Path) -> None:
    picture(folder, "F001/T1/2441.jpg").write_bytes(b"")
    assert f"{picture(folder, 'F001/T1/2441.jpg')} is empty" in (message := refusal(folder))
    assert "flagged row" in message
    picture(folder, "F001/T1/2441.jpg").write_bytes(b"no picture")
    raw = BP4DRaw(folder)
    raw.check()
    with pytest.raises(DataError, match=r"2441\.jpg cannot be read"):
        list(raw.frames("F001_T1"))


def test_two_pictures_of_one_number_are_named(folder: Path) -> None:
    write_picture(picture(folder, "F001/T2/0009.jpg"), 9)
    assert "are both of number 9" in refusal(folder)


def test_labels_without_pictures_are_named(folder: Path) -> None:
    for path in picture(folder, "F001/T2").glob("*.jpg"):
        path.unlink()
    assert "none of the 4 labelled frames of F001_T2" in refusal(folder)
    for path in picture(folder, "F001/T2").iterdir():
        path.unlink()
    picture(folder, "F001/T2").rmdir()
    assert f"{picture(folder, 'F001/T2')} is missing" in (message := refusal(folder))
    assert "remove its label file" in message


def test_subjects_that_are_still_packed_are_named(folder: Path) -> None:
    picture(folder, "M018").rename(folder.parent / "elsewhere")
    picture(folder, "M018.zip").touch()
    assert f"{picture(folder, 'M018.zip')} is not unpacked" in refusal(folder)


def test_a_packed_archive_is_named(folder: Path) -> None:
    (folder / "Sequences(2D+3D)").rename(folder.parent / "elsewhere")
    (folder / "Sequences(2D+3D).zip").touch()
    assert f"{folder / 'Sequences(2D+3D).zip'} is not unpacked" in refusal(folder)
    (folder / "AUCoding").rename(folder / "AUCodes")
    (folder / "AUCoding.rar").touch()
    assert f"{folder / 'AUCoding.rar'} is not unpacked" in refusal(folder)


def test_a_wrong_root_is_named(folder: Path) -> None:
    assert "nowhere does not exist" in refusal(folder / "nowhere")
    assert f"point --raw to {folder}" in refusal(folder.parent)
    assert f"point --raw to {folder}" in refusal(folder / "AUCoding")
    (folder / "AUCoding" / "AU_OCC").rename(folder / "AUCoding" / "OCC")
    assert "has no label file F001_T1.csv" in refusal(folder)


def test_other_datasets_are_recognised(folder: Path) -> None:
    (folder / "Sequences(2D+3D)").rename(folder / "2D+3D")
    (folder / "AU Intensity Codes3.0").rename(folder / "AUCoding" / "AU_INT")
    message = refusal(folder)
    assert "has the layout of BP4D+, not of BP4D" in message
    assert f"prepare.py bp4d_plus --raw {folder}" in message
    disfa = folder.parent / "disfa"
    (disfa / "ActionUnit_Labels").mkdir(parents=True)
    assert f"prepare.py disfa --raw {disfa}" in refusal(disfa)


def test_subjects_and_tasks_of_the_sister_are_named(folder: Path) -> None:
    occurrence(folder).rename(occurrence(folder, "F024_T1"))
    assert "BP4D has no coded F024" in (message := refusal(folder))
    assert "prepare.py bp4d_plus" in message
    occurrence(folder, "F024_T1").rename(occurrence(folder, "F001_T10"))
    assert "BP4D has no coded T10" in refusal(folder)


def test_the_published_edition_has_known_rows(folder: Path) -> None:
    assert "F001 has 8 label rows, in the published archive 3934" in refusal(folder, edition="published")
    BP4DRaw(folder).check()


def test_fingerprint_follows_labels_options_and_pictures(folder: Path) -> None:
    before = BP4DRaw(folder).fingerprint("F001_T2")
    assert BP4DRaw(folder).fingerprint("F001_T2") == before
    assert BP4DRaw(folder, frame_offset=-1).fingerprint("F001_T2") != before
    picture(folder, "F001/T2/007.jpg").write_bytes(b"uncoded")
    assert BP4DRaw(folder).fingerprint("F001_T2") == before
    seen = {before}
    changes = [
        lambda: write_picture(picture(folder, "F001/T2/009.jpg"), 4095),
        lambda: picture(folder, "F001/T2/010.jpg").unlink(),
        lambda: intensity(folder, 6).write_text("8,1\n"),
        lambda: replace_line(occurrence(folder), 2, "8" + ",1" * 41),
        lambda: (folder / "AU Intensity Codes3.0").rename(folder / "elsewhere"),
    ]
    for change in changes:
        change()
        after = BP4DRaw(folder).fingerprint("F001_T2")
        assert after not in seen
        seen.add(after)
