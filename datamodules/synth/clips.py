"""A subject's clip, frame by frame: label process -> face -> picture. The source of all synthetic data here."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from datamodules.synth.behaviour import SYNTH_AUS, Behaviour, Distractors, Rates
from datamodules.synth.face import Face
from datamodules.synth.identity import draw_identity
from datamodules.synth.scene import WIDTH, Camera, behind, draw_scene, expose, occlude, rotation
from datamodules.synth.streams import Purpose, stream, wander

__all__ = ["SYNTH_AUS", "SynthFrame", "render_clip"]

_STRETCH = 5.0  # seconds that an occlusion lasts
_FAR = 25.0  # degrees of yaw beyond which the far half of the face is foreshortened away
_FINEST = 128  # smaller pictures are drawn at a multiple of their size and averaged, or wrinkles would alias


@dataclass(frozen=True, slots=True)
class SynthFrame:
    """One picture with everything that is known about it.

    Attributes:
        image: (size, size, 3) uint8 RGB.
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
    ) -> None:
        self._key, self._size, self._fps, self._coder_noise = (seed, subject), size, fps, coder_noise
        self._factor = max(1, -(-_FINEST // size))
        self._work = size * self._factor
        self._face = _face(seed, subject, round(1.2 * self._work))
        self._behaviour = Behaviour(subject, seed, rates, independent)
        self._scene = draw_scene(seed, subject, self._work, self._face.identity.skin)

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

    def portrait(self, levels: Mapping[int, float]) -> SynthFrame:
        """The subject from the front with the given AU levels (0..5), eyes open and nothing in the way."""
        activation = np.array([levels.get(au, 0.0) for au in SYNTH_AUS])
        return self._draw(
            intensity={au: round(level) for au, level in zip(SYNTH_AUS, activation, strict=True)},
            strength=self._strength(activation, np.zeros(len(SYNTH_AUS))),
            distractors=Distractors(blink=0.0, opening=0.0, pucker=0.0, gaze=np.zeros(2)),
            pose=np.zeros(3),
            shift=np.zeros(2),
            light=self._scene.light,
            occluder="none",
            occluder_rng=stream(*self._key, Purpose.OCCLUSION),
            sensor_rng=stream(*self._key, Purpose.SENSOR),
        )

    def _strength(self, activation: np.ndarray, skew: np.ndarray) -> np.ndarray:
        """(2, 17) what shows of each AU on the subject's right and left, about 0..1.2."""
        who = self._face.identity
        skew = np.clip(who.skew + skew, -0.4, 0.4)
        shown = who.gain * (activation / 5) ** 0.7  # concave: a trace (level 1) is visible
        return np.clip(shown * np.stack([1 - skew, 1 + skew]), 0, 1.3)

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
        scene, face = self._scene, self._face
        turn = rotation(pose)
        azimuth, elevation, strong, ambient = light
        direction = (np.sin(azimuth) * np.cos(elevation), -np.sin(elevation), np.cos(azimuth) * np.cos(elevation))
        points = face.landmarks(strength, distractors)
        picture = face.draw(strength, distractors, points, turn.T @ direction * strong, ambient)

        scale = self._work / WIDTH * scene.zoom
        camera = Camera(face, turn, scale, (self._work - 1) / 2 + scale * (shift + np.array([0, 0.08])), self._work)
        seen = camera.take(picture)
        image = behind(scene, face, camera)
        image += seen[..., 3:] * (seen[..., :3] - image)
        if occluder in ("hand", "hair"):
            occlude(image, occluder, occluder_rng, camera, face, ambient + 0.8 * strong)
        if self._factor > 1:
            image = cv2.resize(image, (self._size, self._size), interpolation=cv2.INTER_AREA)
        landmarks = (camera.project(points) + 0.5) / self._factor - 0.5
        return SynthFrame(
            image=expose(image, scene, sensor_rng),
            landmarks=landmarks.astype(np.float32),
            intensity=intensity,
            occluded=occluder in ("hand", "hair") or abs(pose[0]) > _FAR,
            pose=pose.astype(np.float32),
            light=light.astype(np.float32),
            background=scene.background.mean(axis=(0, 1)),
            skin_tone=face.identity.skin_tone,
        )


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
