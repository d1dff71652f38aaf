"""Everything between a shaded face and a picture: pose, camera, light, background, occluders, sensor."""

from dataclasses import dataclass

import cv2
import numpy as np

from datamodules.synth.face import Face
from datamodules.synth.grid import SUBPIXEL, curve
from datamodules.synth.streams import Purpose, stream

WIDTH = 3.3  # face coordinates that the picture's side covers at mean distance
METERING = 0.6  # power of brightness that the camera's exposure follows; 1 would make every picture equally bright


@dataclass(frozen=True, slots=True)
class Scene:
    """What stays the same in a clip.

    Attributes:
        light: Azimuth and elevation of the key light in radians, its strength, and the ambient light's.
        tint: (3,) colour of the light.
        exposure: Factor that the camera meters for this face; dark skin is exposed longer, though not all the way.
        background: (size, size, 3) float32 linear light.
        cloth: (3,) linear colour of the clothes.
        zoom: Size of the face against the mean; noise: standard deviation of the sensor; blur: of the lens, as a share
            of the picture's side.
    """

    light: np.ndarray
    tint: np.ndarray
    exposure: float
    background: np.ndarray
    cloth: np.ndarray
    zoom: float
    noise: float
    blur: float


def draw_scene(seed: int, subject: int, size: int, skin: np.ndarray) -> Scene:
    """Light, background and camera of a subject's clip; the camera meters for this skin (3,) sRGB."""
    rng = stream(seed, subject, Purpose.SCENE)
    base = rng.uniform(0.03, 0.6) * np.exp(rng.normal(0, 0.15, 3))
    cells = 0.3 * rng.standard_normal((5, 5, 3)) + rng.standard_normal((5, 5, 1))
    blobs = cv2.resize(cells.astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
    slope = rng.normal(0, 0.15, 2)
    grid = np.linspace(-1, 1, size)
    plane = (slope[0] * grid[None] + slope[1] * grid[:, None])[..., None]
    background = np.clip(base * (1 + plane + rng.uniform(0, 0.35) * blobs), 0.005, 1).astype(np.float32)
    light = np.array([rng.normal(0, 0.5), rng.normal(0.45, 0.3), rng.uniform(0.65, 1.05), rng.uniform(0.25, 0.5)])
    return Scene(
        light=light,
        exposure=float((0.5 / np.square(skin).mean() / light[2:].sum()) ** METERING * np.exp(rng.normal(0.05, 0.12))),
        tint=np.exp(rng.normal(0, 0.05, 3)),
        background=background,
        cloth=np.square(rng.uniform(0.08, 0.8, 3)),
        zoom=float(np.exp(rng.normal(0, 0.06))),
        noise=rng.uniform(0.004, 0.02),
        blur=rng.uniform(0.0, 0.005),
    )


def rotation(pose: np.ndarray) -> np.ndarray:
    """(3,) yaw (to the right of the picture), pitch (up), roll (clockwise) in degrees -> (3, 3) rotation."""
    yaw, pitch, roll = np.radians(pose)
    cy, sy, cp, sp, cr, sr = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch), np.cos(roll), np.sin(roll)
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_x = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    about_z = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


