"""A subject's clip, frame by frame: label process -> face -> picture. The source of all synthetic data here."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np

from datamodules.synth.behaviour import SYNTH_AUS, Behaviour, Distractors, Rates
from datamodules.synth.face import Face
from datamodules.synth.identity import draw_identity
from datamodules.synth.scene import METERING, WIDTH, Camera, draw_scene, dress, expose, occlude, rotation
from datamodules.synth.streams import Purpose, stream, wander

__all__ = ["SYNTH_AUS", "Clip", "Sitter", "SynthFrame", "group", "render_clip"]

_STRETCH = 5.0  # seconds that an occlusion lasts
_FAR = 25.0  # degrees of yaw beyond which the far half of the face is foreshortened away
_AXIS = -0.7  # depth of the neck in stills; the bodies of clips stand where they always stood
_CALM = Distractors(blink=0.0, opening=0.0, pucker=0.0, gaze=np.zeros(2))
_FINEST = 128  # smaller pictures are drawn at a multiple of their size and averaged, or wrinkles would alias


@dataclass(frozen=True, slots=True)
class SynthFrame:
    """One picture with everything that is known about it.

    Attributes:
        image: (size, size, 3) uint8 RGB; a still's has the shape of its background.
        landmarks: (68, 2) float32 pixels, (0, 0) the centre of the top left pixel; iBUG order.
        intensity: AU to coded level 0..5.
        occluded: Whether a hand or hair covers part of the face, or it is turned far away.
        pose: (3,) float32 yaw (to the right of the picture), pitch (up), roll (clockwise) in degrees.
        light: (4,) float32 azimuth and elevation of the key light (radians), its strength, the ambient light's.
        background: (3,) float32 mean colour behind the head, linear light.
        skin_tone: 1 (light) to 6 (dark).
    """

    image: np.ndarray
    landmarks: np.ndarray
    intensity: dict[int, int]
    occluded: bool
    pose: np.ndarray
    light: np.ndarray
    background: np.ndarray
    skin_tone: int


@lru_cache(maxsize=2)
def _face(seed: int, subject: int, side: int) -> Face:
    return Face(draw_identity(seed, subject), seed, subject, side)


def _occluder(seed: int, subject: int, time: float) -> tuple[str, np.random.Generator]:
    """What hides part of the face in this stretch of time: nothing, a hand, hair, or a turn away."""
    rng = stream(seed, subject, Purpose.OCCLUSION, int(time // _STRETCH))
    return str(rng.choice(["none", "hand", "hair", "turn"], p=[0.94, 0.025, 0.015, 0.02])), rng


class Clip:
    """One subject before the camera; any frame can be drawn at any time.

    Args:
        subject: Number of the subject, from 1.
        seed: Seed of the dataset.
        size: Side of the picture in pixels.
        rates: Base rates of the label process.
        fps: Frames a second.
        coder_noise: Whether a coder's delays and one-level errors are in the labels.
        independent: Draw AUs independently of each other, see `Behaviour`.
        factor: Pictures are drawn at this multiple of ``size`` and averaged; by default as small pictures need it.
    """

    def __init__(
        self,
        subject: int,
        *,
        seed: int = 0,
        size: int = 128,
        rates: Rates = "published",
        fps: float = 20.0,
        coder_noise: bool = True,
        independent: bool = False,
        factor: int | None = None,
    ) -> None:
        self._key, self._fps, self._coder_noise = (seed, subject), fps, coder_noise
        self.factor = factor or max(1, -(-_FINEST // size))
        self._work = size * self.factor
        self._face = _face(seed, subject, round(1.2 * self._work))
        self._behaviour = Behaviour(subject, seed, rates, independent)
        self._scene = draw_scene(seed, subject, self._work, self._face.identity.skin)

    @property
    def light(self) -> tuple[float, float, float, float]:
        """The clip's own light, as `still` takes it."""
        azimuth, elevation, strong, ambient = self._scene.light.tolist()
        return azimuth, elevation, strong, ambient

    def frame(self, index: int) -> SynthFrame:
        """Frame ``index`` of the clip."""
        time = index / self._fps
        coded = self._behaviour.coded(time, self._coder_noise)
        sway = wander(*self._key, Purpose.POSE, time, 1.5, 5)
        pose = self._face.identity.head + sway[:3] * (7.0, 4.5, 3.0)
        occluder, rng = _occluder(*self._key, time)
        if occluder == "turn":
            away = 40.0 * np.sin(np.pi * (time % _STRETCH) / _STRETCH)
            pose = pose + np.array([rng.choice([-1, 1]) * away, 0, 0])
        drift = 0.1 * wander(*self._key, Purpose.DRIFT, time, 6.0, 2)
        return self._draw(
            intensity=dict(zip(SYNTH_AUS, coded.tolist(), strict=True)),
            strength=self._strength(self._behaviour.activation(time), self._behaviour.skew(time)),
            distractors=self._behaviour.distractors(time),
            pose=np.clip(pose, (-38, -20, -20), (38, 20, 20)),
            shift=0.06 * sway[3:],
            light=self._scene.light + np.array([*drift, 0, 0]),
            occluder=occluder,
            occluder_rng=rng,
            sensor_rng=stream(*self._key, Purpose.SENSOR, index),
        )

    def still(
        self,
        levels: Mapping[int, float],
        *,
        pose: tuple[float, float, float] = (0.0, 0.0, 0.0),
        light: tuple[float, float, float, float] | None = None,
        background: np.ndarray | None = None,
        centre: tuple[float, float] | None = None,
        index: int = 0,
    ) -> SynthFrame:
        """The subject with the given AU levels (0..5), posed and lit, eyes open and nothing in the way.

        Args:
            levels: AU to level; those left out are 0.
            pose: Yaw (to the right of the picture), pitch (up) and roll (clockwise) in degrees; good to 45 of yaw.
            light: Azimuth (to the right) and elevation of the key light in radians, its strength, the ambient light's;
                the camera meters it. By default the clip's own.
            background: (height, width, 3) float32 linear light, the picture before the subject is in it, of any shape;
                by default the clip's own square.
            centre: (x, y) pixel that stands for the middle of the clip's square, so that the head is a little below;
                by default the picture's middle.
            index: Number of the picture: its sensor noise.
        """
        picture = self._scene.background.copy() if background is None else self._enlarge(background)
        behind = picture.mean(axis=(0, 1))
        landmarks = self._sit(picture, levels, pose, light, centre)
        return SynthFrame(
            image=self._develop(picture, light, index),
            landmarks=landmarks,
            intensity={au: round(levels.get(au, 0.0)) for au in SYNTH_AUS},
            occluded=abs(pose[0]) > _FAR,
            pose=np.array(pose, np.float32),
            light=np.array(self._scene.light if light is None else light, np.float32),
            background=behind,
            skin_tone=self._face.identity.skin_tone,
        )

    def _sit(
        self,
        picture: np.ndarray,
        levels: Mapping[int, float],
        pose: tuple[float, float, float],
        light: tuple[float, float, float, float] | None,
        centre: tuple[float, float] | None,
    ) -> np.ndarray:
        """Draw the subject as `still` says into a picture of linear light that is ``factor`` times as large, in place.

        Returns:
            (68, 2) float32 landmarks in pixels of the picture when reduced.
        """
        activation = np.array([levels.get(au, 0.0) for au in SYNTH_AUS])
        middle = (np.array(picture.shape[1::-1]) - 1) / 2
        if centre is not None:
            middle = (np.array(centre) + 0.5) * self.factor - 0.5
        return self._paint(
            picture,
            self._strength(activation, np.zeros(len(SYNTH_AUS))),
            _CALM,
            np.array(pose, float),
            middle,
            np.zeros(2),
            self._scene.light if light is None else np.array(light, float),
            _AXIS,
        )[0]

    def _develop(self, picture: np.ndarray, light: tuple[float, float, float, float] | None, index: int) -> np.ndarray:
        """(H, W, 3) uint8 of a picture of linear light, metered for the light that is not the clip's own."""
        scene = self._scene
        meter = 1.0 if light is None else (scene.light[2:].sum() / (light[2] + light[3])) ** METERING
        return expose(self._reduce(picture), scene, scene.exposure * meter, stream(*self._key, Purpose.SENSOR, index))

    def _enlarge(self, background: np.ndarray) -> np.ndarray:
        if self.factor == 1:
            return background.astype(np.float32)
        return cv2.resize(background, None, fx=self.factor, fy=self.factor, interpolation=cv2.INTER_LINEAR)

    def _reduce(self, picture: np.ndarray) -> np.ndarray:
        if self.factor == 1:
            return picture
        height, width = (side // self.factor for side in picture.shape[:2])
        return cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)

    def _strength(self, activation: np.ndarray, skew: np.ndarray) -> np.ndarray:
        """(2, 17) what shows of each AU on the subject's right and left, about 0..1.2."""
        who = self._face.identity
        skew = np.clip(who.skew + skew, -0.4, 0.4)
        shown = who.gain * (activation / 5) ** 0.7  # concave: a trace (level 1) is visible
        return np.clip(shown * np.stack([1 - skew, 1 + skew]), 0, 1.3)

    def _paint(
        self,
        image: np.ndarray,
        strength: np.ndarray,
        distractors: Distractors,
        pose: np.ndarray,
        middle: np.ndarray,
        shift: np.ndarray,
        light: np.ndarray,
        axis: float = 0.0,
    ) -> tuple[np.ndarray, Camera]:
        """Draw the subject into ``image`` (linear light) in place; landmarks in pixels of the reduced picture."""
        scene, face = self._scene, self._face
        turn = rotation(pose)
        azimuth, elevation, strong, ambient = light
        direction = (np.sin(azimuth) * np.cos(elevation), -np.sin(elevation), np.cos(azimuth) * np.cos(elevation))
        points = face.landmarks(strength, distractors)
        picture = face.draw(strength, distractors, points, turn.T @ direction * strong, ambient)

        scale = self._work / WIDTH * scene.zoom
        camera = Camera(face, turn, scale, middle + scale * (shift + np.array([0, 0.08])))
        dress(image, scene, face, camera, axis)
        low = np.maximum(middle - self._work, 0).astype(int)  # no head is larger
        high = np.minimum(middle + self._work + 1, image.shape[1::-1]).astype(int)
        window = slice(low[1], high[1]), slice(low[0], high[0])
        seen = camera.take(picture, window)
        image[window] += seen[..., 3:] * (seen[..., :3] - image[window])
        return ((camera.project(points) + 0.5) / self.factor - 0.5).astype(np.float32), camera

    def _draw(
        self,
        intensity: dict[int, int],
        strength: np.ndarray,
        distractors: Distractors,
        pose: np.ndarray,
        shift: np.ndarray,
        light: np.ndarray,
        occluder: str,
        occluder_rng: np.random.Generator,
        sensor_rng: np.random.Generator,
    ) -> SynthFrame:
        scene = self._scene
        image = scene.background.copy()
        middle = np.full(2, (self._work - 1) / 2)
        points, camera = self._paint(image, strength, distractors, pose, middle, shift, light)
        if occluder in ("hand", "hair"):
            occlude(image, occluder, occluder_rng, camera, self._face, light[3] + 0.8 * light[2])
        return SynthFrame(
            image=expose(self._reduce(image), scene, scene.exposure, sensor_rng),
            landmarks=points,
            intensity=intensity,
            occluded=occluder in ("hand", "hair") or abs(pose[0]) > _FAR,
            pose=pose.astype(np.float32),
            light=light.astype(np.float32),
            background=scene.background.mean(axis=(0, 1)),
            skin_tone=self._face.identity.skin_tone,
        )


