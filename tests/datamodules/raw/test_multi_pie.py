"""The parser against small folders in Multi-PIE's layout, written here without the code under test."""

from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest

from datamodules.errors import DataError
from datamodules.raw.multi_pie import CAMERAS, MultiPIERaw

SEVEN = ["04_1", "05_0", "05_1", "08_0", "13_0", "14_0", "19_0"]
SESSIONS = {"001": (1, 2, 3, 4), "004": (2, 4), "346": (1, 3)}
# Gross et al. 2010, table of recordings: session -> what its recordings show.
SHOWN = {
    1: ("Neutral", "Smile"),
    2: ("Neutral", "Surprise", "Squint"),
    3: ("Neutral", "Smile", "Disgust"),
    4: ("Neutral", "Neutral", "Scream"),
}
SHOTS = (0, 7, 19)


def picture(root: Path, subject: str, session: int, recording: int, camera: str, shot: int) -> Path:
    name = f"{subject}_{session:02d}_{recording:02d}_{camera.replace('_', '')}_{shot:02d}.png"
    return root / "data" / f"session{session:02d}" / "multiview" / subject / f"{recording:02d}" / camera / name


def grey(subject: str, session: int, recording: int, camera: str, shot: int) -> int:
    return (int(subject) + 50 * session + 10 * recording + 3 * sorted(CAMERAS).index(camera) + shot) % 256


@cache
def png(level: int) -> bytes:
    return cv2.imencode(".png", np.full((4, 6), level, np.uint8))[1].tobytes()


def write_folder(root: Path, cameras: tuple[str, ...] = (*SEVEN, "08_1")) -> Path:
    for subject, sessions in SESSIONS.items():
        for session in sessions:
            for recording in range(1, len(SHOWN[session]) + 1):
                for camera in cameras:
                    for shot in SHOTS:
                        path = picture(root, subject, session, recording, camera, shot)
                        path.parent.mkdir(parents=True, exist_ok=True)
                        path.write_bytes(png(grey(subject, session, recording, camera, shot)))
    (root / "data" / "session01" / "highres" / "001").mkdir(parents=True)
    picture(root, "001", 1, 1, "05_1", 0).with_name("preview.png").touch()
    (root / "meta").mkdir()
    write_list(root)
    return root


def write_list(root: Path, **changed: str) -> None:
    lines = []
    for subject, sessions in SESSIONS.items():
        came = changed.get(f"s{subject}", " ".join(str(int(session in sessions)) for session in range(1, 5)))
        lines.append(f"{subject} 1979 {'Male' if subject == '001' else 'Female'} {came}\n")
    (root / "meta" / "subject_list.txt").write_text("".join(lines))


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("multi_pie") / "raw")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "raw", ("05_1", "19_0"))


def frontal(folder: Path) -> MultiPIERaw:
    return MultiPIERaw(folder, ["05_1", "19_0"], [0])


def refusal(raw: MultiPIERaw) -> DataError:
    with pytest.raises(DataError) as caught:
        raw.check()
    assert caught.value.remedy
    return caught.value


def test_every_image_says_what_its_recording_shows(untouched: Path) -> None:
    raw = MultiPIERaw(untouched)
    raw.check()
    assert raw.clips() == ["001", "004", "346"]
    assert (raw.delivers, raw.release, raw.label_columns) == ("", "", ["expression"])
    for subject, sessions in SESSIONS.items():
        expected = {
            f"{session:02d}_{recording:02d}_{camera}_{shot:02d}": (shown, (session, recording, camera, shot))
            for session in sessions
            for recording, shown in enumerate(SHOWN[session], start=1)
            for camera in SEVEN
            for shot in (0, 7)
        }
        records = list(raw.frames(subject))
        assert [record.sequence for record in records] == sorted(expected)
        assert raw.count(subject) == len(expected)
        assert raw.shard(subject) == subject
        for record in records:
            shown, where = expected[record.sequence]
            assert raw.expressions[record.labels["expression"]] == shown
            assert record.image.shape == (4, 6, 3)
            assert (record.image == grey(subject, *where)).all()
            assert (record.subject, record.frame, record.split, record.side) == (subject, 0, "", "")
            assert np.isnan(record.pts)


def test_yaw_of_the_cameras() -> None:
    """13 cameras at the head's height, 15 degrees apart, and two above."""
    height = {camera: yaw for camera, yaw in CAMERAS.items() if camera not in ("08_1", "19_1")}
    assert sorted(height.values()) == list(range(-90, 91, 15))
    assert (CAMERAS["11_0"], CAMERAS["05_1"], CAMERAS["24_0"]) == (-90, 0, 90)


def test_cameras_and_shots_are_chosen(untouched: Path) -> None:
    raw = MultiPIERaw(untouched, ["05_1", "08_1"], [19])
    raw.check()
    assert [record.sequence for record in raw.frames("004")] == [
        *("02_01_05_1_19", "02_01_08_1_19", "02_02_05_1_19", "02_02_08_1_19", "02_03_05_1_19", "02_03_08_1_19"),
        *("04_01_05_1_19", "04_01_08_1_19", "04_02_05_1_19", "04_02_08_1_19", "04_03_05_1_19", "04_03_08_1_19"),
    ]