class Camera:
    """Weak perspective: image = scale * (R [x, y, depth(x, y)])[:2] + shift, and its inverse by fixed-point iteration.

    Args:
        face: The head, whose coarse depth pose turns.
        turn: (3, 3) rotation.
        scale: Pixels a face unit.
        shift: (2,) pixel of the face's origin.

    Attributes:
        scale: Pixels a face unit.
        lean: (2,) pixels that a point moves by for each unit of depth.
    """

    def __init__(self, face: Face, turn: np.ndarray, scale: float, shift: np.ndarray) -> None:
        self._face, self._plane, self.lean = face, turn[:2, :2] * scale, turn[:2, 2] * scale
        self._shift, self.scale = shift, scale

    def project(self, points: np.ndarray) -> np.ndarray:
        """(n, 2) face coordinates -> (n, 2) pixels."""
        u, v = self._face.grid.pixels(points).astype(np.float32).T
        depth = cv2.remap(self._face.depth, u[None], v[None], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[0]
        return points @ self._plane.T + depth[:, None] * self.lean + self._shift

    def take(self, image: np.ndarray, window: tuple[slice, slice]) -> np.ndarray:
        """The face's own frame (side, side, C) float32 as seen in these rows and columns, zero outside."""
        grid = self._face.grid
        back = np.linalg.inv(self._plane) * grid.scale
        rows, columns = (np.arange(part.start, part.stop) for part in window)
        start = grid.pixels(np.zeros(2))
        u0, v0 = (
            (
                start[k] + back[k, 0] * (columns - self._shift[0])[None] + back[k, 1] * (rows - self._shift[1])[:, None]
            ).astype(np.float32)
            for k in (0, 1)
        )
        du, dv = (back @ self.lean).astype(np.float32)
        u, v = u0, v0
        for _ in range(10):
            depth = cv2.remap(self._face.depth, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            u, v = u0 - du * depth, v0 - dv * depth
        return cv2.remap(image, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=0)


def dress(picture: np.ndarray, scene: Scene, face: Face, camera: Camera, axis: float = 0.0) -> None:
    """Draw neck and shoulders into a picture (height, width, 3) float32 of linear light, in place.

    ``axis`` is the depth, in face units, of the axis that head and body share; heads turn about it.
    """
    wide = abs(face.identity.landmarks[4, 0])
    neck = np.array([(-0.78 * wide, 0.4), (0.78 * wide, 0.4), (0.82 * wide, 1.6), (-0.82 * wide, 1.6)])
    half = np.array([(0.5, 1.25), (1.1, 1.4), (1.6, 1.8), (1.7, 3.0)])
    shoulders = np.vstack([(0.0, 1.42), half, half[::-1] * (-1, 1)])
    trunk = np.array([(-1.89, 2.43), (1.89, 2.43), (2.0, 12.0), (-2.0, 12.0)])  # seen where the picture reaches so far
    cloth = scene.cloth * 0.6
    middle = camera.project(np.zeros((1, 2)))[0] + axis * camera.lean
    for outline, colour in (
        (curve(neck, closed=True), np.square(face.identity.skin) * 0.42),
        (curve(shoulders, closed=True), cloth),
        (trunk, cloth),
    ):
        points = np.round((outline * camera.scale + middle) * 2**SUBPIXEL).astype(np.int32)
        cv2.fillPoly(picture, [points], colour.tolist(), cv2.LINE_8, SUBPIXEL)


def occlude(picture: np.ndarray, kind: str, rng: np.random.Generator, camera: Camera, face: Face, level: float) -> None:
    """Lay a hand or a lock of hair over part of the face, in place."""
    mask = np.zeros(picture.shape[:2], np.uint8)
    side = rng.choice([-1, 1])
    if kind == "hand":
        palm = np.array([side * rng.uniform(0.3, 0.7), rng.uniform(0.5, 0.95)])
        up = np.array([-side * rng.uniform(0.2, 0.9), -1.0])
        up /= np.linalg.norm(up)
        across = np.array([-up[1], up[0]])
        strokes = [(palm - 1.5 * up, palm, 0.36)]
        strokes += [
            (palm + across * s, palm + across * s * 1.15 + up * (0.55 - 0.5 * s * s), 0.115)
            for s in (-0.2, -0.07, 0.06, 0.19)
        ]
        colour = np.square(face.identity.skin) * level * 0.85
    else:
        x = side * rng.uniform(0.15, 0.5)
        ends = rng.uniform(-0.2, 0.45, 7) * side
        strokes = [
            (np.array([x + 0.05 * k * side, -1.0]), np.array([x + ends[k], rng.uniform(-0.1, 0.5)]), 0.07)
            for k in range(7)
        ]
        colour = np.square(face.identity.hair) * level
    for start, end, width in strokes:
        a, b = np.round(camera.project(np.stack([start, end])) * 2**SUBPIXEL).astype(int)
        cv2.line(mask, a.tolist(), b.tolist(), 255, max(1, round(width * camera.scale)), cv2.LINE_AA, SUBPIXEL)
    cover = cv2.GaussianBlur(mask, (0, 0), 0.012 * camera.scale).astype(np.float32)[..., None] / 255
    relief = cv2.GaussianBlur(mask, (0, 0), 0.06 * camera.scale).astype(np.float32)[..., None] / 255
    picture += cover * (colour.astype(np.float32) * (0.45 + 0.55 * relief) - picture)


def backdrop(rng: np.random.Generator, height: int, width: int, things: int = 0) -> np.ndarray:
    """(height, width, 3) float32 linear light: a wall, with so many plain things before it."""
    base = rng.uniform(0.05, 0.5) * np.exp(rng.normal(0, 0.15, 3))
    cells = 0.3 * rng.standard_normal((4, 6, 3)) + rng.standard_normal((4, 6, 1))
    blobs = cv2.resize(cells.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    picture = base * (1 + rng.uniform(0.05, 0.3) * blobs)
    for _ in range(things):
        x, y, half_width, half_height = rng.uniform((0, 0.1, 0.03, 0.08), (1, 0.9, 0.14, 0.35)) * (
            width,
            height,
            width,
            height,
        )
        colour = rng.uniform(0.02, 0.7) * np.exp(rng.normal(0, 0.25, 3))
        corners = np.array([(x - half_width, y - half_height), (x + half_width, y + half_height)])
        low, high = np.round(corners).astype(int).tolist()
        cv2.rectangle(picture, low, high, colour.tolist(), -1)
    return np.clip(cv2.GaussianBlur(picture, (0, 0), 0.004 * width), 0.005, 1).astype(np.float32)


def expose(picture: np.ndarray, scene: Scene, exposure: float, rng: np.random.Generator) -> np.ndarray:
    """Linear light -> (height, width, 3) uint8 sRGB with lens blur and sensor noise."""
    if scene.blur * len(picture) > 0.2:
        picture = cv2.GaussianBlur(picture, (0, 0), scene.blur * len(picture))
    grey = np.sqrt(np.maximum(picture * (exposure * scene.tint).astype(np.float32), 0))
    grey += np.float32(scene.noise) * rng.standard_normal(grey.shape, dtype=np.float32)
    return (np.clip(grey, 0, 1) * 255 + 0.5).astype(np.uint8)
