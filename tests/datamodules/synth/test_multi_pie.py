"""The twin of Multi-PIE against the renderer, and the parser against the twin's truth."""

import filecmp
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from datamodules.errors import DataError
from datamodules.raw.multi_pie import MultiPIERaw
from datamodules.synth.multi_pie import IDS, render_shot, write_multi_pie
from datamodules.synth.twin import TruthRow, read_truth

SIZE = 32
YAW = {"08_0": -45, "13_0": -30, "14_0": -15, "05_1": 0, "05_0": 15, "04_1": 30, "19_0": 45}
SHOWN = {
    **{"01_01": "Neutral", "01_02": "Smile", "02_01": "Neutral", "02_02": "Surprise", "02_03": "Squint"},
    **{"03_01": "Neutral", "03_02": "Smile", "03_03": "Disgust", "04_01": "Neutral", "04_02": "Neutral"},
    "04_03": "Scream",
}


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_multi_pie(tmp_path_factory.mktemp("twin") / "raw", subjects=2, size=SIZE, progress=False)


@pytest.fixture(scope="module")
def truth(twin: Path) -> dict[tuple[str, str], TruthRow]:
    return {(row.subject, row.sequence): row for row in read_truth(twin)}


def picture(twin: Path, subject: str, session: int, recording: int, camera: str, shot: int) -> np.ndarray:
    folder = twin / "data" / f"session{session:02d}" / "multiview" / subject / f"{recording:02d}" / camera
    name = f"{subject}_{session:02d}_{recording:02d}_{camera.replace('_', '')}_{shot:02d}.png"
    return cv2.imread(str(folder / name))[..., ::-1]