@pytest.mark.parametrize(
    ("cameras", "shots", "wrong"),
    [
        (["051"], [0], "'051'"),
        ([], [0], "cameras"),
        (["05_1"], [20], "20"),
        (["05_1"], [], "shots"),
        (["05_1"] * 2, [0], "once"),
    ],
)
def test_unknown_cameras_and_shots_are_refused(
    untouched: Path, cameras: list[str], shots: list[int], wrong: str
) -> None:
    with pytest.raises(DataError, match=wrong):
        MultiPIERaw(untouched, cameras, shots)


def test_cameras_that_are_not_unpacked_are_named(folder: Path) -> None:
    error = refusal(MultiPIERaw(folder))
    assert "no image of cameras 04_1, 05_0, 08_0, 13_0, 14_0" in str(error)
    assert "--cameras" in error.remedy
    assert "no image of shots 12" in str(refusal(MultiPIERaw(folder, ["05_1"], [0, 12])))


def test_a_missing_image_is_a_row_without_picture(folder: Path) -> None:
    picture(folder, "001", 2, 2, "05_1", 0).unlink()
    raw = frontal(folder)
    raw.check()
    records = list(raw.frames("001"))
    assert [record.sequence for record in records if record.image is None] == ["02_02_05_1_00"]
    assert all(record.labels["expression"] >= 0 for record in records)
    assert len(records) == 22


@pytest.mark.parametrize(
    ("old", "new"),
    [("001_01", "004_01"), ("_01_02_", "_02_02_"), ("_02_051", "_01_051"), ("_051_", "_190_")],
    ids=["subject", "session", "recording", "camera"],
)
def test_a_name_that_contradicts_its_folders_is_refused(folder: Path, old: str, new: str) -> None:
    path = picture(folder, "001", 1, 2, "05_1", 0)
    wrong = path.with_name(path.name.replace(old, new))
    assert wrong != path
    path.rename(wrong)
    assert str(wrong) in str(refusal(frontal(folder)))


def test_a_recording_that_the_session_lacks_is_refused(folder: Path) -> None:
    recordings = folder / "data" / "session01" / "multiview" / "001"
    (recordings / "03").mkdir()
    assert str(recordings / "03") in str(refusal(frontal(folder)))
    (recordings / "03").rmdir()
    (folder / "data" / "session05" / "multiview").mkdir(parents=True)
    assert str(folder / "data" / "session05") in str(refusal(frontal(folder)))


def test_the_list_of_subjects_says_who_came(folder: Path) -> None:
    write_list(folder, s004="1 1 0 1")
    assert str(folder / "data" / "session01" / "multiview" / "004") in str(refusal(frontal(folder)))
    write_list(folder, s004="0 1 0 0")
    message = str(refusal(frontal(folder)))
    assert "does not list" in message
    assert str(folder / "data" / "session04" / "multiview" / "004") in message
    path = folder / "meta" / "subject_list.txt"
    write_list(folder)
    path.write_text(path.read_text().replace("Female", "F", 1))
    assert f"{path}, line 2" in str(refusal(frontal(folder)))
    path.unlink()
    frontal(folder).check()


def test_sessions_that_are_not_there_are_not_missed(folder: Path, tmp_path: Path) -> None:
    """The list is of four sessions; who has unpacked two of them is told nothing, unless the archive must be whole."""
    for session in ("session03", "session04"):
        (folder / "data" / session).rename(tmp_path / session)
    raw = frontal(folder)
    raw.check()
    assert raw.clips() == ["001", "004", "346"]
    published = MultiPIERaw(folder, ["05_1"], [0], edition="published")
    assert "3 subjects in 2 sessions, the published archive 337 in 4" in str(refusal(published))


def test_missing_parts_are_named(folder: Path, tmp_path: Path) -> None:
    assert str(tmp_path / "nowhere") in str(refusal(frontal(tmp_path / "nowhere")))
    assert f"point --raw to {folder}" in refusal(frontal(folder / "data")).remedy
    multiview = folder / "data" / "session02" / "multiview"
    multiview.rename(tmp_path / "kept")
    assert str(multiview) in str(refusal(frontal(folder)))
    multiview.mkdir()
    assert f"{multiview} has no folder 001" in str(refusal(frontal(folder)))
    (folder / "data").rename(tmp_path / "data")
    (folder / "data").mkdir()
    assert str(folder / "data" / "session01") in str(refusal(frontal(folder)))


def test_an_empty_image_is_named(folder: Path) -> None:
    path = picture(folder, "346", 3, 1, "19_0", 0)
    path.write_bytes(b"")
    assert str(path) in str(refusal(frontal(folder)))


def test_fingerprint_follows_the_selected_images(folder: Path) -> None:
    before = frontal(folder).fingerprint("001")
    assert frontal(folder).fingerprint("001") == before
    assert MultiPIERaw(folder, ["05_1", "19_0"], [7]).fingerprint("001") != before
    picture(folder, "001", 1, 1, "05_1", 7).unlink()
    assert frontal(folder).fingerprint("001") == before
    picture(folder, "001", 1, 1, "05_1", 0).unlink()
    assert frontal(folder).fingerprint("001") != before
