"""Where the face of a frame comes from: the dataset, a detector that follows it over time, or a twin's truth."""

from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from datamodules.align import face_box
from datamodules.errors import DataError
from datamodules.faces.detectors import DETECTORS, Face, create_detector
from datamodules.faces.tracking import DetectedFaces
from datamodules.raw.records import TRUTH, FrameRecord, RawDataset
from datamodules.synth.twin import read_truth

Faces = Literal["dataset", "detect", "truth"]
Gives = Literal["landmarks", "box", "crop"]


class FaceSource(Protocol):
    """Finds the face of a frame; pickles small, and loads what it needs in each process when first used.

    Attributes:
        gives: What its faces carry at best: ``landmarks`` (with a box), a ``box`` alone, or a ``crop``: the whole
            picture is the face.
    """

    gives: Gives

    def facts(self) -> dict[str, Any]:
        """Source, detector, landmark model, versions, licences and the rule by which a face is chosen."""
        ...

    def find(self, record: FrameRecord) -> Face | None:
        """Face of a frame; None where there is no picture or no face.

        The frames of a sequence come in the order of their numbers; another (subject, sequence), or a frame that is not
        later than the last, begins anew. The result depends on the sequence's own frames alone.
        """
        ...


def face_source(faces: Faces, raw: RawDataset, detector: str = DETECTORS[0]) -> FaceSource:
    """Source by its name.

    Args:
        faces: ``dataset``: what the dataset delivers; ``detect``: found in the pictures; ``truth``: rendered landmarks
            of a twin.
        raw: The dataset.
        detector: Name in `DETECTORS`, for ``detect``.

    Raises:
        DataError: When the dataset delivers nothing, the detector is not installed, or there is no truth.
    """
    if faces == "dataset":
        if raw.delivers == "":
            raise DataError(f"{raw.name} delivers no landmarks, boxes or crops", "use --faces detect")
        return DatasetFaces(raw.delivers)
    if faces == "detect":
        return DetectedFaces(create_detector(detector))
    if faces == "truth":
        if not (raw.root / TRUTH).exists():
            raise DataError(f"{raw.root / TRUTH} is missing", "use --faces dataset or detect: only twins have a truth")
        return TruthFaces(raw.root)
    raise DataError(f"there is no face source {faces!r}", "choose from dataset, detect")


class DatasetFaces:
    """Landmarks, boxes or crops that the dataset delivers.

    Args:
        gives: Which of them.
    """

    def __init__(self, gives: Gives) -> None:
        self.gives = gives

    def facts(self) -> dict[str, Any]:
        """See `FaceSource`."""
        rules = {
            "landmarks": "the dataset's landmarks; box about them",
            "box": "the dataset's box",
            "crop": "the dataset's crop: the whole picture",
        }
        return _facts("dataset", "as delivered" if self.gives == "landmarks" else None, rules[self.gives])

    def find(self, record: FrameRecord) -> Face | None:
        """See `FaceSource`."""
        if record.image is None:
            return None
        if self.gives == "landmarks":
            return _from_landmarks(record.landmarks)
        if self.gives == "box":
            return None if record.box is None else Face(record.box, float("nan"), record.landmarks)
        height, width = record.image.shape[:2]
        whole = np.array([0, 0, width, height], np.float32) - 0.5  # edges of the outermost pixels
        return Face(whole, float("nan"), record.landmarks)


class TruthFaces:
    """Rendered landmarks of a twin.

    Args:
        root: Folder of the twin.
    """

    gives: Gives = "landmarks"

    def __init__(self, root: Path) -> None:
        self._root = root

    def __reduce__(self) -> tuple[type, tuple[Path]]:
        return type(self), (self._root,)

    def facts(self) -> dict[str, Any]:
        """See `FaceSource`."""
        return _facts("truth", "as rendered", "the rendered landmarks; box about them")

    def find(self, record: FrameRecord) -> Face | None:
        """See `FaceSource`."""
        if record.image is None:
            return None
        return _from_landmarks(self._truth.get((record.subject, record.sequence, record.frame)))

    @cached_property
    def _truth(self) -> dict[tuple[str, str, int], np.ndarray | None]:
        return {(row.subject, row.sequence, row.frame): row.landmarks for row in read_truth(self._root)}


def _from_landmarks(landmarks: np.ndarray | None) -> Face | None:
    if landmarks is None or not np.isfinite(landmarks).any():
        return None
    return Face(face_box(landmarks), float("nan"), landmarks)


def _facts(source: str, landmarks: str | None, rule: str) -> dict[str, Any]:
    return {
        "source": source,
        "detector": None,
        "landmarks": landmarks,
        "versions": {},
        "licences": {},
        "rule": rule,
    }