def test_layout_is_the_archives(twin: Path) -> None:
    assert (twin / "meta" / "subject_list.txt").read_text() == "001 1950 Male 1 1 1 1\n002 1957 Female 1 0 1 0\n"
    data = twin / "data"
    sessions = {
        path.name: sorted(who.name for who in (path / "multiview").iterdir() if who.is_dir()) for path in data.iterdir()
    }
    assert sessions == {
        **{"session01": ["001", "002"], "session02": ["001"], "session03": ["001", "002"], "session04": ["001"]}
    }
    recordings = data / "session04" / "multiview" / "001"
    assert sorted(path.name for path in recordings.iterdir()) == ["01", "02", "03"]
    assert sorted(path.name for path in (recordings / "03").iterdir()) == sorted(YAW)
    assert sorted(path.name for path in (recordings / "03" / "19_0").iterdir()) == [
        *("001_04_03_190_00.png", "001_04_03_190_07.png")
    ]
    assert cv2.imread(str(recordings / "03" / "19_0" / "001_04_03_190_00.png")).shape == (SIZE, SIZE * 4 // 3, 3)


def test_the_parser_finds_the_truth(twin: Path, truth: dict[tuple[str, str], TruthRow]) -> None:
    raw = MultiPIERaw(twin)
    raw.check()
    records = [record for clip in raw.clips() for record in raw.frames(clip)]
    assert [(record.subject, record.sequence) for record in records] == list(truth)
    assert len(records) == (11 + 5) * 7 * 2
    for record in records:
        row = truth[record.subject, record.sequence]
        assert record.labels == row.labels
        assert raw.expressions[record.labels["expression"]] == SHOWN[record.sequence[:5]]
        assert (record.image is not None) == row.image
    assert [key for key, row in truth.items() if not row.image] == [("002", "01_01_05_0_07")]


def test_pictures_and_landmarks_are_the_renderers(twin: Path, truth: dict[tuple[str, str], TruthRow]) -> None:
    for subject, session, recording, camera, shot in (
        *((1, 1, 1, "05_1", 0), (1, 2, 3, "13_0", 7), (1, 4, 3, "19_0", 0), (2, 3, 2, "08_0", 7), (2, 3, 3, "05_0", 0)),
    ):
        frame = render_shot(0, subject, session, recording, camera, shot, SIZE)
        np.testing.assert_array_equal(picture(twin, f"{subject:03d}", session, recording, camera, shot), frame.image)
        row = truth[f"{subject:03d}", f"{session:02d}_{recording:02d}_{camera}_{shot:02d}"]
        np.testing.assert_array_equal(row.landmarks, frame.landmarks)


def test_cameras_see_the_head_from_their_side(truth: dict[tuple[str, str], TruthRow]) -> None:
    for recording in ("01_01", "03_03"):
        lead = {}
        for camera in YAW:
            p = truth["001", f"{recording}_{camera}_00"].landmarks
            lead[camera] = (p[30, 0] - p[36:48, 0].mean()) / np.ptp(p[:, 1])
        assert sorted(lead, key=lead.__getitem__) == sorted(YAW, key=YAW.__getitem__)
        assert lead["08_0"] < -0.05
        assert lead["19_0"] > 0.05


def test_one_recording_shows_one_expression_to_all_cameras(truth: dict[tuple[str, str], TruthRow]) -> None:
    def opening(sequence: str) -> float:
        p = truth["001", sequence].landmarks
        return float((p[66, 1] - p[62, 1]) / np.ptp(p[:, 1]))

    for camera in YAW:
        for shot in ("00", "07"):
            wide = [opening(f"{recording}_{camera}_{shot}") for recording in ("02_02", "04_03")]
            closed = [opening(f"{recording}_{camera}_{shot}") for recording in ("01_01", "02_03", "04_02")]
            assert min(wide) > 3 * max(*closed, 0.01)
    for recording in SHOWN:
        frontal = [truth["001", f"{recording}_{camera}_00"].landmarks for camera in YAW]
        heights = [(p[66, 1] - p[62, 1]) / np.ptp(p[:, 1]) for p in frontal]
        assert np.ptp(heights) < 0.03


def test_flashes_light_the_face_from_their_place() -> None:
    def cheeks(shot: int) -> tuple[float, float]:
        frame = render_shot(0, 1, 1, 1, "05_1", shot, SIZE)
        p = np.round(frame.landmarks).astype(int)
        rows = frame.image[p[29, 1] - 1 : p[33, 1] + 2].astype(float)
        return rows[:, p[2, 0] + 1 : p[31, 0]].mean(), rows[:, p[35, 0] + 1 : p[14, 0]].mean()

    for left, right in ((4, 10), (1, 13), (14, 18)):
        assert cheeks(left)[0] / cheeks(left)[1] > 1.2
        assert cheeks(right)[1] / cheeks(right)[0] > 1.2
    for shot in (0, 7, 16, 19):
        assert cheeks(shot)[0] / cheeks(shot)[1] == pytest.approx(1, abs=0.15)


def test_other_cameras_and_shots(tmp_path: Path) -> None:
    cameras, shots = ["14_0", "05_1"], [10, 4]
    out = write_multi_pie(tmp_path / "raw", 1, size=SIZE, cameras=cameras, shots=shots, progress=False)
    with pytest.raises(DataError, match="no image of cameras 04_1, 05_0, 08_0, 13_0, 19_0"):
        MultiPIERaw(out).check()
    raw = MultiPIERaw(out, cameras, shots)
    raw.check()
    records = list(raw.frames("001"))
    assert [record.sequence for record in records] == [row.sequence for row in read_truth(out)]
    assert len(records) == 11 * 2 * 2
    assert all(record.image is not None for record in records)
    assert [row.sequence for row in read_truth(out) if MultiPIERaw(out, ["14_0"], [4]).selects(row.sequence)] == [
        f"{recording}_14_0_04" for recording in SHOWN
    ]


def test_faults_are_refused_and_touch_nothing_else(twin: Path, tmp_path: Path) -> None:
    out = write_multi_pie(tmp_path / "raw", subjects=1, size=SIZE, with_faults=True, progress=False)
    with pytest.raises(DataError, match=r"19_0/001_01_01_041_00\.png"):
        MultiPIERaw(out).check()
    (next(out.rglob("19_0/001_01_01_041_00.png"))).unlink()
    with pytest.raises(DataError, match=r"001_04_03_190_07\.png is empty"):
        MultiPIERaw(out).check()
    files = sorted(path.relative_to(out) for path in (out / "data").rglob("*") if path.is_file())
    assert len(files) == 11 * 7 * 2 + 2 - 1
    differ = [name.name for name in files if not filecmp.cmp(out / name, twin / name, shallow=False)]
    assert differ == ["001_04_03_190_07.png"]  # the same bytes whatever else is rendered


def test_ids_have_gaps_as_in_the_archive() -> None:
    assert len(set(IDS)) == 337
    assert max(IDS) == 346
    assert set(range(1, 15)) - set(IDS[:12])


@pytest.mark.parametrize(
    "wrong",
    [
        *({"subjects": 0}, {"subjects": 338}, {"size": 16}, {"seed": -1}),
        *({"cameras": ["20_0"]}, {"cameras": []}, {"shots": [20]}, {"shots": []}),
    ],
)
def test_settings_out_of_range_are_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=next(iter(wrong))):
        write_multi_pie(tmp_path / "raw", **wrong)
    assert not list(tmp_path.iterdir())
