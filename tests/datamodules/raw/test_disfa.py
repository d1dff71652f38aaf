"""The parser against small folders in DISFA's layout, written here without the code under test."""

from pathlib import Path

import av
import numpy as np
import pytest
import scipy.io

from datamodules.errors import DataError
from datamodules.raw.disfa import DISFARaw

AUS = (1, 2, 4, 5, 6, 9, 12, 15, 17, 20, 25, 26)
BITS = 8
KEPT = [point for point in range(68) if point not in (60, 64)]


def barcode(number: int) -> np.ndarray:
    """(64, 64, 3) uint8 with the bits of ``number`` as black and white columns."""
    bits = np.repeat([(number >> bit) & 1 for bit in range(BITS)], 64 // BITS)
    return np.broadcast_to((255 * bits).astype(np.uint8)[None, :, None], (64, 64, 3)).copy()


def read_barcode(image: np.ndarray) -> int:
    columns = image.mean(axis=(0, 2)).reshape(BITS, -1).mean(axis=1)
    return sum(1 << bit for bit, value in enumerate(columns.tolist()) if value > 127)


def write_video(path: Path, frames: int, codec: str = "mjpeg") -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=20)
        stream.width = stream.height = 64
        stream.codec_context.thread_count = 2  # the bytes depend on it, and its default on the cores of the machine
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        if codec == "mpeg4":
            stream.codec_context.max_b_frames = 2
        for number in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(barcode(number), format="rgb24")))
        container.mux(stream.encode())


def level(au: int, row: int) -> int:
    return (au + row) % 6


def face(frame: int) -> np.ndarray:
    """(66, 2): point p of the 68 lies at (p, frame)."""
    return np.stack([np.array(KEPT, float), np.full(66, float(frame))], axis=1)


def write_folder(root: Path, subjects: tuple[str, ...] = ("SN001", "SN005"), frames: int = 6) -> Path:
    (root / "Videos_LeftCamera").mkdir(parents=True)
    for subject in subjects:
        write_video(root / "Videos_LeftCamera" / f"LeftVideo{subject}_comp.avi", frames)
        labels = root / "ActionUnit_Labels" / subject
        points = root / "Landmark_Points" / subject / "tmp_frame_lm"
        labels.mkdir(parents=True)
        points.mkdir(parents=True)
        for au in AUS:
            text = "".join(f"{row + 1},{level(au, row)}\n" for row in range(frames))
            (labels / f"{subject}_au{au}.txt").write_text(text)
        for frame in range(frames):
            name = f"l{frame + 1:05d}_lm.mat" if subject == "SN005" else f"{subject}_{frame:04d}_lm.mat"
            scipy.io.savemat(points / name, {"pts": face(frame)})
    return root


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "raw")


def video(folder: Path, subject: str = "SN001") -> Path:
    return folder / "Videos_LeftCamera" / f"LeftVideo{subject}_comp.avi"


def labels(folder: Path, au: int, subject: str = "SN001") -> Path:
    return folder / "ActionUnit_Labels" / subject / f"{subject}_au{au}.txt"


def refusal(folder: Path, edition: str = "custom") -> str:
    with pytest.raises(DataError) as caught:
        DISFARaw(folder, edition=edition).check()  # type: ignore[arg-type]
    assert caught.value.remedy
    return str(caught.value)


def test_labels_landmarks_and_pictures_belong_to_the_same_frame(folder: Path) -> None:
    raw = DISFARaw(folder)
    raw.check()
    assert (raw.edition, raw.delivers) == ("custom", "landmarks")
    assert raw.clips() == ["SN001", "SN005"]
    assert [raw.shard(clip) for clip in raw.clips()] == raw.clips()
    assert raw.count("SN001") == 6
    for subject in ("SN001", "SN005"):  # landmark files numbered from 0, and from 1
        records = list(raw.frames(subject))
        assert [record.frame for record in records] == [0, 1, 2, 3, 4, 5]
        for record in records:
            assert (record.subject, record.sequence, record.pts) == (subject, "left", record.frame / 20)
            assert read_barcode(record.image) == record.frame
            assert record.landmarks[:, 1][KEPT].tolist() == [record.frame] * 66
    # Written out by hand: AU06 is the fifth label file, row 3 of it says 3,2.
    assert records[2].labels["AU06_intensity"] == 2
    assert list(records[0].labels.values()) == [1, 2, 4, 5, 0, 3, 0, 3, 5, 2, 1, 2]


