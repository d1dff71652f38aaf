"""The twin of BP4D against the renderer, and the parser against the twin's truth."""

import filecmp
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from datamodules.errors import DataError
from datamodules.raw.bp4d import BP4DRaw
from datamodules.synth.bp4d import write_bp4d
from datamodules.synth.clips import SynthFrame, render_clip
from datamodules.synth.twin import read_truth

FRAMES, SIZE = 5, 48
FACES = {"F001": 1001, "M011": 1511}  # number of the renderer's subject
STARTS = {"F001_T1": 2440, "F001_T2": 1, "M011_T1": 721, "M011_T2": 95}
CODED = [1, 2, 4, 5, 6, 7, *range(9, 21), 22, 23, 24, *range(27, 40)]
INTENSITY = (6, 10, 12, 14, 17)
# Parts 1, 2 and 3 of the folds that JAA-Net, AU-Net and ME-GraphAU publish.
PARTS = (
    "F001 M007 F018 F008 F002 M004 F010 F009 M012 M001 F016 M014 F023 M008",
    "M011 F003 M010 M002 F005 F022 M018 M017 F013 M016 F020 F011 M013 M005",
    "F007 F015 F006 F019 M006 M009 F012 M003 F004 F021 F017 M015 F014",
)


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bp4d(tmp_path_factory.mktemp("twin") / "raw", 2, 2, FRAMES, size=SIZE, progress=False)


def rendered(subject: str, task: str, number: int) -> SynthFrame:
    """What the renderer shows as picture ``number`` of a task: the second frame of a clip with so long a stride."""
    index = 10_000 * int(task[1:]) + number
    return list(render_clip(FACES[subject], 2, seed=0, size=SIZE, fps=25, stride=index))[1]


def pictures(twin: Path, clip: str) -> Path:
    return twin / "Sequences(2D+3D)" / clip[:4] / clip[5:]


def occurrence(twin: Path, clip: str) -> list[list[str]]:
    text = (twin / "AUCoding" / "AU_OCC" / f"{clip}.csv").read_text()
    return [line.split(",") for line in text.splitlines()]


def intensity(twin: Path, clip: str, au: int) -> list[str]:
    return (twin / "AU Intensity Codes3.0" / f"AU{au:02d}" / f"{clip}_AU{au:02d}.csv").read_text().splitlines()


def test_layout_is_the_archives(twin: Path) -> None:
    assert sorted(path.name for path in twin.iterdir()) == [
        *("AU Intensity Codes3.0", "AUCoding", "Sequences(2D+3D)", "truth.parquet")
    ]
    assert sorted(path.stem for path in (twin / "AUCoding" / "AU_OCC").iterdir()) == sorted(STARTS)
    for clip, first in STARTS.items():
        header, *rows = occurrence(twin, clip)
        assert header[0] == "0"
        assert sorted(map(int, header)) == list(range(47))
        assert [int(row[0]) for row in rows] == list(range(first, first + FRAMES))
        for row in rows:
            codes = dict(zip(map(int, header), row, strict=True))
            assert {codes[au] for au in (3, 8, 21, 25, 26, *range(40, 47))} == {"9"}
            assert {codes[au] for au in CODED} <= ({"0", "1", "9"} if clip == "F001_T1" else {"0", "1"})
        for au in INTENSITY:
            assert all(line.split(",")[1] in "012345" or clip == "F001_T1" for line in intensity(twin, clip, au))


def test_the_traps_are_there(twin: Path) -> None:
    assert sorted(path.name for path in pictures(twin, "F001_T1").iterdir()) == [
        *("2439.jpg", "2440.jpg", "2440.mtl", "2440.obj", "2441.jpg", "2443.jpg", "2444.jpg", "2445.jpg")
    ]  # 2442 is missing; 2439 and 2445 are not labelled
    assert sorted(path.name for path in pictures(twin, "F001_T2").iterdir()) == [f"{n:03d}.jpg" for n in range(1, 7)]
    assert sorted(path.name for path in pictures(twin, "M011_T1").iterdir()) == [
        f"{n:04d}.jpg" for n in range(720, 727)
    ]
    first, second = occurrence(twin, "F001_T1"), occurrence(twin, "F001_T2")
    assert first[0] == [str(au) for au in range(47)]
    assert second[0] != first[0]
    assert first[2][10] == "9"  # frame 2441, AU 10
    assert intensity(twin, "F001_T1", 6)[2] == "2442,9"
    assert [line.split(",")[0] for line in intensity(twin, "F001_T1", 12)] == ["2440", "2442", "2443", "2444"]
    truth = {(row.subject, row.sequence, row.frame): row for row in read_truth(twin)}
    assert [key for key, row in truth.items() if not row.image] == [("F001", "T1", 2442)]
    assert truth["F001", "T1", 2442].landmarks is None
    unknown = [(*key, column) for key, row in truth.items() for column, value in row.labels.items() if value == -1]
    assert sorted(unknown) == [
        ("F001", "T1", 2441, "AU10"),
        ("F001", "T1", 2441, "AU12_intensity"),
        ("F001", "T1", 2442, "AU06_intensity"),
    ]


