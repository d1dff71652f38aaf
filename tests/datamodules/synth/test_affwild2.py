"""The twin of Aff-Wild2 against the renderer, and the parser against the twin's truth."""

import filecmp
from functools import cache
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from datamodules.errors import DataError
from datamodules.facs import AFFWILD2_8, AFFWILD2_12, AFFWILD2_EXPRESSIONS, EXPRESSIONS
from datamodules.raw.affwild2 import AffWild2Raw
from datamodules.synth.affwild2 import behaviour, render_frame, video, write_affwild2
from datamodules.synth.twin import TruthRow, read_truth

FRAMES, SIZE = 24, 48
TRACKS = {  # track -> official part of AU and EXPR, file of the video, its frames
    "1-30-1280x720": ("train", "train", "batch1/1-30-1280x720.mp4", FRAMES + 2),
    "10-60-1280x720": ("train", "validation", "batch1/10-60-1280x720.mp4", FRAMES),
    "10-60-1280x720_right": ("train", "validation", "batch1/10-60-1280x720.mp4", FRAMES),
    "video2": ("validation", "validation", "batch2/video2.mp4", FRAMES - 1),
    "video59": ("validation", "train", "batch2/video59.avi", FRAMES),
    "video59_left": ("validation", "train", "batch2/video59.avi", FRAMES),
}
PLACES = {  # track -> number of the video, place of its person from the left
    **{"1-30-1280x720": (0, 0), "video2": (1, 0), "10-60-1280x720": (2, 0), "10-60-1280x720_right": (2, 1)},
    **{"video59_left": (3, 0), "video59": (3, 1)},
}


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_affwild2(tmp_path_factory.mktemp("twin") / "raw", 4, FRAMES, size=SIZE, progress=False)


@cache
def film(number: int, index: int) -> tuple[np.ndarray, list[np.ndarray]]:
    return render_frame(0, number, index, SIZE, AFFWILD2_EXPRESSIONS)


def rendered(track: str, index: int) -> tuple[np.ndarray, np.ndarray]:
    """The video's picture and the landmarks of the track's person in it."""
    number, place = PLACES[track]
    image, points = film(number, index)
    return image, points[place]