def test_the_66_points_take_their_places_among_the_68(folder: Path) -> None:
    landmarks = next(DISFARaw(folder).frames("SN001")).landmarks
    assert landmarks.dtype == np.float32
    assert np.flatnonzero(np.isnan(landmarks).any(axis=1)).tolist() == [60, 64]
    np.testing.assert_array_equal(landmarks[KEPT, 0], KEPT)


def test_frames_are_exact_where_seeking_is_not(tmp_path: Path) -> None:
    """MPEG-4 with B-frames in AVI: readers that look frames up by index return others; counting cannot."""
    folder = write_folder(tmp_path / "raw", ("SN001",), frames=60)
    write_video(video(folder), 60, "mpeg4")
    raw = DISFARaw(folder)
    raw.check()
    assert [read_barcode(record.image) for record in raw.frames("SN001")] == list(range(60))


@pytest.mark.parametrize(
    "name", ["Video_RightCamera/RightVideo{}_Comp.avi", "Videos_RightCamera/RightVideo{}_comp.avi"]
)
def test_the_other_camera_in_both_spellings(folder: Path, name: str) -> None:
    for subject in ("SN001", "SN005"):
        (folder / name).parent.mkdir(exist_ok=True)
        video(folder, subject).rename(folder / name.format(subject))
    raw = DISFARaw(folder, camera="right")
    raw.check()
    assert next(raw.frames("SN005")).sequence == "right"


