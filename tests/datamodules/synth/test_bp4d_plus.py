"""The twin of BP4D+ against the renderer, and the parser against the twin's truth."""

import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from datamodules.errors import DataError
from datamodules.raw.bp4d import BP4DRaw
from datamodules.raw.bp4d_plus import BP4DPlusRaw
from datamodules.synth.bp4d_plus import write_bp4d_plus
from datamodules.synth.clips import SynthFrame, render_clip
from datamodules.synth.twin import read_truth

FRAMES, SIZE = 5, 48
FACES = {"F001": 2001, "M001": 2501}  # number of the renderer's subject
STARTS = {"F001_T1": 1, "F001_T6": 301, "M001_T1": 26, "M001_T6": 1}  # first labelled frame, from 1
CODED = [1, 2, 4, 5, 6, 7, *range(9, 21), 22, 23, 24, *range(27, 40)]
INTENSITY = (6, 10, 12, 14, 17)


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bp4d_plus(tmp_path_factory.mktemp("twin") / "raw", 2, 2, FRAMES, size=SIZE, progress=False)


def rendered(subject: str, task: str, number: int) -> SynthFrame:
    """What the renderer shows as picture ``number`` of a task: the second frame of a clip with so long a stride."""
    index = 10_000 * int(task[1:]) + number
    return list(render_clip(FACES[subject], 2, seed=0, size=SIZE, fps=25, stride=index))[1]


def test_layout_is_the_archives_with_its_traps(twin: Path) -> None:
    assert sorted(path.name for path in twin.iterdir()) == ["2D+3D", "AUCoding", "Physiology", "truth.parquet"]
    assert sorted(path.name for path in (twin / "2D+3D").iterdir()) == ["F001.zip", "M001"]
    with zipfile.ZipFile(twin / "2D+3D" / "F001.zip") as packed:
        names = packed.namelist()
    # From 0; picture 2 (frame 3) is missing; the last is not labelled; T2 is not coded.
    assert [name for name in names if "/T1/" in name] == [f"F001/T1/{n}.jpg" for n in (5, 4, 3, 1, 0)]
    assert [name for name in names if "/T6/" in name] == [f"F001/T6/{n}.jpg" for n in range(305, 298, -1)]
    assert [name for name in names if "/T2/" in name] == ["F001/T2/1.jpg", "F001/T2/0.jpg"]
    unpacked = twin / "2D+3D" / "M001"
    assert sorted(path.name for path in (unpacked / "T1").iterdir()) == [f"{n:04d}.jpg" for n in range(24, 31)]
    assert sorted(path.name for path in (unpacked / "T6").iterdir()) == [f"{n:03d}.jpg" for n in range(6)]
    assert list((twin / "Physiology" / "F042" / "T11").iterdir()) == []
    for clip, first in STARTS.items():
        header, *rows = (twin / "AUCoding" / "AU_OCC" / f"{clip}.csv").read_text().splitlines()
        assert header == ",".join(map(str, [0, *CODED]))
        assert [int(row.split(",")[0]) for row in rows] == list(range(first, first + FRAMES))
        for au in INTENSITY:
            lines = (twin / "AUCoding" / "AU_INT" / f"AU{au:02d}" / f"{clip}_AU{au:02d}.csv").read_text().splitlines()
            assert [line.split(",")[0] for line in lines] == [row.split(",")[0] for row in rows]
    row = (twin / "AUCoding" / "AU_OCC" / "F001_T1.csv").read_text().splitlines()[2].split(",")
    assert row[1 + CODED.index(10)] == "9"
    assert (twin / "AUCoding" / "AU_INT" / "AU06" / "F001_T1_AU06.csv").read_text().splitlines()[2] == "3,9"


def test_the_parser_returns_the_truth(twin: Path) -> None:
    raw = BP4DPlusRaw(twin)
    raw.check()
    assert raw.edition == "twin"
    truth = list(read_truth(twin))
    records = [record for clip in raw.clips() for record in raw.frames(clip)]
    assert len(truth) == len(records) == 4 * FRAMES
    for record, row in zip(records, truth, strict=True):
        assert (record.subject, record.sequence, record.frame) == row[:3]
        assert record.labels == row.labels
        assert (record.image is not None) == row.image
    assert [row[:3] for row in truth if not row.image] == [("F001", "T1", 3)]
    unknown = [(*row[:3], column) for row in truth for column, value in row.labels.items() if value == -1]
    assert unknown == [("F001", "T1", 2, "AU10"), ("F001", "T1", 3, "AU06_intensity")]


