"""From frames as stored to pictures for a network: the crop, and the augmentation of training.

Landmarks move along with the pixels, all frames of a clip get one and the same draw, and a draw depends on what
identifies the sample and on nothing else: not on workers, nor on the order of calls.
"""

import math
import os
import random
import struct
import warnings
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Literal, NamedTuple, Protocol

import cv2
import numpy as np

from datamodules import align
from datamodules.align import similarity, warp_image, warp_points
from datamodules.facs import FLIP_68

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # its import asks a server for the newest version otherwise
import albumentations as A


class Frame(NamedTuple):
    """A row of a store, as a transform needs it.

    Attributes:
        image: (S, S, 3) uint8 RGB, the stored crop.
        landmarks: (68, 2) float32 in pixels of ``image``, NaN for unknown points.
        box: (4,) float32 x1, y1, x2, y2 of the face in pixels of the source picture, NaN unknown.
        matrix: (2, 3) float64 from pixels of the source picture to pixels of ``image``.
    """

    image: np.ndarray
    landmarks: np.ndarray
    box: np.ndarray
    matrix: np.ndarray


class Transform(Protocol):
    """What makes pictures of side S out of stored frames."""

    def __call__(self, frames: Sequence[Frame], draw: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Cut out, and in training augment, the frames of one sample.

        Args:
            frames: T frames, T odd; the labels are those of the middle one.
            draw: Whatever the random draw may depend on: (seed, epoch, row).

        Returns:
            (T, S, S, 3) uint8 and the (68, 2) float32 landmarks of the middle frame in these pixels.
        """
        ...


def create_transform(augment: Literal["renet", "aunet"], image_size: int, train: bool) -> Transform:
    """The crop of a paper, with its augmentation if ``train``."""
    return {"renet": CropFlip, "aunet": SourceCrop}[augment](image_size, train)


def uniforms(draw: tuple[int, ...]) -> list[float]:
    """Eight independent numbers in [0, 1) that depend on ``draw`` alone.

    A hash costs a microsecond; a numpy generator seeded for every sample costs twenty.
    """
    digest = blake2b(struct.pack(f"<{len(draw)}q", *draw)).digest()
    return [(word >> 11) * 2.0**-53 for word in struct.unpack("<8Q", digest)]


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


def flip_landmarks(landmarks: np.ndarray, side: int) -> np.ndarray:
    """Mirror the points of a picture ``side`` wide and bring them back into the order of the 68-point scheme."""
    return (np.array([side - 1, 0], np.float32) + landmarks * np.array([-1, 1], np.float32))[FLIP_68]


class CropFlip:
    """RE-Net's augmentation: random crop of 224 out of 256 (in proportion for other sizes), random horizontal flip.

    Source: RE-Net, section 4.3. Evaluation takes the centre crop of the same scale.

    Args:
        image_size: Side of the returned images in pixels.
        train: Random crop and flip; else the centre crop.
    """

    def __init__(self, image_size: int, train: bool) -> None:
        self.image_size, self.train = image_size, train
        self.resized = round(image_size * 256 / 224)

    def __call__(self, frames: Sequence[Frame], draw: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Cut all frames at one place; see `Transform`."""
        side, free = self.image_size, self.resized - self.image_size
        x = y = free // 2
        flip = False
        if self.train:
            across, down, mirror, *_ = uniforms(draw)
            x, y, flip = int(across * (free + 1)), int(down * (free + 1)), mirror < 0.5
        centre = len(frames) // 2
        images = []
        for i, frame in enumerate(frames):
            image, points = resize(frame.image, frame.landmarks, self.resized)
            images.append(image[y : y + side, x : x + side])
            if i == centre:
                landmarks = points - np.array([x, y], np.float32)
        clip = images[0][None] if len(images) == 1 else np.stack(images)
        return (clip[:, :, ::-1], flip_landmarks(landmarks, side)) if flip else (clip, landmarks)


#: The 256 px crop of the AUNet release: a square of 200 px of a face whose box has sides that sum to 260 px.
_CROP, _REFERENCE, _BOX = 256, 200, 260
STORED_MARGIN = 1.6  # side of a stored crop over that of the crop that it is for


def source_matrix(
    box: np.ndarray, size: int, zoom: float = 1.0, shift: tuple[float, float] = (0.0, 0.0), degrees: float = 0.0
) -> np.ndarray:
    """AUNet's crop of a face box, as its release computes it.

    The centre of the box comes to lie on x = y = 128 of a 256 px crop, in the convention that (0, 0) is the centre of
    the top left pixel: half a pixel right of and below the middle of the picture. Other sizes show the same square.

    Args:
        box: (4,) x1, y1, x2, y2 in pixels of the source picture.
        size: Side of the crop in pixels.
        zoom: Factor on the side of the square.
        shift: How far the centre of the square moves, x and y in pixels of the source picture.
        degrees: Rotation about the centre of the square, counter-clockwise as one sees it.

    Returns:
        (2, 3) float64 from source pixels to crop pixels.
    """
    x1, y1, x2, y2 = map(float, box)
    side = _REFERENCE * max((x2 - x1 + y2 - y1) / _BOX * zoom, 0.1)
    angle, scale = math.radians(degrees), _CROP / side
    linear = scale * np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    centre = np.array([(x1 + x2) / 2 + shift[0], (y1 + y2) / 2 + shift[1]])
    resized = size / _CROP
    offset = _CROP / 2 - linear @ centre
    return np.column_stack([resized * linear, resized * (offset + 0.5) - 0.5])


def compose(build: Callable[[], Sequence[A.BasicTransform]], images: int) -> A.Compose:
    """Build a pipeline that changes ``images`` pictures alike; an argument that albumentations lacks is an error.

    Args:
        build: Makes the transforms; called here because albumentations warns at construction, and then ignores.
        images: How many pictures: ``image``, ``image1``, ``image2``, ... of the call.

    Raises:
        TypeError: When a transform got an argument that it does not have.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*are not valid for transform", category=UserWarning)
        try:
            return A.Compose(list(build()), additional_targets={f"image{i}": "image" for i in range(1, images)})
        except UserWarning as warning:
            raise TypeError(str(warning)) from None


def aunet_photometric(images: int) -> A.Compose:
    """What AUNet's release does to the pixels, with the arguments by which albumentations 2 means the same."""
    holes = (8 / 256, 32 / 256)
    return compose(
        lambda: [
            A.Blur(blur_limit=(3, 7), p=0.5),
            A.ColorJitter(brightness=(0.7, 1.3), contrast=(0.7, 1.3), saturation=(0.7, 1.3), hue=(0, 0), p=1.0),
            A.ImageCompression(quality_range=(30, 100), p=0.5),
            A.CoarseDropout(num_holes_range=(1, 8), hole_height_range=holes, hole_width_range=holes, fill=0, p=0.5),
        ],
        images,
    )


class SourceCrop:
    """AUNet's crop and augmentation, which act on the source picture: every frame is warped once from its stored crop.

    The square around the face box of the middle frame is cut out upright. The other frames are laid on it by their
    five points (eyes, nose tip, mouth corners), so that zoom, shift and rotation reach them too; one whose points are
    unknown repeats the middle frame, and so do all when those of the middle frame are unknown. Without a box, the box
    of the landmarks is taken; without these too, the middle of the stored crop, which is as `datamodules.prepare` crops
    a frame like the one before it.

    In training: side of the square x U(0.75, 1.25); centre moved by whole source pixels up to 1/20 of the side;
    rotation U(-13.5, 13.5) degrees; blur, colours, compression and holes; flip with p = 0.5. The paper says 15 degrees,
    its release multiplies them by pi / 200. Source: AUNet's release (data_load.py).

    Args:
        image_size: Side of the returned images in pixels.
        train: Augment.
        degrees: Largest rotation.
    """

    def __init__(self, image_size: int, train: bool, degrees: float = 13.5) -> None:
        self.image_size, self.train, self.degrees = image_size, train, degrees
        self._photometric: dict[int, A.Compose] = {}

    def __call__(self, frames: Sequence[Frame], draw: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Warp all frames onto the crop of the middle one; see `Transform`."""
        middle = frames[len(frames) // 2]
        if self.train:
            zoom, across, down, turn, mirror, seed, *_ = uniforms(draw)
            matrix = self._augmented(_known_box(middle), 0.75 + zoom / 2, (across, down), self.degrees * (2 * turn - 1))
        else:
            matrix = source_matrix(_known_box(middle), self.image_size)
        landmarks = warp_points(middle.landmarks, _compose(matrix, middle.matrix))
        target = align.five_points(landmarks).astype(np.float64)
        picture = self._warp(middle, matrix)
        clip = np.stack([picture if frame is middle else self._aligned(frame, target, picture) for frame in frames])
        if self.train:
            clip = self._pixels(clip, int(seed * 2**32))
            if mirror < 0.5:
                return clip[:, :, ::-1], flip_landmarks(landmarks, self.image_size)
        return clip, landmarks

    def _augmented(self, box: np.ndarray, zoom: float, across_down: tuple[float, float], degrees: float) -> np.ndarray:
        limit = int(
            10 * zoom * (box[2] - box[0] + box[3] - box[1]) / _BOX
        )  # the release draws from -limit to limit - 1
        across, down = (int(u * 2 * limit) - limit for u in across_down)
        return source_matrix(box, self.image_size, zoom, (across, down), degrees)

    def _aligned(self, frame: Frame, target: np.ndarray, middle: np.ndarray) -> np.ndarray:
        source = align.five_points(warp_points(frame.landmarks, cv2.invertAffineTransform(frame.matrix)))
        if not (np.isfinite(source).all() and np.isfinite(target).all()):
            return middle
        return self._warp(frame, similarity(source.astype(np.float64), target))

    def _warp(self, frame: Frame, matrix: np.ndarray) -> np.ndarray:
        return warp_image(frame.image, _compose(matrix, frame.matrix), self.image_size)

    def _pixels(self, clip: np.ndarray, seed: int) -> np.ndarray:
        if len(clip) not in self._photometric:
            self._photometric[len(clip)] = aunet_photometric(len(clip))
        pipeline = self._photometric[len(clip)]
        # albumentations draws from a state of its own, which every worker and epoch would repeat; set_random_seed gives
        # each transform the same state, so that those of equal p would act together or not at all.
        pipeline.set_random_state(np.random.default_rng(seed), random.Random(seed))
        names = ["image", *(f"image{i}" for i in range(1, len(clip)))]
        changed = pipeline(**dict(zip(names, clip, strict=True)))
        return np.stack([changed[name] for name in names])


def _compose(matrix: np.ndarray, stored: np.ndarray) -> np.ndarray:
    """From pixels of the stored crop to where ``matrix`` puts the source pixels that they show."""
    back = cv2.invertAffineTransform(stored)
    return np.column_stack([matrix[:, :2] @ back[:, :2], matrix[:, :2] @ back[:, 2] + matrix[:, 2]])


def _known_box(frame: Frame) -> np.ndarray:
    """Face box in source pixels, as good as it is known."""
    back = cv2.invertAffineTransform(frame.matrix)
    box = frame.box
    if not np.isfinite(box).all():
        box = align.face_box(warp_points(frame.landmarks, back))
    if not np.isfinite(box).all():
        side = len(frame.image)
        x, y = warp_points(np.full((1, 2), (side - 1) / 2), back)[0]
        half = side / math.hypot(*frame.matrix[0, :2]) / STORED_MARGIN * _BOX / _REFERENCE / 4
        box = np.array([x - half, y - half, x + half, y + half])
    return box
