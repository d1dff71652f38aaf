"""From frames as stored to pictures for a network: the crop, and in training the augmentation.

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

from datamodules.align import PRESETS, Square, face_box, five_points, similarity, warp_image, warp_points
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
    """What makes pictures of one side S out of stored frames."""

    def __call__(self, frames: Sequence[Frame], draw: tuple[int, ...]) -> tuple[list[np.ndarray], np.ndarray]:
        """Cut out, and in training augment, the frames of one sample.

        Args:
            frames: T frames, T odd; landmarks and labels of the sample are those of the middle one.
            draw: Whatever the random draw may depend on: (seed, epoch, row).

        Returns:
            T pictures (S, S, 3) uint8, and (68, 2) float32 landmarks in pixels of the middle one.
        """
        ...


Augmentation = Literal["renet", "aunet", "aligned", "megraph", "emotiram", "none"]


def create_transform(augment: Augmentation, image_size: int, train: bool) -> Transform:
    """The crop of a paper; in training with its augmentation. ``aligned`` is AUNet's crop with nothing but flips."""
    if augment == "none":
        return Whole(image_size)
    if augment in ("aunet", "aligned"):
        return SourceCrop(image_size, train, distort=augment == "aunet")
    margin = 1 if augment == "emotiram" else 256 / 224
    return CropFlip(image_size, train, margin, jitter=0 if augment == "renet" else 0.4)


def uniforms(draw: tuple[int, ...]) -> list[float]:
    """Eight independent numbers in [0, 1) that depend on ``draw`` alone; a seeded generator costs ten times as much."""
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


