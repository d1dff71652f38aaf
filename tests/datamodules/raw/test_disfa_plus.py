"""The parser against a small folder in DISFA+'s layout, written here without the code under test."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from datamodules.errors import DataError
from datamodules.raw.disfa_plus import DISFAPlusRaw

AUS = (1, 2, 4, 5, 6, 9, 12, 15, 17, 20, 25, 26)
SESSIONS = ("A1_AU1_TrailNo_1", "B2_AU6_TrailNo_2")
FRAMES = 4


def level(au: int, number: int) -> int:
    return (au + number) % 6


def write_folder(root: Path) -> Path:
    for subject in ("SN001", "SN027"):
        for session in SESSIONS:
            images, labels = root / "Images" / subject / session, root / "Labels" / subject / session
            images.mkdir(parents=True)
            labels.mkdir(parents=True)
            for number in range(FRAMES + 1):
                picture = np.full((16, 16), 10 * number, np.uint8)
                (images / f"{number:03d}.jpg").write_bytes(cv2.imencode(".jpg", picture)[1].tobytes())
            for au in AUS:
                lines = [f"{number:03d}.jpg     {level(au, number)}" for number in range(FRAMES)]
                (labels / f"AU{au}.txt").write_text("\r\n".join(["some text", "Frame   Intensity", *lines]) + "\r\n")
    return root


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "DISFAPlusDataset")


def labels(folder: Path, au: int) -> Path:
    return folder / "Labels" / "SN001" / SESSIONS[0] / f"AU{au}.txt"


def picture(folder: Path, number: int) -> Path:
    return folder / "Images" / "SN001" / SESSIONS[0] / f"{number:03d}.jpg"


def refusal(folder: Path, **options: object) -> str:
    with pytest.raises(DataError) as caught:
        DISFAPlusRaw(folder, **options).check()  # type: ignore[arg-type]
    assert caught.value.remedy
    return f"{caught.value} | {caught.value.remedy}"


@pytest.mark.parametrize("inner", [False, True], ids=["the folder", "the one that it lies in"])
def test_labels_and_pictures_belong_to_the_same_frame(folder: Path, inner: bool) -> None:
    raw = DISFAPlusRaw(folder.parent if inner else folder)
    raw.check()
    assert (raw.edition, raw.delivers) == ("custom", "")
    assert raw.clips() == [f"{subject}/{session}" for subject in ("SN001", "SN027") for session in SESSIONS]
    assert raw.label_columns == [f"AU{au:02d}_intensity" for au in AUS]
    for clip in raw.clips():
        assert raw.count(clip) == FRAMES
        assert raw.shard(clip) == clip[:5]
        records = list(raw.frames(clip))
        assert [f"{record.subject}/{record.sequence}" for record in records] == [clip] * FRAMES
        assert [record.frame for record in records] == [0, 1, 2, 3]
        assert [round(record.image.mean() / 10) for record in records] == [0, 1, 2, 3]
        assert [list(record.labels.values()) for record in records] == [
            [level(au, number) for au in AUS] for number in range(FRAMES)
        ]
    # Written out by hand: AU06 is the fifth column; picture 2 has level (6 + 2) % 6.
    assert records[2].labels["AU06_intensity"] == 2


def test_pictures_are_found_by_number(folder: Path) -> None:
    picture(folder, 1).rename(picture(folder, 1).with_name("00001.jpg"))
    picture(folder, 2).rename(picture(folder, 2).with_name("2.JPG"))
    (picture(folder, 2).parent / "Thumbs.db").touch()
    raw = DISFAPlusRaw(folder)
    raw.check()
    assert [round(record.image.mean() / 10) for record in raw.frames(raw.clips()[0])] == [0, 1, 2, 3]


def test_a_missing_picture_leaves_a_row(folder: Path) -> None:
    picture(folder, 1).unlink()
    raw = DISFAPlusRaw(folder)
    raw.check()
    records = list(raw.frames(raw.clips()[0]))
    assert [record.image is None for record in records] == [False, True, False, False]
    assert [record.labels["AU01_intensity"] for record in records] == [1, 2, 3, 4]


def test_uncoded_sessions_and_strangers_are_ignored(folder: Path) -> None:
    (folder / "Images" / "SN001" / "C9_uncoded").mkdir()
    (folder / "Labels" / "SN001" / "notes.txt").touch()
    (folder / "Labels" / "mean").mkdir()
    raw = DISFAPlusRaw(folder)
    raw.check()
    assert len(raw.clips()) == 4


@pytest.mark.parametrize(
    ("line", "text"),
    [(3, "000.jpg     6"), (4, "001.jpg"), (4, "003.png     1"), (5, "001.jpg     2"), (6, "002.jpg     0")],
)
def test_a_wrong_label_line_is_named(folder: Path, line: int, text: str) -> None:
    lines = labels(folder, 9).read_text().splitlines()
    lines[line - 1] = text
    labels(folder, 9).write_text("\n".join(lines) + "\n")
    assert f"{labels(folder, 9)}, line {line}:" in refusal(folder)


def test_files_without_header_or_rows_are_named(folder: Path) -> None:
    lines = labels(folder, 1).read_text().splitlines()
    labels(folder, 1).write_text("\n".join(lines[1:]) + "\n")
    assert f"{labels(folder, 1)}: '000.jpg     1' stands where 2 lines of header should be" in refusal(folder)
    labels(folder, 1).write_text("\n".join(lines[:2]) + "\n")
    assert f"{labels(folder, 1)} has no rows" in refusal(folder)
    labels(folder, 1).unlink()
    assert f"{labels(folder, 1)} cannot be read" in refusal(folder)


def test_a_shorter_label_file_is_named(folder: Path) -> None:
    lines = labels(folder, 12).read_text().splitlines()
    labels(folder, 12).write_text("\n".join(lines[:-1]) + "\n")
    assert f"{labels(folder, 12)} labels 3 pictures, AU1.txt beside it 4" in refusal(folder)
    labels(folder, 12).write_text("\n".join([*lines[:-1], "004.jpg     0"]) + "\n")
    assert f"{labels(folder, 12)} labels 4 pictures" in refusal(folder)


def test_pictures_that_are_empty_or_all_missing_are_named(folder: Path) -> None:
    picture(folder, 2).write_bytes(b"")
    assert f"{picture(folder, 2)} is empty" in refusal(folder)
    for number in range(FRAMES):
        picture(folder, number).unlink()
    assert f"none of the 4 labelled frames of SN001/{SESSIONS[0]}" in refusal(folder)
    picture(folder, FRAMES).unlink()
    picture(folder, 0).parent.rmdir()
    assert f"{picture(folder, 0).parent} is missing" in refusal(folder)


def test_a_wrong_root_is_named(folder: Path) -> None:
    assert "nowhere does not exist" in refusal(folder / "nowhere")
    assert f"point --raw to {folder}" in refusal(folder / "Images")
    (folder / "Labels").rename(folder / "labels")
    (folder / "Labels.zip").touch()
    assert f"{folder / 'Labels.zip'} is not unpacked" in refusal(folder)


def test_disfa_is_recognised(tmp_path: Path) -> None:
    (tmp_path / "Videos_LeftCamera").mkdir()
    (tmp_path / "ActionUnit_Labels" / "SN001").mkdir(parents=True)
    assert f"prepare.py disfa --raw {tmp_path}" in refusal(tmp_path)


def test_the_published_edition_has_all_subjects(folder: Path) -> None:
    message = refusal(folder, edition="published")
    assert "SN003, SN004, SN007, SN009, SN010, SN013, SN025 of the published archive are missing" in message


def test_fingerprint_follows_labels_and_pictures(folder: Path) -> None:
    clip = DISFAPlusRaw(folder).clips()[0]
    seen = {DISFAPlusRaw(folder).fingerprint(clip)}
    assert DISFAPlusRaw(folder).fingerprint(clip) in seen
    for change in (
        lambda: labels(folder, 26).write_text(labels(folder, 26).read_text().replace("003.jpg     5", "003.jpg     4")),
        lambda: picture(folder, 3).unlink(),
        lambda: picture(folder, 2).write_bytes(b"other"),
    ):
        change()
        after = DISFAPlusRaw(folder).fingerprint(clip)
        assert after not in seen
        seen.add(after)
