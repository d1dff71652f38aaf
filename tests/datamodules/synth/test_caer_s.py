"""The twin of CAER-S against the renderer, and the parser against the twin's truth."""

import filecmp
from pathlib import Path

import numpy as np
import pytest

from datamodules.errors import DataError
from datamodules.raw.caer_s import CAERSRaw
from datamodules.raw.records import FrameRecord
from datamodules.synth.caer_s import box_of, render_scene, write_caer_s
from datamodules.synth.twin import TruthRow, read_truth

SIZE = 64
FOLDERS = ("Anger", "Disgust", "Fear", "Happy", "Neutral", "Sad", "Surprise")
EXPRESSIONS = {"Anger": 1, "Disgust": 2, "Fear": 3, "Happy": 4, "Neutral": 0, "Sad": 5, "Surprise": 6}


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_caer_s(tmp_path_factory.mktemp("twin") / "raw", subjects=3, size=SIZE, progress=False)


@pytest.fixture(scope="module")
def truth(twin: Path) -> dict[str, TruthRow]:
    return {row.subject: row for row in read_truth(twin)}


@pytest.fixture(scope="module")
def records(twin: Path) -> dict[str, FrameRecord]:
    raw = CAERSRaw(twin, twin / "boxes" / "annotations")
    raw.check()
    return {record.subject: record for clip in raw.clips() for record in raw.frames(clip)}


def test_layout_is_the_archives(twin: Path) -> None:
    assert sorted(path.name for path in (twin / "train").iterdir()) == ["Angry", *FOLDERS[1:]]
    assert sorted(path.name for path in (twin / "test").iterdir()) == list(FOLDERS)
    assert sorted(path.name for path in (twin / "train" / "Sad").iterdir()) == ["0001.png", "0002.png", "0004.png"]
    assert sorted(path.name for path in (twin / "test" / "Sad").iterdir()) == ["0001.png", "0002.png"]
    assert (twin / "train" / "Disgust" / ".DS_Store").exists()
    lists = {str(path.relative_to(twin / "boxes")) for path in (twin / "boxes").rglob("*.txt")}
    assert lists == {
        *("annotations/train.txt", "annotations/test.txt"),
        *("detector/train.txt", "detector/val.txt", "detector/test.txt"),
    }


def test_the_parser_finds_the_truth(records: dict[str, FrameRecord], truth: dict[str, TruthRow]) -> None:
    assert list(records) == list(truth)
    assert len(records) == 7 * (3 + 2)
    for subject, record in records.items():
        part, folder, number = subject.split("/")
        assert (record.sequence, record.frame, record.split) == ("still", 0, part)
        assert record.labels == truth[subject].labels == {"expression": EXPRESSIONS[folder]}
        scene = render_scene(0, part, folder, int(number), SIZE)  # type: ignore[arg-type]
        np.testing.assert_array_equal(record.image, scene.image)
        np.testing.assert_array_equal(truth[subject].landmarks, scene.landmarks)


def test_boxes_hold_the_labelled_face(records: dict[str, FrameRecord], truth: dict[str, TruthRow]) -> None:
    assert [subject for subject, record in records.items() if record.box is None] == ["train/Surprise/0001"]
    for subject, record in records.items():
        if record.box is not None:
            points = truth[subject].landmarks
            assert (record.box[:2] <= points.min(axis=0) + 1).all()
            assert (record.box[2:] >= points.max(axis=0) - 1).all()
            width, height = record.box[2:] - record.box[:2]
            assert width == pytest.approx(height, abs=1)
            assert width < 1.3 * np.ptp(points, axis=0).max() + 2


def test_both_kinds_of_lists_say_the_same(twin: Path, records: dict[str, FrameRecord]) -> None:
    raw = CAERSRaw(twin, twin / "boxes" / "detector")
    raw.check()
    for clip in raw.clips():
        for record in raw.frames(clip):
            np.testing.assert_equal(record.box, records[record.subject].box)
    lines = (twin / "boxes" / "annotations" / "train.txt").read_text().splitlines()
    assert lines[0].startswith("train/Angry/0001.png,0,")
    x1, y1, x2, y2 = map(int, lines[0].split(",")[2:])
    assert x1 > x2
    assert y1 > y2
    assert records["train/Fear/0002"].box[0] < 0


def test_one_picture_is_on_both_sides(twin: Path, records: dict[str, FrameRecord]) -> None:
    assert filecmp.cmp(twin / "test" / "Happy" / "0001.png", twin / "train" / "Happy" / "0002.png", shallow=False)
    pictures = [record.image.tobytes() for record in records.values()]
    assert len(set(pictures)) == len(pictures) - 1


def test_pictures_differ_in_size_and_company(records: dict[str, FrameRecord]) -> None:
    shapes = [record.image.shape[:2] for record in records.values()]
    assert len(set(shapes)) > 15
    assert max(height for height, _ in shapes) <= SIZE
    assert all(1.28 < width / height < 1.5 for height, width in shapes)
    scenes = [render_scene(0, "train", "Neutral", number, SIZE) for number in range(1, 13)]
    accompanied = [scene for scene in scenes if scene.others]
    assert 1 <= len(accompanied) <= 8
    for scene in accompanied:
        (mine, other) = ((x2 - x1) for x1, _, x2, _ in map(box_of, (scene.landmarks, scene.others[0])))
        assert mine > 1.1 * other
        assert np.linalg.norm(scene.landmarks.mean(axis=0) - scene.others[0].mean(axis=0)) > mine


def test_faults_are_refused_and_touch_nothing_else(twin: Path, tmp_path: Path) -> None:
    out = write_caer_s(tmp_path / "raw", subjects=2, size=SIZE, with_faults=True, progress=False)
    with pytest.raises(DataError, match=r"train/Sad/0001\.png is empty"):
        CAERSRaw(out).check()
    pictures = sorted(path.relative_to(out) for path in out.rglob("*.png"))
    assert len(pictures) == 28
    differ = [str(name) for name in pictures if not filecmp.cmp(out / name, twin / name, shallow=False)]
    assert differ == ["train/Sad/0001.png"]  # the same bytes whatever else is rendered
    (out / "train" / "Sad" / "0001.png").write_bytes((twin / "train" / "Sad" / "0001.png").read_bytes())
    CAERSRaw(out).check()
    for kind in ("annotations", "detector"):
        with pytest.raises(DataError, match=r"train\.txt, line 13"):  # one of 14 images is not listed
            CAERSRaw(out, out / "boxes" / kind).check()


def test_the_seed_makes_other_scenes() -> None:
    first, second = (render_scene(seed, "test", "Sad", 1, SIZE).image for seed in (0, 1))
    assert first.shape != second.shape or (first != second).any()


@pytest.mark.parametrize("wrong", [{"subjects": 1}, {"size": 32}, {"seed": -1}])
def test_numbers_out_of_range_are_refused(tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(DataError, match=next(iter(wrong))):
        write_caer_s(tmp_path / "raw", **wrong)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