def test_the_parser_returns_the_truth(twin: Path) -> None:
    raw = BP4DRaw(twin)
    raw.check()
    assert raw.edition == "twin"
    truth = list(read_truth(twin))
    records = [record for clip in raw.clips() for record in raw.frames(clip)]
    assert len(truth) == len(records) == 4 * FRAMES
    for record, row in zip(records, truth, strict=True):
        assert (record.subject, record.sequence, record.frame) == row[:3]
        assert record.labels == row.labels
        assert (record.image is not None) == row.image
    assert raw.label_columns == [*(f"AU{au:02d}" for au in CODED), *(f"AU{au:02d}_intensity" for au in INTENSITY)]


def test_labels_and_landmarks_are_the_renderers(twin: Path) -> None:
    truth = {(row.subject, row.sequence, row.frame): row for row in read_truth(twin)}
    raw = BP4DRaw(twin)
    seen = set()
    for clip, number in (("F001_T1", 2443), ("F001_T2", 1), ("F001_T2", 5), ("M011_T1", 724), ("M011_T2", 99)):
        subject, task = clip.split("_")
        frame = rendered(subject, task, number)
        record = next(record for record in raw.frames(clip) if record.frame == number)
        for au in CODED:
            assert record.labels[f"AU{au:02d}"] == (frame.intensity.get(au, 0) >= 1)
        for au in INTENSITY:
            assert record.labels[f"AU{au:02d}_intensity"] == frame.intensity[au]
        np.testing.assert_array_equal(truth[subject, task, number].landmarks, frame.landmarks)
        seen |= set(record.labels.values())
    assert {0, 1} < seen


@pytest.mark.parametrize(("clip", "number"), [("F001_T1", 2441), ("F001_T2", 3), ("M011_T2", 97)])
def test_a_picture_is_of_its_frame_and_no_neighbour(twin: Path, clip: str, number: int) -> None:
    image = next(record.image for record in BP4DRaw(twin).frames(clip) if record.frame == number)
    subject, task = clip.split("_")
    near = {
        n: np.abs(rendered(subject, task, n).image.astype(int) - image).mean() for n in range(number - 2, number + 3)
    }
    assert near[number] < 4  # JPEG of a noisy picture
    assert sorted(near.values())[1] > 1.2 * near[number]


def test_uncoded_pictures_are_of_their_frames(twin: Path) -> None:
    path = pictures(twin, "M011_T1") / "0726.jpg"
    image = cv2.imread(str(path))[..., ::-1].astype(int)
    near = {n: np.abs(rendered("M011", "T1", n).image - image).mean() for n in (725, 726, 727)}
    assert near[726] == min(near.values()) < 4


def test_any_number_of_subjects_covers_folds_and_sexes(tmp_path: Path) -> None:
    from datamodules.synth.bp4d import _ORDER

    parts = [part.split() for part in PARTS]
    assert sorted(_ORDER) == sorted(name for part in parts for name in part)
    for subjects in range(2, 42):
        chosen = _ORDER[:subjects]
        assert {name[0] for name in chosen} == {"F", "M"}
        inside = [sum(name in part for name in chosen) for part in parts]
        assert max(inside) - min(inside) <= 1
    for fold in range(3):
        assert {name[0] for name in _ORDER[:6] if name in parts[fold]} == {"F", "M"}


def test_bytes_follow_from_the_arguments_alone(tmp_path: Path, twin: Path) -> None:
    """A subject's files do not depend on the others: so neither on the order, nor on workers."""
    one = write_bp4d(tmp_path / "one", 1, 2, FRAMES, size=SIZE, progress=False)
    files = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file() and path.name != "truth.parquet")
    assert len(files) == (6 + 2) + 6 + 2 + 2 * 5
    for name in files:
        assert filecmp.cmp(one / name, twin / name, shallow=False), name
    assert [row[:3] for row in read_truth(one)] == [row[:3] for row in read_truth(twin) if row.subject == "F001"]


def test_faults_are_refused_one_after_the_other(tmp_path: Path) -> None:
    faulty = write_bp4d(tmp_path / "faulty", 2, 1, 4, size=32, with_faults=True, progress=False)
    whole = write_bp4d(tmp_path / "whole", 2, 1, 4, size=32, progress=False)
    BP4DRaw(whole).check()
    labels, picture = Path("AUCoding/AU_OCC/M011_T1.csv"), Path("Sequences(2D+3D)/M011/T1/004.jpg")
    for name, what in ((labels, "is cut or damaged"), (picture, "is empty")):
        with pytest.raises(DataError, match=what) as caught:
            BP4DRaw(faulty).check()
        assert str(faulty / name) in str(caught.value)
        shutil.copy(whole / name, faulty / name)
    BP4DRaw(faulty).check()


@pytest.mark.parametrize(
    "wrong", [{"subjects": 42}, {"subjects": 0}, {"tasks": 9}, {"frames": 3}, {"size": 8}, {"seed": -1}]
)
def test_numbers_out_of_range_are_refused(tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(DataError, match=next(iter(wrong))):
        write_bp4d(tmp_path / "raw", **wrong)
    assert list(tmp_path.iterdir()) == []
