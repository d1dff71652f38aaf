"""Augmentation with albumentations: landmarks move along, misspelt arguments are errors, draws depend on the sample."""

import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np

from datamodules.facs import FLIP_68

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # its import asks a server for the newest version otherwise
import albumentations as A


class FaceFlip(A.HorizontalFlip):
    """Horizontal flip that also exchanges the left and right indices of the 68 landmarks."""

    def apply_to_keypoints(self, keypoints: np.ndarray, **params: Any) -> np.ndarray:
        """Mirror the points, then bring them back into the order of the 68-point scheme."""
        return super().apply_to_keypoints(keypoints, **params)[FLIP_68]


def compose(build: Callable[[], Sequence[A.BasicTransform]]) -> A.Compose:
    """Build a pipeline for an image with 68 landmarks; an argument that albumentations does not know is an error.

    Args:
        build: Makes the transforms; called here because albumentations warns at construction, and then ignores.

    Raises:
        TypeError: When a transform got an argument that it does not have.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pipeline = A.Compose(list(build()), keypoint_params=A.KeypointParams("xy", remove_invisible=False))
    for warning in caught:
        if "are not valid for transform" in str(warning.message):
            raise TypeError(str(warning.message))
        if "no transform to process it" not in str(warning.message):  # pixel-only pipelines: nothing moves the points
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return pipeline


def resize(image: np.ndarray, landmarks: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Scale a square image and its landmarks; (0, 0) is the centre of the top left pixel before and after.

    Args:
        image: (S, S, 3) uint8.
        landmarks: (68, 2) float32, NaN for unknown points.
        side: New side in pixels.
    """
    if image.shape[0] == side:
        return image, landmarks
    scale = side / image.shape[0]
    shrink = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return cv2.resize(image, (side, side), interpolation=shrink), (landmarks + 0.5) * scale - 0.5


def center_crop(image: np.ndarray, landmarks: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut the middle ``side`` x ``side`` pixels out of a square image."""
    start = (image.shape[0] - side) // 2
    return image[start : start + side, start : start + side], landmarks - np.float32(start)


class CropFlip:
    """RE-Net's augmentation: random crop of 224 out of 256 (in proportion for other sizes), random horizontal flip.

    Source: RE-Net, section 4.3. Evaluation takes the centre crop of the same scale.

    Args:
        image_size: Side of the returned image in pixels.
        train: Random crop and flip; else the centre crop.
    """

    def __init__(self, image_size: int, train: bool) -> None:
        self.image_size = image_size
        self.resized = round(image_size * 256 / 224)
        self.pipeline = (
            compose(lambda: [A.RandomCrop(height=image_size, width=image_size), FaceFlip(p=0.5)]) if train else None
        )

    def __call__(
        self, image: np.ndarray, landmarks: np.ndarray, draw: tuple[int, ...]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Augment one frame.

        Args:
            image: (S, S, 3) uint8 RGB as stored.
            landmarks: (68, 2) float32 in pixels of ``image``, NaN for unknown points.
            draw: Whatever the random draw may depend on: (seed, epoch, row).

        Returns:
            (image_size, image_size, 3) uint8 and (68, 2) float32.
        """
        image, landmarks = resize(image, landmarks, self.resized)
        if self.pipeline is None:
            return center_crop(image, landmarks, self.image_size)
        # albumentations draws from a state of its own, which every worker and epoch would repeat.
        self.pipeline.set_random_seed(int(np.random.SeedSequence(draw).generate_state(1)[0]))
        moved = self.pipeline(image=image, keypoints=landmarks)
        return moved["image"], np.asarray(moved["keypoints"], dtype=np.float32)
