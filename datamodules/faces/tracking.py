"""One face a frame out of all that a detector finds: a stated rule for which, and the same one from frame to frame."""

from typing import Any, Literal

import numpy as np

from datamodules.faces.detectors import Detector, Face, enlarged, overlap
from datamodules.raw.records import FrameRecord

#: Frames for which a lost face is waited for where it was last seen; then a sequence is begun anew.
LOST = 10
#: Overlap (intersection over union) with the last box from which a face is the same person's.
SAME = 0.3
#: Side of the smallest faces looked for in a whole picture, by its longer side; the next where one finds too few.
SHARES = (1 / 8, 1 / 16)

_AROUND = 2.0  # a face is looked for in its last box, grown by this factor
_SHRUNK = (0.75, 0.5)  # and at this share of its last size or more; the next where one finds none
_RULE = (
    "largest face of the sequence's first picture that shows one (side left or right: the left- or right-most of the "
    "two largest; a single one where it lies in that half), then the one that overlaps the last by {same} or more; "
    "begun anew when lost for more than {lost} frames"
)


class DetectedFaces:
    """Faces that a detector finds, followed over a sequence; a `datamodules.faces.FaceSource`.

    Around the last face the detector sees little and sees it at a good size: that is fast, and finds what it would miss
    in the whole picture.

    Args:
        detector: What finds them.
    """

    gives: Literal["landmarks", "box", "crop"] = "landmarks"

    def __init__(self, detector: Detector) -> None:
        self._detector = detector
        self._sequence = ("", "")
        self._frame = 0  # number of the last frame
        self._seen: tuple[int, Face] | None = None  # frame and face that a later one has to continue

    def __reduce__(self) -> tuple[type, tuple[Detector]]:
        return type(self), (self._detector,)

    def facts(self) -> dict[str, Any]:
        """Detector, landmark model, versions, licences, rule."""
        return {"source": "detect", **self._detector.facts(), "rule": _RULE.format(same=SAME, lost=LOST)}

    def find(self, record: FrameRecord) -> Face | None:
        """Face of a frame; None where there is no picture or no face. See `datamodules.faces.FaceSource`."""
        sequence = (record.subject, record.sequence)
        if sequence != self._sequence or record.frame <= self._frame:
            self._sequence, self._seen = sequence, None
        self._frame = record.frame
        if record.image is None:
            return None
        if self._seen is not None and record.frame - self._seen[0] > LOST:
            self._seen = None
        if self._seen is None:
            face = self._begin(record.image, record.side)
        else:
            face = self._follow(record.image, self._seen[1])
        if face is not None:
            self._seen = record.frame, face
        return face

    def _begin(self, image: np.ndarray, side: Literal["", "left", "right"]) -> Face | None:
        """The face to follow, by the rule."""
        height, width = image.shape[:2]
        whole = np.array([0, 0, width, height]) - 0.5
        wanted, faces = 2 if side else 1, list[Face]()
        for share in SHARES:
            found = [face for face in self._detector.faces(image, whole, share * max(height, width)) if _is_face(face)]
            faces = max(faces, found, key=len)
            if len(faces) >= wanted:
                break
        faces = sorted(faces, key=lambda face: (-_area(face), face.box[0]))[:wanted]
        if not side:
            return faces[0] if faces else None
        faces.sort(key=_middle)
        if len(faces) == 1:
            return faces[0] if (_middle(faces[0]) < (width - 1) / 2) == (side == "left") else None
        return faces[0 if side == "left" else -1] if faces else None

    def _follow(self, image: np.ndarray, last: Face) -> Face | None:
        """The face that continues the last."""
        for share in _SHRUNK:
            found = self._detector.faces(image, enlarged(last.box, _AROUND), share * _area(last) ** 0.5)
            same = [(overlap(face.box, last.box), face) for face in found if _is_face(face)]
            best, face = max(same, key=lambda one: one[0], default=(0.0, None))
            if best >= SAME:
                return face
        return None


def _area(face: Face) -> float:
    return float(np.prod(face.box[2:] - face.box[:2]))


def _middle(face: Face) -> float:
    return float(face.box[0] + face.box[2]) / 2


def _is_face(face: Face) -> bool:
    """Whether landmarks and box are such as a face has: what was taken for a face by mistake often has others."""
    points = face.landmarks
    if points is None or not (np.isfinite(points).all() and np.isfinite(face.box).all()):
        return False
    left, right, mouth = points[36:42].mean(axis=0), points[42:48].mean(axis=0), points[48:68].mean(axis=0)
    axis = right - left
    apart = float(np.linalg.norm(axis))
    if apart < 0.1 * _area(face) ** 0.5:
        return False
    down = float(np.array([-axis[1], axis[0]]) @ (mouth - (left + right) / 2)) / apart  # of the mouth below the eyes
    middle = points.mean(axis=0)
    return 0.4 * apart < down and bool((middle > face.box[:2]).all() and (middle < face.box[2:]).all())