def test_unknown_files_are_ignored(folder: Path) -> None:
    for name in ("notes.txt", "Videos_LeftCamera/Thumbs.db", "ActionUnit_Labels/.DS_Store", "Extra/SN099"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    (folder / "Landmark_Points" / "SN001" / "tmp_frame_lm" / "readme").touch()
    DISFARaw(folder).check()


def test_one_frame_more_than_labels_is_left_out(folder: Path) -> None:
    for au in AUS:
        lines = labels(folder, au).read_text().splitlines()[:-1]
        labels(folder, au).write_text("\n".join(lines) + "\n")
    raw = DISFARaw(folder)
    raw.check()
    assert [record.frame for record in raw.frames("SN001")] == [0, 1, 2, 3, 4]
    write_video(video(folder), 7)
    assert "SN001" in refusal(folder)
    assert "7 frames" in refusal(folder)


def test_a_missing_landmark_file_leaves_its_frame_without_landmarks(folder: Path) -> None:
    (folder / "Landmark_Points" / "SN005" / "tmp_frame_lm" / "l00004_lm.mat").unlink()
    raw = DISFARaw(folder)
    raw.check()
    assert [record.landmarks is None for record in raw.frames("SN005")] == [False] * 3 + [True] + [False] * 2


def test_the_published_edition_has_known_rows(folder: Path) -> None:
    assert "SN001 has 6 label rows, in the published archive 4845" in refusal(folder, edition="published")


@pytest.mark.parametrize(
    ("line", "wrong"),
    [(3, "3,6"), (3, "3"), (3, "4,0"), (1, "0,0"), (5, "5,1,0"), (2, "zwei,1"), (4, ""), (6, "6,-1")],
)
def test_a_wrong_label_line_is_named(folder: Path, line: int, wrong: str) -> None:
    path = labels(folder, 17)
    lines = path.read_text().splitlines()
    lines[line - 1] = wrong
    path.write_text("\n".join(lines) + "\n")
    assert f"{path}, line {line}:" in refusal(folder)


def test_label_files_of_unequal_length_are_named(folder: Path) -> None:
    labels(folder, 9).write_text("1,0\n2,0\n")
    assert str(labels(folder, 9)) in refusal(folder)


def test_missing_parts_are_named(folder: Path) -> None:
    labels(folder, 25).unlink()
    assert str(labels(folder, 25)) in refusal(folder)


@pytest.mark.parametrize("name", ["ActionUnit_Labels", "Videos_LeftCamera", "Landmark_Points"])
def test_a_misspelt_folder_is_named(folder: Path, name: str) -> None:
    (folder / name).rename(folder / name.lower())
    assert str(folder / name) in refusal(folder)


def test_a_packed_folder_is_named(folder: Path) -> None:
    (folder / "ActionUnit_Labels").rename(folder / "labels")
    (folder / "ActionUnit_Labels.zip").touch()
    assert f"{folder / 'ActionUnit_Labels.zip'} is not unpacked" in refusal(folder)


def test_disfa_plus_is_recognised(tmp_path: Path) -> None:
    (tmp_path / "Images" / "SN001").mkdir(parents=True)
    (tmp_path / "Labels" / "SN001").mkdir(parents=True)
    with pytest.raises(DataError, match=r"layout of DISFA\+, not of DISFA") as caught:
        DISFARaw(tmp_path).check()
    assert f"prepare.py disfa_plus --raw {tmp_path}," in caught.value.remedy


def test_a_misnamed_subject_or_video_is_named(folder: Path) -> None:
    subject = folder / "ActionUnit_Labels" / "SN005"
    subject.rename(subject.with_name("SN5"))
    assert str(subject) in refusal(folder)
    subject.with_name("SN5").rename(subject)
    video(folder).rename(folder / "Videos_LeftCamera" / "LeftVideo1.avi")
    assert str(video(folder)) in refusal(folder)


def test_a_missing_root_is_named(tmp_path: Path) -> None:
    assert str(tmp_path / "nowhere") in refusal(tmp_path / "nowhere")
    folder = write_folder(tmp_path / "raw", ("SN001",), frames=2)
    for wrong in (tmp_path, folder / "ActionUnit_Labels"):
        with pytest.raises(DataError, match="is missing") as caught:
            DISFARaw(wrong).check()
        assert caught.value.remedy == f"point --raw to {folder}"


def test_a_video_shorter_than_its_labels_is_refused_before_decoding(folder: Path) -> None:
    write_video(video(folder), 5)
    assert "SN001" in (message := refusal(folder))
    assert "5 frames, its labels 6 rows" in message


def test_a_cut_video_is_refused_although_its_header_tells_the_old_length(folder: Path) -> None:
    content = video(folder).read_bytes()
    video(folder).write_bytes(content[: 2 * len(content) // 3])
    assert "too short" in refusal(folder)


@pytest.mark.parametrize("start", [0, 200], ids=["header", "picture"])
def test_an_unreadable_frame_is_named(folder: Path, start: int) -> None:
    content = bytearray(video(folder).read_bytes())
    at = -1
    for _ in range(4):  # the payload of the fourth picture, frame 3
        at = content.index(b"\xff\xd8\xff", at + 1)
    end = content.index(b"\xff\xd9", at)
    scan = content.index(b"\xff\xda", at) + 20  # after it come the pixels, which decoders like to guess
    content[at if start == 0 else scan : end] = bytes(end - (at if start == 0 else scan))
    video(folder).write_bytes(content)
    raw = DISFARaw(folder)
    with pytest.raises(DataError, match=r"frame 3 \(from 0\) cannot be read"):
        list(raw.frames("SN001"))


@pytest.mark.parametrize("content", [b"", b"not a MATLAB file at all" * 20, None], ids=["empty", "text", "shape"])
def test_a_corrupt_landmark_file_is_named(folder: Path, content: bytes | None) -> None:
    path = folder / "Landmark_Points" / "SN001" / "tmp_frame_lm" / "SN001_0002_lm.mat"
    if content is None:
        scipy.io.savemat(path, {"pts": np.zeros((49, 2))})
    else:
        path.write_bytes(content)
    with pytest.raises(DataError, match=path.name):
        list(DISFARaw(folder).frames("SN001"))


def test_fingerprint_follows_labels_and_camera(folder: Path) -> None:
    before = DISFARaw(folder).fingerprint("SN001")
    assert DISFARaw(folder).fingerprint("SN001") == before
    assert DISFARaw(folder).fingerprint("SN005") != before
    labels(folder, 1).write_text(labels(folder, 1).read_text().replace("1,1", "1,0"))
    assert DISFARaw(folder).fingerprint("SN001") != before


def test_landmarks_agree_with_the_truth_of_foreign_data(shared: Path) -> None:
    root = shared / "data" / "disfa_ict"
    if not root.is_dir():
        pytest.skip("../shared/data/disfa_ict is absent")
    raw = DISFARaw(root)
    for subject in ("SN001", "SN029"):  # both namings
        truth = np.load(root / "truth" / f"{subject}.npz")["landmarks"]
        for record, expected in zip(raw.frames(subject), truth[:20], strict=False):
            np.testing.assert_allclose(record.landmarks[KEPT], expected[KEPT], atol=0.1)