class Sitter(NamedTuple):
    """Who sits where in a `group`: arguments of `Clip.still`."""

    clip: Clip
    levels: Mapping[int, float]
    pose: tuple[float, float, float]
    centre: tuple[float, float]


def group(
    sitters: Sequence[Sitter],
    background: np.ndarray,
    *,
    light: tuple[float, float, float, float] | None = None,
    index: int = 0,
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Several subjects in one picture.

    Args:
        sitters: From the one farthest back to the one in front, who has the camera; their clips have one ``factor``,
            and the sizes of the clips are the sizes of the persons.
        background: (height, width, 3) float32 linear light.
        light: As for `Clip.still`; by default that of the clip in front.
        index: Number of the picture: its sensor noise.

    Returns:
        (height, width, 3) uint8 RGB, and the (68, 2) float32 landmarks of each.
    """
    front = sitters[-1].clip
    if {sitter.clip.factor for sitter in sitters} != {front.factor}:
        raise ValueError("the clips of a group must have one factor")
    picture = front._enlarge(background)
    shared = light or front.light
    points = [clip._sit(picture, levels, pose, shared, centre) for clip, levels, pose, centre in sitters]
    return front._develop(picture, light, index), points


def render_clip(
    subject: int,
    frames: int,
    *,
    seed: int = 0,
    size: int = 128,
    rates: Rates = "published",
    fps: float = 20.0,
    stride: int = 1,
    coder_noise: bool = True,
    independent: bool = False,
) -> Iterator[SynthFrame]:
    """Frames 0, stride, 2 stride, ... of a subject's clip; a stride of some hundred frames gives independent stills.

    A frame depends on (seed, subject, its number, size and the settings) alone: not on workers, call order or on the
    other frames.

    Args:
        subject: Number of the subject, from 1.
        frames: How many to render.
        seed: Seed of the dataset.
        size: Side of the picture in pixels; the face takes about two thirds of it.
        rates: ``published`` base rates, or ``balanced`` (15 to 40 % of frames at level 1 or more).
        fps: Frames a second of the label process.
        stride: Render only every stride-th frame.
        coder_noise: Whether a coder's delays and one-level errors are in the labels.
        independent: Draw AUs independently of each other (exclusive pairs stay exclusive).
    """
    clip = Clip(subject, seed=seed, size=size, rates=rates, fps=fps, coder_noise=coder_noise, independent=independent)
    for k in range(frames):
        yield clip.frame(k * stride)