def truth_of(root: Path) -> dict[tuple[str, int], TruthRow]:
    return {(row.sequence, row.frame): row for row in read_truth(root)}


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Mean difference without sensor noise, which codecs take away."""
    return float(np.abs(cv2.GaussianBlur(a.astype(np.float32) - b, (0, 0), 1.0)).mean())


def moving(pictures: list[np.ndarray]) -> np.ndarray:
    """What changes in a sequence: codecs alter colours, and most of a picture stands still."""
    return np.array(pictures, np.float32) - np.mean(pictures, axis=0)


def test_layout_is_the_archives(twin: Path) -> None:
    files = {str(path.relative_to(twin)) for path in twin.rglob("*") if path.is_file()}
    crops = {name for name in files if name.startswith("cropped_aligned")}
    annotations = "Third ABAW Annotations"
    expected = {f"{annotations}/AU_test_set_release.txt", "truth.parquet"}
    for track, (au, expr, film, _) in TRACKS.items():
        folders = {"train": "Train_Set", "validation": "Validation_Set"}
        expected |= {f"{annotations}/AU_Detection_Challenge/{folders[au]}/{track}.txt"}
        expected |= {f"{annotations}/EXPR_Classification_Challenge/{folders[expr]}/{track}.txt", film}
    assert files - crops == expected
    assert "cropped_aligned/.DS_Store" in crops
    assert {name for name in crops if name.startswith("cropped_aligned/1-30-1280x720/")} == {
        *(f"cropped_aligned/1-30-1280x720/{n:05d}.jpg" for n in {*range(1, FRAMES + 1)} - {17, 18}),
        *(f"cropped_aligned/1-30-1280x720/{name}" for name in (".DS_Store", "00001_3d.jpg")),
    }
    text = (twin / annotations / "EXPR_Classification_Challenge" / "Train_Set" / "video59.txt").read_text()
    assert text.startswith("Neutral,Anger,Disgust,Fear,Happiness,Sadness,Surprise,Other\n0\n")
    assert text.count("\n") == FRAMES + 1
    assert "\n-1\n" in text
    assert "\n-5\n" in text
    lines = (twin / annotations / "AU_Detection_Challenge" / "Train_Set" / "1-30-1280x720.txt").read_text().split("\n")
    assert lines[0] == "AU1,AU2,AU4,AU6,AU7,AU10,AU12,AU15,AU23,AU24,AU25,AU26"
    assert lines[7] == lines[8] == ",".join(["-1"] * 12)
    assert lines[13].startswith("-1,")
    assert "-1" not in lines[13][3:]
    assert lines[14] == ",".join(["-5"] * 12)


@pytest.mark.parametrize("track", ["au", "expr"])
@pytest.mark.parametrize("source", ["crops", "videos"])
def test_the_parser_finds_the_truth(twin: Path, track: str, source: str) -> None:
    raw = AffWild2Raw(twin, track=track, source=source)  # type: ignore[arg-type]
    raw.check()
    assert raw.edition == "twin"
    assert raw.clips() == list(TRACKS)
    truth, found = truth_of(twin), 0
    for name, (au, expr, _, frames) in TRACKS.items():
        for record in raw.frames(name):
            row = truth[name, record.frame]
            assert record.subject == row.subject
            assert record.labels == {column: row.labels[column] for column in raw.label_columns}
            assert record.split == (au if track == "au" else expr)
            assert (record.image is not None) == (row.image if source == "crops" else record.frame <= frames)
            found += 1
    assert found == len(truth) == len(TRACKS) * FRAMES


def test_videos_show_the_frame_that_the_row_means(twin: Path) -> None:
    raw = AffWild2Raw(twin, source="videos")
    for track in ("1-30-1280x720", "10-60-1280x720_right", "video59"):
        records = list(raw.frames(track))[2:20]
        assert [record.pts for record in records] == pytest.approx([index / 30 for index in range(2, 20)])
        decoded = moving([record.image for record in records])
        near = {
            shift: np.mean(list(map(distance, decoded, moving([rendered(track, k + shift)[0] for k in range(2, 20)]))))
            for shift in (-2, -1, 0, 1, 2)
        }
        assert min(near, key=near.__getitem__) == 0
        assert min(near[-1], near[1]) > 1.03 * near[0]


def test_crops_show_the_person_of_the_track_in_that_frame(twin: Path) -> None:
    truth = truth_of(twin)
    for track in TRACKS:
        for record in list(AffWild2Raw(twin).frames(track))[3:20:4]:
            row, (image, points) = truth[track, record.frame], rendered(track, record.frame - 1)
            matrix, _ = cv2.estimateAffinePartial2D(points, row.landmarks, method=cv2.LMEDS)
            np.testing.assert_allclose(points @ matrix[:, :2].T + matrix[:, 2], row.landmarks, atol=0.05)
            eyes = row.landmarks[36:42].mean(axis=0), row.landmarks[42:48].mean(axis=0)
            assert 20 < eyes[1][0] - eyes[0][0] < 35
            assert np.abs(np.mean(eyes, axis=0) - (56, 50)).max() < 4
            assert record.image.shape == (112, 112, 3)
            expected = cv2.warpAffine(image, matrix, (112, 112))
            assert distance(record.image[20:92, 20:92], expected[20:92, 20:92]) < 4


def test_labels_are_what_the_faces_do(twin: Path) -> None:
    """AU26 opens the mouth, AU1 raises the inner brows: by the landmarks, against the person's other frames."""
    rows = list(read_truth(twin))
    for column, measure in (
        ("AU26", lambda p: p[66, 1] - p[62, 1]),
        ("AU01", lambda p: p[[39, 42], 1].mean() - p[[21, 22], 1].mean()),
    ):
        for track in TRACKS:
            mine = [(row.labels[column], measure(row.landmarks)) for row in rows if row.sequence == track]
            shown = [value for label, value in mine if label == 1]
            rest = [value for label, value in mine if label == 0]
            if shown and rest:
                assert np.mean(shown) > np.mean(rest) + 1