def flip(pictures: list[np.ndarray], landmarks: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """Mirror pictures and landmarks; the points are brought back into the order of the 68-point scheme."""
    mirrored = landmarks[FLIP_68]
    mirrored[:, 0] = pictures[0].shape[1] - 1 - mirrored[:, 0]
    return [cv2.flip(picture, 1) for picture in pictures], mirrored


class Whole:
    """The stored crop as it is, scaled; the rankers of Saito et al. see no augmentation.

    Args:
        image_size: Side of the returned pictures in pixels.
    """

    def __init__(self, image_size: int) -> None:
        self.image_size = image_size

    def __call__(self, frames: Sequence[Frame], draw: tuple[int, ...]) -> tuple[list[np.ndarray], np.ndarray]:
        """Scale all frames; see `Transform`."""
        resized = [resize(frame.image, frame.landmarks, self.image_size) for frame in frames]
        return [image for image, _ in resized], resized[len(frames) // 2][1].astype(np.float32)


class CropFlip:
    """Random crop, random horizontal flip, random colours. Evaluation takes the centre crop of the same scale.

    RE-Net (section 4.3): 224 out of 256 pixels, no colours. ME-GraphAU (its release): the same, with brightness,
    contrast and saturation times U(0.6, 1.4). EmotiRAM: the whole picture with these colours, our reading of CAER-Net's
    "flips, contrast, and color changes".

    Args:
        image_size: Side of the returned pictures in pixels.
        train: Augment.
        margin: Side of the picture from which they are cut, as a multiple of theirs.
        jitter: Largest relative change of brightness, contrast and saturation; 0 = none.
    """

    def __init__(self, image_size: int, train: bool, margin: float = 256 / 224, jitter: float = 0.0) -> None:
        self.image_size, self.train, self.jitter = image_size, train, jitter
        self.resized = round(image_size * margin)
        self._colours: dict[int, A.Compose] = {}

    def __call__(self, frames: Sequence[Frame], draw: tuple[int, ...]) -> tuple[list[np.ndarray], np.ndarray]:
        """Cut all frames at one place; see `Transform`."""
        free = self.resized - self.image_size
        across, down, mirror, seed, *_ = uniforms(draw)
        x, y = (int(across * (free + 1)), int(down * (free + 1))) if self.train else (free // 2, free // 2)
        window = slice(y, y + self.image_size), slice(x, x + self.image_size)
        resized = [resize(frame.image, frame.landmarks, self.resized) for frame in frames]
        pictures = [image[window] for image, _ in resized]
        landmarks = resized[len(frames) // 2][1] - np.array([x, y], np.float32)
        if self.train and self.jitter:
            pictures = recoloured(self._colours, self._colour_jitter, pictures, int(seed * 2**53))
        return flip(pictures, landmarks) if self.train and mirror < 0.5 else (pictures, landmarks)

    def _colour_jitter(self, pictures: int) -> A.Compose:
        change = (1 - self.jitter, 1 + self.jitter)
        colours = {"brightness": change, "contrast": change, "saturation": change, "hue": (0, 0)}
        return compose(lambda: [A.ColorJitter(**colours, p=1.0)], pictures)


#: AUNet's crop: 256 px that show a square of 200 px of a face whose box has sides that sum to 260 px.
_CROP, _SQUARE, _BOX = 256, 200, 260


def source_matrix(
    box: np.ndarray, size: int, zoom: float = 1.0, shift: tuple[float, float] = (0.0, 0.0), degrees: float = 0.0
) -> np.ndarray:
    """AUNet's crop of a face box, as its release computes it.

    The centre of the box comes to lie on x = y = 128 of a 256 px crop, half a pixel right of and below its middle,
    since (0, 0) is the centre of the top left pixel. Other sizes show the same square.

    Args:
        box: (4,) x1, y1, x2, y2 in pixels of the source picture.
        size: Side of the crop in pixels.
        zoom: Factor on the side of the square.
        shift: How far the square moves, x and y in pixels of the source picture.
        degrees: Rotation of the picture about the centre of the square, counter-clockwise.

    Returns:
        (2, 3) float64 from pixels of the source picture to pixels of the crop.
    """
    x1, y1, x2, y2 = map(float, box)
    side = _SQUARE * max((x2 - x1 + y2 - y1) / _BOX * zoom, 0.1)
    angle, scale = math.radians(degrees), _CROP / side
    linear = scale * np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    offset = _CROP / 2 - linear @ [(x1 + x2) / 2 + shift[0], (y1 + y2) / 2 + shift[1]]
    resized = size / _CROP
    return np.column_stack([resized * linear, resized * (offset + 0.5) - 0.5])


def compose(build: Callable[[], Sequence[A.BasicTransform]], pictures: int) -> A.Compose:
    """Build a pipeline that changes some pictures alike; an argument that albumentations does not know is an error.

    Args:
        build: Makes the transforms; called here because albumentations warns at construction, and then ignores.
        pictures: How many: ``image``, ``image1``, ``image2``, ... of the call.

    Raises:
        TypeError: When a transform got an argument that it does not have.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*are not valid for transform", category=UserWarning)
        try:
            return A.Compose(list(build()), additional_targets={f"image{i}": "image" for i in range(1, pictures)})
        except UserWarning as warning:
            raise TypeError(str(warning)) from None


def recoloured(
    pipelines: dict[int, A.Compose], build: Callable[[int], A.Compose], pictures: list[np.ndarray], seed: int
) -> list[np.ndarray]:
    """Change the pixels of all pictures alike, by the draws of ``seed``.

    Args:
        pipelines: Number of pictures -> pipeline, filled by ``build`` where it lacks one.
        build: Makes the pipeline for a number of pictures.
        pictures: (S, S, 3) uint8 each.
        seed: See above.
    """
    if len(pictures) not in pipelines:
        pipelines[len(pictures)] = build(len(pictures))
    pipeline = pipelines[len(pictures)]
    # albumentations draws from states of its own, which every worker and epoch would repeat. set_random_seed would
    # give each transform the same state: those of p = 0.5 would then act together or not at all.
    pipeline.set_random_state(np.random.default_rng(seed), random.Random(seed))
    names = ["image", *(f"image{i}" for i in range(1, len(pictures)))]
    changed = pipeline(**dict(zip(names, pictures, strict=True)))
    return [changed[name] for name in names]


def aunet_photometric(pictures: int) -> A.Compose:
    """What AUNet's release does to the pixels, with the arguments by which albumentations 2 means the same."""
    hole = (8 / 256, 32 / 256)
    colour = (0.7, 1.3)
    return compose(
        lambda: [
            A.Blur(blur_limit=(3, 7), p=0.5),
            A.ColorJitter(brightness=colour, contrast=colour, saturation=colour, hue=(0, 0), p=1.0),
            A.ImageCompression(quality_range=(30, 100), p=0.5),
            A.CoarseDropout(num_holes_range=(1, 8), hole_height_range=hole, hole_width_range=hole, fill=0, p=0.5),
        ],
        pictures,
    )


class SourceCrop:
    """AUNet's crop and augmentation, which act on the source picture: each frame is warped once from its stored crop.

    The square around the face box of the middle frame is cut out upright. The other frames are laid on it by their
    five points (eyes, nose tip, mouth corners), so that zoom, shift and rotation are theirs too. One whose points are
    unknown repeats the middle frame; all do when those of the middle frame are unknown. Without a box, that of the
    landmarks is taken, and without these the middle of the stored crop.

    In training: side of the square x U(0.75, 1.25), centre moved by whole source pixels of up to a twentieth of the
    side, rotation U(-13.5, 13.5) degrees, `aunet_photometric`, then flip with p = 0.5. Source: AUNet's release; the
    paper says 15 degrees, of which the release takes pi / 200 a degree.

    Args:
        image_size: Side of the returned pictures in pixels.
        train: Augment.
        distort: Whether augmentation is more than flips.
        degrees: Largest rotation.
    """

    def __init__(
        self, image_size: int, train: bool, distort: bool = True, degrees: float = 15 * math.degrees(math.pi / 200)
    ) -> None:
        self.image_size, self.train, self.distort, self.degrees = image_size, train, train and distort, degrees
        self._photometric: dict[int, A.Compose] = {}

    def __call__(self, frames: Sequence[Frame], draw: tuple[int, ...]) -> tuple[list[np.ndarray], np.ndarray]:
        """Lay all frames on the crop of the middle one; see `Transform`."""
        zoom, across, down, turn, mirror, seed, *_ = uniforms(draw)
        middle = frames[len(frames) // 2]
        box = _known_box(middle)
        if self.distort:
            zoom = 0.75 + zoom / 2
            reach = int(
                10 * zoom * (box[2] - box[0] + box[3] - box[1]) / _BOX
            )  # the release draws below its upper bound
            shift = int(across * 2 * reach) - reach, int(down * 2 * reach) - reach
            matrix = source_matrix(box, self.image_size, zoom, shift, self.degrees * (2 * turn - 1))
        else:
            matrix = source_matrix(box, self.image_size)
        landmarks = warp_points(middle.landmarks, _from_stored(matrix, middle))
        target = five_points(landmarks)
        picture = self._warp(middle, matrix)
        pictures = [picture if frame is middle else self._laid_on(frame, target, picture) for frame in frames]
        if self.distort:
            pictures = recoloured(self._photometric, aunet_photometric, pictures, int(seed * 2**53))
        return flip(pictures, landmarks) if self.train and mirror < 0.5 else (pictures, landmarks)

    def _laid_on(self, frame: Frame, target: np.ndarray, middle: np.ndarray) -> np.ndarray:
        source = five_points(warp_points(frame.landmarks, cv2.invertAffineTransform(frame.matrix)))
        known = np.isfinite(source).all() and np.isfinite(target).all()
        return self._warp(frame, similarity(source.astype(float), target.astype(float))) if known else middle

    def _warp(self, frame: Frame, matrix: np.ndarray) -> np.ndarray:
        # Four channels: OpenCV 5 warps them twice as fast as three, to the same values.
        image = cv2.cvtColor(frame.image, cv2.COLOR_RGB2RGBA)
        return cv2.cvtColor(warp_image(image, _from_stored(matrix, frame), self.image_size), cv2.COLOR_RGBA2RGB)


def _from_stored(matrix: np.ndarray, frame: Frame) -> np.ndarray:
    """``matrix``, which is from source pixels, from the pixels of the stored crop that show them."""
    back = cv2.invertAffineTransform(frame.matrix)
    back[:, :] = matrix[:, :2] @ back
    back[:, 2] += matrix[:, 2]
    return back


def _known_box(frame: Frame) -> np.ndarray:
    """Face box in source pixels, as well as it is known."""
    if np.isfinite(frame.box).all():
        return frame.box
    back = cv2.invertAffineTransform(frame.matrix)
    box = face_box(warp_points(frame.landmarks, back))
    if np.isfinite(box).all():
        return box
    stored = PRESETS["aunet"].geometry
    assert isinstance(stored, Square)
    side = len(frame.image) / math.hypot(*frame.matrix[0, :2])
    x, y = back @ [(len(frame.image) - 1) / 2, (len(frame.image) - 1) / 2, 1]
    half = side / (stored.factor * stored.margin) / 4
    return np.array([x - half, y - half, x + half, y + half])
