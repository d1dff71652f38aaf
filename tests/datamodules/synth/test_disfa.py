import filecmp
import re
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from datamodules.errors import DataError
from datamodules.raw.disfa import DISFARaw
from datamodules.synth.clips import render_clip
from datamodules.synth.disfa import write_disfa
from datamodules.synth.twin import read_truth


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_disfa(tmp_path_factory.mktemp("twin") / "raw", frames=4, size=32, progress=False)


def test_layout_is_the_archives(twin: Path) -> None:
    ids = [f"SN{i:03d}" for i in (*range(1, 14), 16, 17, 18, 21, *range(23, 33))]
    videos = sorted(path.name for path in (twin / "Videos_LeftCamera").iterdir())
    assert videos == [f"LeftVideo{name}_comp.avi" for name in ids]
    assert sorted(path.name for path in (twin / "ActionUnit_Labels").iterdir()) == ids
    aus = (1, 2, 4, 5, 6, 9, 12, 15, 17, 20, 25, 26)
    for name in ids:
        files = {path.name for path in (twin / "ActionUnit_Labels" / name).iterdir()}
        assert files == {f"{name}_au{au}.txt" for au in aus}
        rows = (twin / "ActionUnit_Labels" / name / f"{name}_au12.txt").read_text().splitlines()
        assert len(rows) == (3 if name == "SN010" else 4)
        assert all(re.fullmatch(rf"{i},[0-5]", row) for i, row in enumerate(rows, start=1))
    points = twin / "Landmark_Points"
    assert sorted(path.name for path in (points / "SN001" / "tmp_frame_lm").iterdir()) == [
        f"SN001_{frame:04d}_lm.mat" for frame in range(4)
    ]
    assert sorted(path.name for path in (points / "SN029" / "tmp_frame_lm").iterdir()) == [
        f"l{frame:05d}_lm.mat" for frame in range(1, 5)
    ]
    assert len(list((points / "SN031" / "tmp_frame_lm").iterdir())) == 3
    assert scipy.io.loadmat(points / "SN010" / "tmp_frame_lm" / "SN010_0003_lm.mat")["pts"].shape == (66, 2)


def test_the_parser_finds_what_was_rendered(twin: Path) -> None:
    raw = DISFARaw(twin)
    raw.check()
    for subject in ("SN002", "SN029"):
        rendered = render_clip(int(subject[2:]), 4, size=32, fps=20)
        for record, frame in zip(raw.frames(subject), rendered, strict=True):
            assert np.abs(record.image.astype(int) - frame.image).mean() < 8  # MJPG of a noisy picture
            np.testing.assert_array_equal(
                np.delete(record.landmarks, (60, 64), 0), np.delete(frame.landmarks, (60, 64), 0)
            )
            assert record.labels["AU12_intensity"] == frame.intensity[12]


def test_the_parser_returns_the_truth(twin: Path) -> None:
    raw = DISFARaw(twin)
    assert raw.edition == "twin"
    truth = list(read_truth(twin))
    assert len(truth) == 27 * 4 - 1  # SN010 has a row less
    records = [record for clip in ("SN010", "SN031") for record in raw.frames(clip)]
    rows = [row for row in truth if row.subject in ("SN010", "SN031")]
    for record, row in zip(records, rows, strict=True):
        assert (record.subject, record.sequence, record.frame) == row[:3]
        assert row.sequence == "left"
        assert row.image
        assert record.labels == row.labels
        if record.landmarks is not None:
            known = np.delete(np.arange(68), (60, 64))
            np.testing.assert_array_equal(record.landmarks[known], row.landmarks[known])
    assert [record.frame for record in records if record.landmarks is None] == [3]  # SN031's missing file


def test_a_frame_of_the_video_is_of_its_number(twin: Path) -> None:
    rendered = [frame.image.astype(int) for frame in render_clip(5, 4, size=32, fps=20)]
    for record in DISFARaw(twin).frames("SN005"):
        distance = [np.abs(image - record.image).mean() for image in rendered]
        assert int(np.argmin(distance)) == record.frame


def test_a_fault_is_refused(tmp_path: Path) -> None:
    out = write_disfa(tmp_path / "raw", subjects=2, frames=3, size=32, with_faults=True, progress=False)
    with pytest.raises(DataError, match=r"SN002_au12\.txt, line \d: "):
        DISFARaw(out).check()


def test_bytes_follow_from_the_arguments_not_from_the_workers(tmp_path: Path) -> None:
    first = write_disfa(tmp_path / "first", subjects=2, frames=3, size=32, progress=False)
    second = write_disfa(tmp_path / "second", subjects=2, frames=3, size=32, workers=2, progress=False)
    files = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert len(files) == 2 * (1 + 12 + 3) + 1
    for name in files:
        assert filecmp.cmp(first / name, second / name, shallow=False), name


def test_the_right_camera_is_spelled_as_in_the_archive(tmp_path: Path) -> None:
    out = write_disfa(tmp_path / "raw", subjects=1, frames=2, size=32, camera="right", progress=False)
    assert (out / "Video_RightCamera" / "RightVideoSN001_Comp.avi").exists()
    DISFARaw(out, camera="right").check()
    assert [row.sequence for row in read_truth(out)] == ["right"] * 2


@pytest.mark.parametrize("wrong", [{"subjects": 28}, {"subjects": 0}, {"frames": 1}, {"size": 8}, {"seed": -1}])
def test_numbers_out_of_range_are_refused(tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(DataError, match=next(iter(wrong))):
        write_disfa(tmp_path / "raw", **wrong)


def test_an_existing_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    with pytest.raises(DataError, match="exists"):
        write_disfa(tmp_path / "raw", subjects=1, frames=2, size=32)
    assert list((tmp_path / "raw").iterdir()) == []