@pytest.mark.parametrize(
    ("release", "aus", "source"), [("abaw1", AFFWILD2_8, "videos"), ("abaw2", AFFWILD2_12, "crops")]
)
def test_older_releases(tmp_path: Path, release: str, aus: list[int], source: str) -> None:
    out = write_affwild2(
        *(tmp_path / "raw", 2, FRAMES, 0, 32),
        release=release,  # type: ignore[arg-type]
        source=source,  # type: ignore[arg-type]
        progress=False,
    )
    truth = truth_of(out)
    for track in ("au", "expr"):
        raw = AffWild2Raw(out, release=release, track=track)  # type: ignore[arg-type]
        raw.check()
        records = [record for clip in raw.clips() for record in raw.frames(clip)]
        assert [record.labels for record in records] == [
            {column: truth[record.sequence, record.frame].labels[column] for column in raw.label_columns}
            for record in records
        ]
    assert raw.expressions == EXPRESSIONS
    assert {column for row in truth.values() for column in row.labels} == {f"AU{au:02d}" for au in aus} | {"expression"}
    with pytest.raises(DataError, match=f"of release {release}"):
        AffWild2Raw(out).check()
    if source == "videos":  # the truth is about these
        assert [key for key, row in truth.items() if not row.image] == [("video2", FRAMES)]
        for index in (0, 11):
            _, (points,) = render_frame(0, 0, index, 32, EXPRESSIONS)
            np.testing.assert_array_equal(truth["1-30-1280x720", index + 1].landmarks, points)


def test_faults_are_refused_and_touch_nothing_else(twin: Path, tmp_path: Path) -> None:
    out = write_affwild2(tmp_path / "raw", 2, FRAMES, size=SIZE, with_faults=True, progress=False)
    for track in ("au", "expr"):
        for source in ("crops", "videos"):
            with pytest.raises(DataError, match=r"1-30-1280x720\.txt"):
                AffWild2Raw(out, track=track, source=source).check()  # type: ignore[arg-type]
    files = sorted(path.relative_to(out) for path in out.rglob("*") if path.is_file() and path.suffix != ".parquet")
    differ = [str(name) for name in files if not filecmp.cmp(out / name, twin / name, shallow=False)]
    assert len(differ) == 2  # the same bytes whatever else is rendered
    assert all(name.endswith("1-30-1280x720.txt") for name in differ)


@pytest.mark.parametrize("classes", [AFFWILD2_EXPRESSIONS, EXPRESSIONS])
@pytest.mark.parametrize("part", ["train", "validation"])
def test_a_default_twin_has_every_class_in_both_parts(classes: tuple[str, ...], part: str) -> None:
    shown = {
        behaviour(0, 1 + 2 * number + person, index, classes).expression
        for number in range(6)
        for person in range(1 + bool(video(number).second))
        for index in range(72)
        if video(number).parts["expr"] == part
    }
    assert shown == set(classes)


def test_mp4_has_frames_out_of_order(twin: Path) -> None:
    with av.open(str(twin / "batch1" / "1-30-1280x720.mp4")) as container:
        times = [packet.pts for packet in container.demux(video=0) if packet.size]
    assert times != sorted(times)
    assert len(times) == FRAMES + 2


@pytest.mark.parametrize("wrong", [{"subjects": 1}, {"frames": 23}, {"size": 8}, {"seed": -1}])
def test_numbers_out_of_range_are_refused(tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(DataError, match=next(iter(wrong))):
        write_affwild2(tmp_path / "raw", **wrong)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
