"""Crops: a similarity transform brings a face to a canonical place and size, pixels and landmarks together.

Coordinates follow one convention everywhere: (0, 0) is the centre of the top left pixel. Scaling an image by s
therefore maps x to s * (x + 0.5) - 0.5.
"""

import hashlib
import json
from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True, slots=True)
class CropPreset:
    """Where a crop puts the face.

    Attributes:
        name: Name on the command line and in manifests.
        size: Side of the square crop in pixels, unless another is asked for.
        points: Landmarks (of the 68) that the transform is fitted to; all must be known.
        template: x, y of these landmarks in the crop, as fractions of its side.
        source: Where the numbers come from.
    """

    name: str
    size: int
    points: tuple[int, ...]
    template: tuple[tuple[float, float], ...]
    source: str

    @property
    def hash(self) -> str:
        """12 hex digits that differ when the geometry does; the side is left out, it changes the resolution only."""
        geometry = {"name": self.name, "points": self.points, "template": self.template}
        return hashlib.sha256(json.dumps(geometry, sort_keys=True).encode()).hexdigest()[:12]

    def matrix(self, landmarks: np.ndarray, size: int) -> np.ndarray | None:
        """Similarity from image pixels to crop pixels.

        Args:
            landmarks: (68, 2) in pixels of the image, NaN unknown.
            size: Side of the crop in pixels.

        Returns:
            (2, 3) float64, or None where the landmarks do not say where the face is.
        """
        source = landmarks[list(self.points)].astype(np.float64)
        if not np.isfinite(source).all() or np.ptp(source, axis=0).max() < 1:  # all within one pixel: no face
            return None
        return similarity(source, size * np.asarray(self.template) - 0.5)


def _renet() -> CropPreset:
    # Millimetres from the middle of the eye line, x to the right, y down: adult means of Farkas (1994), rounded (outer
    # canthi 88 apart, inner 32, sellion to subnasale 50, nose tip 15 above subnasale).
    face = {36: (-44, 0), 39: (-16, 0), 42: (16, 0), 45: (44, 0)}
    face |= {27: (0, -6), 28: (0, 6), 29: (0, 18), 30: (0, 29), 33: (0, 44)}
    # The crop shows 200 mm, from 55 above the eye line to 145 below it: raised brows and the forehead wrinkles of AU1+2
    # stay inside, and so does the chin (115 below) when the jaw drops by another 25.
    side, eye_line = 200, 55
    return CropPreset(
        name="renet",
        size=256,
        points=tuple(face),
        template=tuple((0.5 + x / side, (eye_line + y) / side) for x, y in face.values()),
        source="RE-Net: faces aligned by the dataset's landmarks to 256x256; template from the means of Farkas (1994)",
    )


# Eye corners, nose ridge and nose base lie on bone or cartilage; brows, lids, lips, nose wings and jaw move with the
# very action units that the crop must show.
PRESETS: dict[str, CropPreset] = {preset.name: preset for preset in (_renet(),)}


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
        matrix: (2, 3) similarity from image to crop pixels.
        size: Side of the crop.

    Returns:
        (size, size, 3) uint8. A crop that shrinks the image is sampled on a finer grid and averaged: bilinear sampling
        alone would alias wrinkles away.
    """
    shrink = max(1, round(1 / np.hypot(matrix[0, 0], matrix[1, 0])))
    fine = shrink * matrix
    fine[:, 2] += (shrink - 1) / 2  # pixel centres: x -> shrink * (x + 0.5) - 0.5
    crop = cv2.warpAffine(image, fine, (shrink * size, shrink * size), flags=cv2.INTER_LINEAR)
    return crop if shrink == 1 else cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA)
