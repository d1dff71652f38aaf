"""The parser against small folders in CAER-S's layout, written here without the code under test."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from datamodules.caer_s import CAERS
from datamodules.errors import DataError
from datamodules.prepare import prepare
from datamodules.raw.caer_s import CAERSRaw

FOLDERS = ("Anger", "Disgust", "Fear", "Happy", "Neutral", "Sad", "Surprise")
# facs.EXPRESSIONS: Neutral Anger Disgust Fear Happiness Sadness Surprise
LABELS = {"Anger": 1, "Disgust": 2, "Fear": 3, "Happy": 4, "Neutral": 0, "Sad": 5, "Surprise": 6}
NUMBERS = {"train": (1, 2, 5), "test": (1, 3)}


def grey(part: str, folder: str, number: int) -> int:
    return 100 * (part == "test") + 10 * FOLDERS.index(folder) + number


def write_folder(root: Path, angry: tuple[str, ...] = ("train",)) -> Path:
    for part, numbers in NUMBERS.items():
        for folder in FOLDERS:
            path = root / part / ("Angry" if folder == "Anger" and part in angry else folder)
            path.mkdir(parents=True)
            for number in numbers:
                shape = (8 + number, 12, 3)
                image = np.full(shape, grey(part, folder, number), np.uint8)
                (path / f"{number:04d}.png").write_bytes(cv2.imencode(".png", image)[1].tobytes())
            (path / "Thumbs.db").touch()
        (root / part / ".ipynb_checkpoints").mkdir()
    return root


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "raw")


def write_list(path: Path, *lines: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def refusal(folder: Path, boxes: Path | None = None, edition: str = "custom") -> DataError:
    with pytest.raises(DataError) as caught:
        CAERSRaw(folder, boxes, edition).check()  # type: ignore[arg-type]
    assert caught.value.remedy
    return caught.value


def boxes_of(folder: Path, boxes: Path) -> dict[str, list[float]]:
    raw = CAERSRaw(folder, boxes)
    raw.check()
    assert raw.delivers == "box"
    records = [record for clip in raw.clips() for record in raw.frames(clip)]
    return {record.subject: record.box.tolist() for record in records if record.box is not None}


@pytest.mark.parametrize("angry", [(), ("train",), ("test",), ("train", "test")])
def test_every_image_is_a_subject_of_its_class(tmp_path: Path, angry: tuple[str, ...]) -> None:
    raw = CAERSRaw(write_folder(tmp_path / "raw", angry))
    raw.check()
    assert raw.clips() == [f"{part}_{folder}" for part in ("test", "train") for folder in FOLDERS]
    assert (raw.delivers, raw.release, raw.label_columns) == ("", "", ["expression"])
    for clip in raw.clips():
        part, folder = clip.split("_")
        records = list(raw.frames(clip))
        assert raw.shard(clip) == clip
        assert raw.count(clip) == len(records)
        assert [record.subject for record in records] == [f"{part}/{folder}/{n:04d}" for n in NUMBERS[part]]
        for record, number in zip(records, NUMBERS[part], strict=True):
            assert (record.sequence, record.frame, record.split, record.box) == ("still", 0, part, None)
            assert np.isnan(record.pts)
            assert record.labels == {"expression": LABELS[folder]}
            assert record.image.shape == (8 + number, 12, 3)
            assert (record.image == grey(part, folder, number)).all()


def test_classes_have_their_names() -> None:
    names = [CAERSRaw.expressions[LABELS[folder]] for folder in FOLDERS]
    assert names == ["Anger", "Disgust", "Fear", "Happiness", "Neutral", "Sadness", "Surprise"]


def test_boxes_of_the_annotators(folder: Path, tmp_path: Path) -> None:
    """Lines as in the public list: both spellings, a negative corner, one beyond the picture, corners out of order."""
    path = write_list(
        *(tmp_path / "boxes.txt", "train/Angry/0001.png,0,3,2,9,7", "train/Anger/0002.png,0,-2,-1,5,5"),
        *("test/Anger/0003.png,0,4,4,40,90", "train/Sad/0005.png,5,9,8,1,2", "test/Surprise/0001.png,6,1,8,7,2", ""),
    )
    assert boxes_of(folder, path) == {
        "train/Anger/0001": [3, 2, 9, 7],
        "train/Anger/0002": [-2, -1, 5, 5],
        "test/Anger/0003": [4, 4, 40, 90],
        "train/Sad/0005": [1, 2, 9, 8],
        "test/Surprise/0001": [1, 2, 7, 8],
    }


@pytest.mark.parametrize(("name", "part"), [("train.txt", "train"), ("val.txt", "test"), ("test.txt", "test")])
def test_boxes_of_detectors_belong_to_the_part_in_the_files_name(
    folder: Path, tmp_path: Path, name: str, part: str
) -> None:
    path = write_list(tmp_path / name, "Happy/0001.png,3,1,2,3,4", "Angry/0001.png,0,2,2,6,6")
    assert boxes_of(folder, path) == {f"{part}/Happy/0001": [1, 2, 3, 4], f"{part}/Anger/0001": [2, 2, 6, 6]}


def test_a_folder_of_lists_is_read_whole(folder: Path, tmp_path: Path) -> None:
    write_list(tmp_path / "lists" / "train.txt", "Fear/0002.png,2,1,1,4,4")
    write_list(tmp_path / "lists" / "val.txt", "Fear/0001.png,2,2,2,5,5")
    write_list(tmp_path / "lists" / "test.txt", "Fear/0003.png,2,3,3,6,6")
    assert boxes_of(folder, tmp_path / "lists") == {
        "train/Fear/0002": [1, 1, 4, 4],
        "test/Fear/0001": [2, 2, 5, 5],
        "test/Fear/0003": [3, 3, 6, 6],
    }


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("train/Fear/0001.png 2 1 1 4 4", "is neither"),
        ("train/Fear/0001.png,2,1,1,4", "is neither"),
        ("train/Fear/0001.png,2,1.5,1,4,4", "is neither"),
        ("train/Fright/0001.png,2,1,1,4,4", "is neither"),
        ("validation/Fear/0001.png,2,1,1,4,4", "is neither"),
        ("train/Fear/0009.png,2,1,1,4,4", "no such image"),
        ("train/Fear/0001.png,4,1,1,4,4", "class 4 contradicts"),
        ("train/Fear/0001.png,2,4,1,4,4", "no area"),
        ("train/Fear/0002.png,2,1,1,4,5", "another box"),
    ],
)
def test_a_wrong_box_line_is_named(folder: Path, tmp_path: Path, line: str, reason: str) -> None:
    path = write_list(tmp_path / "boxes.txt", "train/Fear/0002.png,2,1,1,4,4", line)
    message = str(refusal(folder, path))
    assert f"{path}, line 2: {line!r}" in message
    assert reason in message


def test_a_line_that_is_there_twice_does_no_harm(folder: Path, tmp_path: Path) -> None:
    path = write_list(tmp_path / "boxes.txt", *["train/Fear/0002.png,2,1,1,4,4"] * 2)
    assert boxes_of(folder, path) == {"train/Fear/0002": [1, 1, 4, 4]}


def test_a_list_without_part_wants_a_name_that_says_it(folder: Path, tmp_path: Path) -> None:
    path = write_list(tmp_path / "boxes.txt", "Fear/0001.png,2,1,1,4,4")
    error = refusal(folder, path)
    assert "which part" in str(error)
    assert "val.txt" in error.remedy


def test_a_missing_or_empty_list_is_named(folder: Path, tmp_path: Path) -> None:
    assert str(tmp_path / "none.txt") in str(refusal(folder, tmp_path / "none.txt"))
    (tmp_path / "empty").mkdir()
    assert str(tmp_path / "empty") in str(refusal(folder, tmp_path / "empty"))
    assert "is empty" in str(refusal(folder, write_list(tmp_path / "boxes.txt")))


def test_missing_parts_are_named(folder: Path, tmp_path: Path) -> None:
    assert str(tmp_path / "nowhere") in str(refusal(tmp_path / "nowhere"))
    assert f"point --raw to {folder}" in refusal(folder.parent).remedy
    (folder / "train" / "Sad").rename(tmp_path / "kept")
    assert str(folder / "train" / "Sad") in str(refusal(folder))
    (folder / "train" / "Sad").mkdir()
    assert f"{folder / 'train' / 'Sad'} has no 0001.png" in str(refusal(folder))
    (folder / "test").rename(tmp_path / "test")
    (folder / "test.zip").touch()
    assert f"{folder / 'test.zip'} is not unpacked" in str(refusal(folder))


def test_the_video_edition_is_recognised(folder: Path) -> None:
    (folder / "train" / "Fear" / "0001.avi").touch()
    assert "this is CAER, not CAER-S" in str(refusal(folder))


def test_a_class_in_two_spellings_or_of_no_name_is_refused(folder: Path) -> None:
    (folder / "train" / "Anger").mkdir()
    assert "two spellings" in str(refusal(folder))
    (folder / "train" / "Anger").rename(folder / "train" / "Contempt")
    assert str(folder / "train" / "Contempt") in str(refusal(folder))


def test_an_empty_image_is_named(folder: Path) -> None:
    path = folder / "test" / "Fear" / "0003.png"
    content = path.read_bytes()
    path.write_bytes(b"")
    assert str(path) in str(refusal(folder))
    path.write_bytes(content[:-20])
    CAERSRaw(folder).check()
    with pytest.raises(DataError, match=r"0003\.png is cut short"):
        list(CAERSRaw(folder).frames("test_Fear"))


def test_the_published_edition_has_known_images(folder: Path) -> None:
    assert "train has 21 images, in the published archive 49007" in str(refusal(folder, edition="published"))


def test_fingerprint_follows_images_and_boxes(folder: Path, tmp_path: Path) -> None:
    before = CAERSRaw(folder).fingerprint("train_Fear")
    assert CAERSRaw(folder).fingerprint("train_Fear") == before
    first = write_list(tmp_path / "a.txt", "train/Fear/0001.png,2,1,1,4,4")
    second = write_list(tmp_path / "b.txt", "train/Fear/0001.png,2,1,1,4,5")
    boxed = [CAERSRaw(folder, path).fingerprint("train_Fear") for path in (first, second)]
    assert len({before, *boxed}) == 3
    (folder / "train" / "Fear" / "0005.png").unlink()
    assert CAERSRaw(folder).fingerprint("train_Fear") != before


def test_lines_of_the_public_list_are_read(folder: Path, tmp_path: Path) -> None:
    """As they stand in CAERS-Annotations, of images that this folder has; some have their corners out of order."""
    lines = ["train/Angry/0002.png,0,304,120,382,219", "test/Happy/0001.png,3,232,86,379,233"]
    swapped = "train/Angry/0005.png,0,389,161,315,70"  # image 0067's
    boxes = boxes_of(folder, write_list(tmp_path / "train.txt", *lines, swapped))
    assert boxes["train/Anger/0005"] == [315, 70, 389, 161]
    assert len(boxes) == 3


def test_a_picture_without_a_box_is_on_no_side_and_one_with_a_box_beyond_it_is(folder: Path, tmp_path: Path) -> None:
    lines = []
    for part, numbers in NUMBERS.items():
        for label, name in enumerate(FOLDERS):
            spelling = "Angry" if (part, name) == ("train", "Anger") else name
            lines += [f"{part}/{spelling}/{number:04d}.png,{label},1,1,9,8" for number in numbers]
    lines.remove("train/Sad/0002.png,5,1,1,9,8")
    lines[0] = lines[0].replace("1,1,9,8", "-4,-3,9,30")
    raw = CAERSRaw(folder, write_list(tmp_path / "lists" / "all.txt", *lines))
    prepare(raw, tmp_path / "store", size=16, progress=False)
    data = CAERS(str(tmp_path / "store"))
    data.setup()
    assert data.unreadable == 1
    names = data.opened.subjects[data.opened.subject_code]
    sides = {names[row] for rows in (data.rows_train, data.rows_val, data.rows_test) for row in rows}
    assert set(names) - sides == {"train/Sad/0002"}
    beyond = data.samples(train=False)[int(np.flatnonzero(names == "train/Anger/0001")[0])]["image"]
    # Its box is 13 pixels wide, of which 9 are in the picture, behind the 4 before it.
    known = beyond[:, :, round(16 * 5 / 13) :].float()
    assert known.shape[2] > 0
    assert (known[:, 3:5] - grey("train", "Anger", 1)).abs().max() <= 3
