"""Crops: one affine matrix brings a face to a canonical place and size, pixels and landmarks together.

Coordinates follow one convention everywhere: (0, 0) is the centre of the top left pixel, so a picture reaches from -0.5
to its width or height - 0.5. Scaling it by s maps x to s * (x + 0.5) - 0.5.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import Any, Literal

import cv2
import numpy as np
import yaml

#: How far the hairline lies above landmark 27, in lengths of the nose (27 to 33).
FOREHEAD = 1.4


@dataclass(frozen=True, slots=True)
class Template:
    """Similarity that brings landmarks to fixed places.

    Attributes:
        side: Side of the crop in the unit of ``at``.
        landmarks: Groups of the 68; a group stands for its mean and is unknown where one of its points is.
        at: x, y of the groups in the crop, (0, 0) being its upper left corner.
        least: How many groups must be known.
    """

    side: float
    landmarks: tuple[tuple[int, ...], ...]
    at: tuple[tuple[float, float], ...]
    least: int


@dataclass(frozen=True, slots=True)
class Square:
    """Upright square of side ``factor * margin * (width + height)`` around the centre of a box."""

    factor: float
    margin: float


@dataclass(frozen=True, slots=True)
class Stretch:
    """A box, or the whole picture, made square."""


@dataclass(frozen=True, slots=True)
class Preset:
    """Where a crop puts the face.

    Attributes:
        name: Name on the command line and in manifests.
        version: Raised when the code changes what the geometry means.
        size: Side of the square crop in pixels, unless another is asked for.
        needs: What the crop follows; ``image`` takes the whole picture.
        source: Where the numbers come from.
        geometry: The numbers.
    """

    name: str
    version: int
    size: int
    needs: Literal["landmarks", "box", "image"]
    source: str
    geometry: Template | Square | Stretch

    @property
    def hash(self) -> str:
        """12 hex digits that differ when the geometry does; the side is left out, it changes the resolution only."""
        geometry = {"name": self.name, "version": self.version, "geometry": asdict(self.geometry)}
        return hashlib.sha256(json.dumps(geometry, sort_keys=True).encode()).hexdigest()[:12]

    def matrix(
        self, landmarks: np.ndarray | None, box: np.ndarray | None, shape: tuple[int, int] | None, side: int
    ) -> np.ndarray | None:
        """Affine map from image pixels to crop pixels.

        Args:
            landmarks: (68, 2) in pixels of the image, NaN unknown; None where there are none.
            box: (4,) x1, y1, x2, y2 of the face in pixels of the image; None where there is none.
            shape: Height and width of the image; None where there is no image.
            side: Side of the crop in pixels.

        Returns:
            (2, 3) float64, or None where what the preset needs does not say where the face is.
        """
        if isinstance(self.geometry, Template):
            return None if landmarks is None else _fit(self.geometry, landmarks, side)
        if self.needs == "image":
            box = None if shape is None else np.array([0, 0, shape[1], shape[0]]) - 0.5
        if box is None or not (np.isfinite(box).all() and box[2] - box[0] >= 1 and box[3] - box[1] >= 1):
            return None
        corners = box.astype(np.float64).reshape(2, 2)
        extent = corners[1] - corners[0]
        if isinstance(self.geometry, Square):
            extent = np.full(2, self.geometry.factor * self.geometry.margin * extent.sum())
        scale = side / extent
        return np.column_stack([np.diag(scale), side / 2 - 0.5 - scale * corners.mean(axis=0)])


def _fit(template: Template, landmarks: np.ndarray, side: int) -> np.ndarray | None:
    source = np.stack([landmarks[list(group)].mean(axis=0, dtype=np.float64) for group in template.landmarks])
    known = np.isfinite(source).all(axis=1)
    if known.sum() < template.least or np.ptp(source[known], axis=0).max() < 1:  # all within one pixel: no face
        return None
    target = np.asarray(template.at) * (side / template.side) - 0.5
    return similarity(source[known], target[known])


def _presets() -> dict[str, Preset]:
    kinds: dict[str, Any] = {"square": Square, "stretch": Stretch}
    presets = {}
    for name, entry in yaml.safe_load((files("datamodules") / "presets.yaml").read_text()).items():
        numbers = entry.pop("geometry")
        kind = numbers.pop("kind")
        if kind == "template":
            groups = [(group,) if isinstance(group, int) else tuple(group) for group in numbers["landmarks"]]
            at = [(float(x), float(y)) for x, y in numbers["at"]]
            geometry = Template(numbers["side"], tuple(groups), tuple(at), numbers["least"])
        else:
            geometry = kinds[kind](**numbers)
        presets[name] = Preset(name=name, geometry=geometry, **entry)
    return presets


PRESETS: dict[str, Preset] = _presets()


def face_box(landmarks: np.ndarray) -> np.ndarray:
    """Box of a face whose dataset gives landmarks only, like a face detector's: forehead, chin and cheeks.

    That is what the annotators of WIDER FACE were asked to enclose, and RetinaFace, S3FD and MTCNN train on it. The
    landmarks hold chin and cheeks; the forehead is missing. Its upper end is put `FOREHEAD` nose lengths above the root
    of the nose and along the nose, so that a head may lean: brows and jaw move with expressions, the nose hardly does.
    From nasion to hairline is 1.2 to 1.4 times from nasion to subnasale in anthropometric tables. MTCNN's boxes on
    photographs end there at a median of 1.38 times, and on the other sides within 3 % of a box around the landmarks.

    Args:
        landmarks: (68, 2) in pixels, NaN unknown.

    Returns:
        (4,) float32 x1, y1, x2, y2; NaN where points 27 or 33 are unknown.
    """
    root, base = landmarks[27].astype(np.float64), landmarks[33].astype(np.float64)
    known = landmarks[np.isfinite(landmarks).all(axis=1)]
    points = np.vstack([known, root + FOREHEAD * (root - base)])
    return np.concatenate([points.min(axis=0), points.max(axis=0)]).astype(np.float32)


def five_points(landmarks: np.ndarray) -> np.ndarray:
    """(5, 2) centres of the eyes as seen from left to right, tip of the nose, corners of the mouth, of (68, 2)."""
    eyes = [landmarks[36:42].mean(axis=0), landmarks[42:48].mean(axis=0)]
    return np.stack([*eyes, landmarks[30], landmarks[48], landmarks[54]])


def similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Least-squares similarity transform (Umeyama, TPAMI 1991, eq. 40-43), never a reflection.

    Args:
        source: (n, 2) points.
        target: (n, 2) where they should go.

    Returns:
        (2, 3) float64 ``[sR | t]`` that minimises ``sum |sR p + t - q|^2``.
    """
    source_mean, target_mean = source.mean(axis=0), target.mean(axis=0)
    p, q = source - source_mean, target - target_mean
    u, singular, vt = np.linalg.svd(q.T @ p)
    sign = np.array([1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    linear = (singular @ sign) / (p**2).sum() * (u * sign) @ vt
    return np.column_stack([linear, target_mean - linear @ source_mean])


def warp_points(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Points (n, 2) moved by a (2, 3) matrix, as float32; NaN stays NaN."""
    return (points @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32)


def warp_image(image: np.ndarray, matrix: np.ndarray, size: int) -> np.ndarray:
    """Square crop of an image, black outside it.

    Args:
        image: (H, W, 3) uint8.
        matrix: (2, 3) affine map from image to crop pixels.
        size: Side of the crop.

    Returns:
        (size, size, 3) uint8. A crop that shrinks the image is sampled on a finer grid and averaged: bilinear sampling
        alone would alias wrinkles away.
    """
    steps = np.linalg.norm(
        np.linalg.inv(matrix[:, :2]), axis=0
    )  # image pixels from one crop pixel to the next, x and y
    shrink = np.maximum(1, np.rint(steps)).astype(int)
    fine = shrink[:, None] * matrix
    fine[:, 2] += (shrink - 1) / 2  # pixel centres: x -> shrink * (x + 0.5) - 0.5
    crop = cv2.warpAffine(image, fine, (shrink * size).tolist(), flags=cv2.INTER_LINEAR)
    return crop if shrink.max() == 1 else cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA)