@pytest.mark.parametrize(("clip", "frame"), [("F001_T1", 1), ("F001_T6", 303), ("M001_T1", 28), ("M001_T6", 5)])
def test_labels_and_picture_are_of_the_same_rendered_frame(twin: Path, clip: str, frame: int) -> None:
    """Label row f and picture f - 1 both belong to what the renderer shows as picture f - 1."""
    subject, task = clip.split("_")
    record = next(record for record in BP4DPlusRaw(twin).frames(clip) if record.frame == frame)
    near = {n: rendered(subject, task, n) for n in range(frame - 3, frame + 2) if n >= 0}
    distance = {n: np.abs(shown.image.astype(int) - record.image).mean() for n, shown in near.items()}
    assert distance[frame - 1] < 4  # JPEG of a noisy picture
    assert sorted(distance.values())[1] > 1.2 * distance[frame - 1]
    shown = near[frame - 1]
    assert [record.labels[f"AU{au:02d}"] for au in CODED] == [int(shown.intensity.get(au, 0) >= 1) for au in CODED]
    assert [record.labels[f"AU{au:02d}_intensity"] for au in INTENSITY] == [shown.intensity[au] for au in INTENSITY]
    truth = next(row for row in read_truth(twin) if row[:3] == (subject, task, frame))
    np.testing.assert_array_equal(truth.landmarks, shown.landmarks)


def test_the_wrong_offset_shows_the_next_picture(twin: Path) -> None:
    right, wrong = BP4DPlusRaw(twin), BP4DPlusRaw(twin, frame_offset=0)
    first, second = (list(raw.frames("M001_T1")) for raw in (right, wrong))
    for k in range(FRAMES - 1):
        np.testing.assert_array_equal(second[k].image, first[k + 1].image)


def test_women_and_men_in_turn(tmp_path: Path) -> None:
    from datamodules.synth.bp4d_plus import _ORDER

    assert _ORDER[:5] == ["F001", "M001", "F002", "M002", "F003"]
    assert sorted(_ORDER) == [f"F{n:03d}" for n in range(1, 83)] + [f"M{n:03d}" for n in range(1, 59)]


def test_bytes_follow_from_the_arguments_alone(tmp_path: Path, twin: Path) -> None:
    """A subject's files do not depend on the others: so neither on the order, nor on workers."""
    one = write_bp4d_plus(tmp_path / "one", 1, 2, FRAMES, size=SIZE, progress=False)
    files = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file() and path.name != "truth.parquet")
    assert len(files) == 1 + 2 + 2 * 5
    for name in files:
        assert (one / name).read_bytes() == (twin / name).read_bytes(), name


@pytest.mark.parametrize("subjects", [1, 2], ids=["packed", "unpacked"])
def test_faults_are_refused_one_after_the_other(tmp_path: Path, subjects: int) -> None:
    faulty = write_bp4d_plus(tmp_path / "faulty", subjects, 1, 4, size=32, with_faults=True, progress=False)
    whole = write_bp4d_plus(tmp_path / "whole", subjects, 1, 4, size=32, progress=False)
    BP4DPlusRaw(whole).check()
    name = "F001" if subjects == 1 else "M001"
    labels = Path(f"AUCoding/AU_OCC/{name}_T1.csv")
    with pytest.raises(DataError, match=rf"{name}_T1\.csv, line \d: .* the file is cut or damaged"):
        BP4DPlusRaw(faulty).check()
    shutil.copy(whole / labels, faulty / labels)
    with pytest.raises(DataError, match="F001/T1/3.jpg is empty" if subjects == 1 else r"M001/T1/0303\.jpg is empty"):
        BP4DPlusRaw(faulty).check()


def test_the_two_editions_are_not_taken_for_each_other(twin: Path) -> None:
    with pytest.raises(DataError, match=r"layout of BP4D\+, not of BP4D") as caught:
        BP4DRaw(twin).check()
    assert f"prepare.py bp4d_plus --raw {twin}," in caught.value.remedy


@pytest.mark.parametrize(
    "wrong", [{"subjects": 141}, {"subjects": 0}, {"tasks": 5}, {"frames": 3}, {"size": 8}, {"seed": -1}]
)
def test_numbers_out_of_range_are_refused(tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(DataError, match=next(iter(wrong))):
        write_bp4d_plus(tmp_path / "raw", **wrong)
    assert list(tmp_path.iterdir()) == []
