"""A face in its own frame: height field and albedo, shaded by the normals. Pose and picture are `scene`'s affair.

Colours are linear light inside (sRGB squared, which is close enough and costs a square root).
"""

from functools import cache, cached_property

import cv2
import numpy as np
from scipy.special import expit

from datamodules.synth.behaviour import COLUMN, Distractors
from datamodules.synth.expression import BULGES, MOTION, RESTING, WRINKLES
from datamodules.synth.identity import MIRROR, TEMPLATE, Identity
from datamodules.synth.streams import Purpose, stream

_EXTENT, _LEFT, _TOP = 2.8, -1.4, -1.5  # the square of face coordinates that is drawn
_COARSE = 36  # cells a side of the grid on which landmark motion spreads over the skin
_DOWN = np.array([0.0, 1.0])
_TRACE = 0.02  # strength below which nothing is drawn
_LASTING = {1: 0.15, 2: 0.15, 4: 0.15, 10: 0.5, 12: 0.5}  # AUs whose wrinkles age leaves in the resting face
_SUBPIXEL = 4  # fractional bits of cv2's polygon coordinates


@cache
def _spline(n: int, closed: bool) -> np.ndarray:
    """(m, n) weights of a Catmull-Rom curve through n points, six steps a span."""
    steps, rows = np.arange(6) / 6, []
    for span in range(n if closed else n - 1):
        for u in steps:
            w = np.array([-u + 2 * u**2 - u**3, 2 - 5 * u**2 + 3 * u**3, u + 4 * u**2 - 3 * u**3, -(u**2) + u**3]) / 2
            row = np.zeros(n)
            for k, value in zip(range(span - 1, span + 3), w, strict=True):
                row[k % n if closed else min(max(k, 0), n - 1)] += value
            rows.append(row)
    if not closed:
        rows.append(np.eye(n)[-1])
    return np.array(rows)


def curve(points: np.ndarray, closed: bool = False) -> np.ndarray:
    """(n, 2) control points -> (m, 2) smooth curve that passes through them."""
    return _spline(len(points), closed) @ points


def _on_face(points: tuple[tuple[float, float], ...], anchor: int, side: int, landmarks: np.ndarray) -> np.ndarray:
    """Place a curve of `expression`'s tables on this face: side 0 as written, 1 mirrored, moved with its anchor."""
    if side:
        anchor = MIRROR[anchor]
    return np.array(points) * (1 - 2 * side, 1) + landmarks[anchor] - TEMPLATE[anchor]


class Grid:
    """The pixels of the face's own frame.

    Args:
        side: Pixels a side.
    """

    def __init__(self, side: int) -> None:
        self.side, self.scale = side, side / _EXTENT
        self.x = (np.arange(side, dtype=np.float32) + 0.5) / np.float32(self.scale) + _LEFT
        self.y = (np.arange(side, dtype=np.float32) + 0.5) / np.float32(self.scale) + _TOP

    def pixels(self, points: np.ndarray) -> np.ndarray:
        """Face coordinates (..., 2) -> pixels, (0, 0) the centre of the top left one."""
        return (points - (_LEFT, _TOP)) * self.scale - 0.5

    def gaussian(self, x: float, y: float, width: float, height: float) -> tuple[np.ndarray, np.ndarray]:
        """The two factors (side, 1), (1, side) of an axis-parallel Gaussian."""
        gx = np.exp(-0.5 * ((self.x - np.float32(x)) / np.float32(width)) ** 2)
        gy = np.exp(-0.5 * ((self.y - np.float32(y)) / np.float32(height)) ** 2)
        return gy[:, None], gx[None]

    def fixed(self, points: np.ndarray) -> np.ndarray:
        """Points as cv2's fixed-point pixels."""
        return np.round(self.pixels(points) * 2**_SUBPIXEL).astype(np.int32)

    def mask(self, outline: np.ndarray) -> np.ndarray:
        """(m, 2) closed outline -> (side, side) float32 coverage 0..1."""
        canvas = np.zeros((self.side, self.side), np.uint8)
        cv2.fillPoly(canvas, [self.fixed(outline)], 255, cv2.LINE_AA, _SUBPIXEL)
        return canvas.astype(np.float32) / 255

    def patch(self, outline: np.ndarray, softness: float = 0.0) -> tuple[tuple[slice, slice], np.ndarray]:
        """Like `mask`, cut out: where the outline lies and its coverage (h, w, 1), blurred by ``softness`` units."""
        p = self.pixels(outline)
        border = int(3 * softness * self.scale) + 2
        low = np.maximum(np.floor(p.min(axis=0)).astype(int) - border, 0)
        high = np.minimum(np.ceil(p.max(axis=0)).astype(int) + border + 1, self.side)
        canvas = np.zeros(tuple(np.maximum(high - low, 1)[::-1]), np.uint8)
        cv2.fillPoly(canvas, [np.round((p - low) * 2**_SUBPIXEL).astype(np.int32)], 255, cv2.LINE_AA, _SUBPIXEL)
        if softness:
            canvas = cv2.GaussianBlur(canvas, (0, 0), softness * self.scale)
        where = (slice(low[1], low[1] + canvas.shape[0]), slice(low[0], low[0] + canvas.shape[1]))
        return where, canvas[..., None].astype(np.float32) / 255

    def paint(
        self, image: np.ndarray, outline: np.ndarray, colour: np.ndarray, opacity: float = 1.0, softness: float = 0.0
    ) -> None:
        """Lay a colour (3,) over ``image`` (side, side, 3) inside the outline."""
        where, coverage = self.patch(outline, softness)
        image[where] += opacity * coverage * (colour.astype(np.float32) - image[where])

    def band(
        self,
        image: np.ndarray,
        upper: np.ndarray,
        lower: np.ndarray,
        colour: np.ndarray,
        opacity: float = 1.0,
        softness: float = 0.0,
    ) -> None:
        """`paint` between two curves that run the same way."""
        self.paint(image, np.vstack([upper, lower[::-1]]), colour, opacity, softness)


@cache
def grid(side: int) -> Grid:
    """The one grid of this size in this process."""
    return Grid(side)


def _noise(rng: np.random.Generator, side: int, cells: tuple[int, int]) -> np.ndarray:
    """(side, side) float32 smooth noise about 0 with ``cells`` (rows, columns) a side."""
    return cv2.resize(rng.standard_normal(cells, dtype=np.float32), (side, side), interpolation=cv2.INTER_CUBIC)


class Face:
    """One subject's head, ready to be drawn with any expression.

    Args:
        identity: The subject.
        seed: Seed of the dataset; skin texture and hair come from it.
        subject: Number of the subject.
        side: Pixels a side of the frame drawn.
    """

    def __init__(self, identity: Identity, seed: int, subject: int, side: int) -> None:
        self.identity, self.grid = identity, grid(side)
        self._rng_key = (seed, subject)
        self.depth = self._depth()
        self._skin = self._resting_skin()
        self._backdrop, self._backdrop_alpha = self._hair_and_ears()
        cells = (np.arange(_COARSE) + 0.5) / _COARSE * _EXTENT
        coarse = np.stack(np.meshgrid(cells + _LEFT, cells + _TOP), axis=-1).reshape(-1, 1, 2)
        weight = np.exp(-0.5 * (np.square(coarse - identity.landmarks).sum(axis=-1) / 0.11**2))
        self._spread = weight / (weight.sum(axis=1, keepdims=True) + 0.3)

    def _depth(self) -> np.ndarray:
        """(side, side) float32 coarse relief that pose turns: head and nose, smooth enough to be inverted."""
        g, p = self.grid, self.identity.landmarks
        x, y = g.x[None], g.y[:, None]
        depth = -1.25 * (np.sqrt(x**2 + 0.64) - 0.8) - 0.35 * (np.sqrt((y - 0.05) ** 2 + 0.5) - 0.7)
        ridge, across = g.gaussian(0.0, p[30, 1] - 0.06, 0.16, 0.20)
        return (depth + 0.2 * self.identity.depth[0] * ridge * across).astype(np.float32)

    def _resting_skin(self) -> np.ndarray:
        """(side, side, 4) float32: linear albedo and relief of the neutral face, hair on the forehead included."""
        g, who, p = self.grid, self.identity, self.identity.landmarks
        rng = stream(*self._rng_key, Purpose.TEXTURE)
        n = g.side
        relief = self.depth.copy()

        def bump(x: float, y: float, width: float, height: float, amount: float) -> None:
            for sign in (1, -1) if x else (1,):
                a, b = g.gaussian(sign * x, y, width, height)
                relief[:] += amount * a * b

        nose, brow, cheek, chin, socket = who.depth
        eye = np.abs(p[36:42]).mean(axis=0) * (1, -1)
        bump(0, 0.0, 0.055, 0.16, 0.05 * nose)
        bump(0, p[30, 1], 0.075, 0.065, 0.10 * nose)
        bump(-p[31, 0] * 0.8, p[31, 1] - 0.02, 0.04, 0.045, 0.06 * nose)
        bump(0.36, -0.44, 0.20, 0.06, 0.035 * brow)
        bump(eye[0], eye[1], 0.17, 0.10, -0.07 * socket)
        bump(eye[0], eye[1], 0.11, 0.065, 0.055)
        bump(0.50, 0.06, 0.17, 0.12, 0.05 * cheek)
        bump(0, p[8, 1] - 0.16, 0.14, 0.09, 0.06 * chin)
        bump(0, p[57, 1] + 0.07, 0.14, 0.03, -0.02)
        bump(0.03, p[33, 1] + 0.1, 0.018, 0.06, 0.012)
        relief += 0.0012 * _noise(rng, n, (n // 2, n // 2)) + 0.006 * _noise(rng, n, (14, 14))

        albedo = np.square(who.skin).astype(np.float32) * np.ones((n, n, 1), np.float32)
        tone = 1 + 0.05 * _noise(rng, n, (8, 8)) + 0.03 * _noise(rng, n, (60, 60))
        warm = np.zeros((n, n), np.float32)
        for x, y, w, h, amount in (
            (0.48, 0.12, 0.18, 0.14, 0.5),
            (-0.48, 0.12, 0.18, 0.14, 0.5),
            (0, 0.16, 0.12, 0.1, 0.6),
        ):
            a, b = g.gaussian(x, y, w, h)
            warm += amount * a * b
        for x, y, w, h, amount in (
            (eye[0], eye[1] + 0.02, 0.15, 0.09, 0.16),
            (0, p[33, 1] + 0.03, 0.12, 0.03, 0.22),
            (0, p[57, 1] + 0.05, 0.1, 0.025, 0.2),
        ):
            for sign in (1, -1) if x else (1,):
                a, b = g.gaussian(sign * x, y, w, h)
                tone -= amount * a * b
        albedo *= tone[..., None]
        albedo *= 1 - warm[..., None] * rng.uniform(0.1, 0.35) * np.array([0.0, 0.5, 0.45], np.float32)
        for _ in range(rng.poisson(3)):
            centre = rng.uniform((-0.6, -0.5), (0.6, 0.8))
            where, spot = g.patch(centre + 0.016 * np.array([(1, 0), (0, 1), (-1, 0), (0, -1)]), 0.008)
            albedo[where] *= 1 - 0.5 * spot
        if who.stubble:
            lower = expit(
                (g.y[:, None] - 0.36 - 0.25 * (np.abs(g.x[None]) < 0.3) + 0.15 * (np.abs(g.x[None]) > 0.6)) / 0.05
            )
            lip, across = g.gaussian(0, 0.36, 0.2, 0.05)
            shade = np.clip(lower + lip * across, 0, 1) * (0.6 + 0.25 * _noise(rng, n, (n // 2, n // 2)))
            albedo += (np.clip(shade * who.stubble, 0, 0.9) * 0.75)[..., None] * (
                np.square(who.hair).astype(np.float32) - albedo
            )
        hair, strands = self._hair_colour(rng)
        edge = (
            who.hairline
            + 0.75 * (np.abs(g.x) / 0.85) ** 3
            + 0.05 * np.sin(g.x * rng.uniform(2, 7) + rng.uniform(0, 6))
            + rng.normal(0, 0.06) * g.x
        )
        temple = 1.0 if who.hair_drop > 0.2 else 0.55
        wave = 0.05 * np.sin(g.x * rng.uniform(2, 7) + rng.uniform(0, 6)) + rng.normal(0, 0.08) * g.x
        edge = who.hairline + temple * (np.abs(g.x) / 0.82) ** 4 + wave
        front = expit((edge[None] - g.y[:, None] - 0.04 * strands) / 0.025)
        albedo += front[..., None] * (hair - albedo)
        relief += front * (0.03 + 0.008 * strands)
        self._gloss = (0.10 * (1 - front)).astype(np.float32)
        return np.concatenate([albedo, relief[..., None]], axis=2).astype(np.float32)

    def _hair_colour(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        strands = 0.6 * _noise(rng, self.grid.side, (10, 70)) + 0.4 * _noise(rng, self.grid.side, (6, 20))
        return np.square(self.identity.hair).astype(np.float32) * np.clip(1 + 0.3 * strands, 0.3, 2)[..., None], strands

    def _hair_and_ears(self) -> tuple[np.ndarray, np.ndarray]:
        """What lies behind the face: (side, side, 3) linear albedo and (side, side) coverage."""
        g, who, v = self.grid, self.identity, self.identity.hair_volume
        wide = abs(who.landmarks[0, 0]) / 0.8
        if who.hair_drop < 0.2:
            half = np.array([(0.78 / v, who.hair_drop), (0.85, -0.45), (0.80, -0.80), (0.5, -1.13)])
        else:
            half = np.array([(0.90, who.hair_drop), (0.95, 0.1), (0.88, -0.45), (0.80, -0.80), (0.5, -1.13)])
        half *= (v * wide, 1)
        half[-2:, 1] -= np.array([0.4, 0.8]) * (v - 1)
        outline = np.vstack([half, [(0, -1.22 - 0.8 * (v - 1))], half[::-1] * (-1, 1)])
        alpha = g.mask(curve(outline, closed=True))
        albedo, _ = self._hair_colour(stream(*self._rng_key, Purpose.TEXTURE, 1))
        angle = np.linspace(0, 2 * np.pi, 12, endpoint=False)
        for side in (-1, 1):
            ear = np.stack([side * (0.83 * wide + 0.075 * np.cos(angle)), 0.02 + 0.17 * np.sin(angle)], axis=1)
            if who.hair_drop < 0.1:
                g.paint(albedo, curve(ear, closed=True), np.square(who.skin) * (0.8, 0.68, 0.66))
                alpha = np.maximum(alpha, g.mask(curve(ear, closed=True)))
        return albedo, alpha

    @cached_property
    def _eye_centres(self) -> np.ndarray:
        return np.stack([self.identity.landmarks[36:42].mean(axis=0), self.identity.landmarks[42:48].mean(axis=0)])

    def landmarks(self, strength: np.ndarray, distractors: Distractors) -> np.ndarray:
        """(68, 2) float64 face coordinates for AU strengths (2 sides, 17) in about 0..1.2."""
        p = self.identity.landmarks + np.einsum("sk,skpd->pd", strength, MOTION)
        talk, pucker = distractors.opening, distractors.pucker
        p[[57, 58, 56], 1] += 0.05 * talk
        p[65:68, 1] += 0.06 * talk
        p[6:11, 1] += 0.03 * talk
        p[48:68, 0] *= 1 - 0.12 * pucker
        for lid, below in ((37, 41), (38, 40), (43, 47), (44, 46)):
            # Lids meet near the lower one; without a blink they never close further than a squint.
            gap = max(p[below, 1] - p[lid, 1], 0.022)
            p[lid, 1] = p[below, 1] - gap * (1 - distractors.blink)
        for above, below in ((61, 67), (62, 66), (63, 65)):
            p[below, 1] = max(p[below, 1], p[above, 1])
        for outer, inner, sign in (
            (49, 61, 1),
            (50, 61, 1),
            (51, 62, 1),
            (52, 63, 1),
            (53, 63, 1),
            (55, 65, -1),
            (56, 65, -1),
            (57, 66, -1),
            (58, 67, -1),
            (59, 67, -1),
        ):
            edge = (
                p[inner, 1]
                if outer not in (49, 53, 55, 59)
                else (p[inner, 1] + p[60 if outer in (49, 59) else 64, 1]) / 2
            )
            p[outer, 1] = sign * min(sign * p[outer, 1], sign * edge - 0.012)
        return p

    def draw(
        self, strength: np.ndarray, distractors: Distractors, points: np.ndarray, light: np.ndarray, ambient: float
    ) -> np.ndarray:
        """Shade the face.

        Args:
            strength: (2, 17) AU strength on the subject's right and left.
            distractors: Blink, speech and gaze.
            points: (68, 2) from `landmarks`.
            light: (3,) direction to the light in the face's frame times its strength.
            ambient: Light from everywhere.

        Returns:
            (side, side, 4) float32: linear colour and coverage.
        """
        g, who = self.grid, self.identity
        moved = points - who.landmarks
        flow = (self._spread @ moved).reshape(_COARSE, _COARSE, 2).astype(np.float32)
        flow = cv2.resize(flow, (g.side, g.side), interpolation=cv2.INTER_LINEAR) * np.float32(g.scale)
        index = np.arange(g.side, dtype=np.float32)
        skin = cv2.remap(
            self._skin,
            index[None] - flow[..., 0],
            index[:, None] - flow[..., 1],
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
        albedo, relief = np.ascontiguousarray(skin[..., :3]), np.ascontiguousarray(skin[..., 3])

        crease = self._fold(relief, strength, points, distractors)
        albedo *= 1 - 0.45 * np.minimum(crease, 1)[..., None]
        self._brows(albedo, points)
        self._lips(albedo, relief, strength, points)

        face = curve(np.vstack([points[:17], self._skull(points)]), closed=True)
        inside = g.mask(face)
        albedo = self._backdrop + inside[..., None] * (albedo - self._backdrop)
        shade = self._shade(relief, light, ambient)
        lit = albedo * shade[0][..., None] + (self._gloss * inside * shade[1])[..., None]
        level = ambient + max(float(light[2]), 0.0) * 0.9
        self._eyes(lit, points, distractors, level)
        self._mouth(lit, points, level)
        return np.dstack([lit, np.maximum(inside, self._backdrop_alpha)])

    def _skull(self, points: np.ndarray) -> np.ndarray:
        """(7, 2) outline of the head above the ears, from the left of the picture's right ear back to the other."""
        right, left = points[16], points[0]
        arc = np.array([(0.99, -0.52), (0.87, -0.86), (0.56, -1.12), (0.0, -1.22)])
        half_width = (right[0] - left[0]) / 2
        middle = (right[0] + left[0]) / 2
        arc = np.vstack([arc, arc[2::-1] * (-1, 1)])
        return arc * (half_width, 1) + (middle, 0)

    def _fold(
        self, relief: np.ndarray, strength: np.ndarray, points: np.ndarray, distractors: Distractors
    ) -> np.ndarray:
        """Raise bulges and sink creases in ``relief``; returns (side, side) float32 crease depth."""
        g, who = self.grid, self.identity
        fine, broad = np.zeros((2, g.side, g.side), np.uint8)

        def crease(line: np.ndarray, depth: float, soft: bool = False) -> None:
            canvas, width = (broad, 0.035) if soft else (fine, 0.016)
            shade, thickness = int(255 * min(depth, 1.0)), max(1, round(width * g.scale))
            cv2.polylines(canvas, [g.fixed(curve(line))], False, shade, thickness, cv2.LINE_AA, _SUBPIXEL)

        for side in (0, 1):
            for bulge in BULGES:
                amount = strength[side, COLUMN[bulge.au]]
                if amount > _TRACE:
                    ((x, y),) = _on_face(((bulge.x, bulge.y),), bulge.anchor, side, points)
                    a, b = g.gaussian(x, y, bulge.width, bulge.height)
                    relief += np.float32(bulge.relief * amount) * a * b
            for wrinkle in WRINKLES:
                amount = strength[side, COLUMN[wrinkle.au]] * who.wrinkle + _LASTING.get(wrinkle.au, 0.0) * who.lines
                if amount > _TRACE:
                    line = _on_face(wrinkle.points, wrinkle.anchor, side, points)
                    crease(line, 0.75 * amount * wrinkle.strength, wrinkle.broad)
            for wrinkle in RESTING:
                crease(_on_face(wrinkle.points, wrinkle.anchor, side, points), wrinkle.strength)
        for lid in (points[36:40], points[42:46]):
            crease(lid + np.array([(0, -0.012), (0, -0.05), (0, -0.05), (0, -0.02)]), 0.6 - 0.4 * distractors.blink)
        fine_depth = cv2.GaussianBlur(fine, (0, 0), 0.009 * g.scale).astype(np.float32) / 255
        broad_depth = cv2.GaussianBlur(broad, (0, 0), 0.022 * g.scale).astype(np.float32) / 255
        relief -= 0.028 * fine_depth + 0.045 * broad_depth
        chin = strength[:, COLUMN[17]].mean()
        if chin > 0.02:
            # The mentalis pulls pits into the chin: a pattern that stands still on the skin.
            a, b = g.gaussian(points[8, 0], points[57, 1] + 0.2, 0.13, 0.08)
            relief += np.float32(0.016 * chin * who.wrinkle) * a * b * _pebbles(g.side)
        return fine_depth + broad_depth

    def _brows(self, albedo: np.ndarray, points: np.ndarray) -> None:
        who = self.identity
        for brow in (points[17:22], points[22:27][::-1]):
            line = curve(brow)
            half = who.brow_width * np.linspace(0.45, 1.25, len(line))[:, None] * _DOWN
            self.grid.band(albedo, line - half, line + half, np.square(who.brow), who.brow_density, 0.012)

    def _lips(self, albedo: np.ndarray, relief: np.ndarray, strength: np.ndarray, points: np.ndarray) -> None:
        """Red parts and their relief. AU23 rolls the red inwards while the lips' outline stays where it is."""
        g, who = self.grid, self.identity
        tight = strength[:, COLUMN[23]].mean()
        colour = np.square(who.lip) + 0.5 * min(tight, 1.0) * (np.square(who.skin) * 0.85 - np.square(who.lip))
        upper = np.vstack([points[48:55], points[64:59:-1]])
        lower = np.vstack([points[54:60], points[48:49], points[60:61], points[67:64:-1], points[64:65]])
        seam = points[60:68, 1].mean()
        for outline in (upper, lower):
            red = outline.copy()
            red[:, 1] += 0.6 * min(tight, 1.0) * (seam - red[:, 1]) * (np.abs(red[:, 1] - seam) > 0.02)
            g.paint(albedo, red, colour, 0.85, 0.008)
        for outer, inner, amount in ((points[51], points[62], 0.024), (points[57], points[66], 0.034)):
            middle = (outer + inner) / 2
            thickness = abs(outer[1] - inner[1])
            a, b = g.gaussian(middle[0], middle[1], 0.13, max(0.35 * thickness, 0.012))
            relief += np.float32(amount * min(thickness / 0.06, 1.3)) * a * b

    def _shade(self, relief: np.ndarray, light: np.ndarray, ambient: float) -> tuple[np.ndarray, np.ndarray]:
        """Diffuse factor and highlight, each (side, side) float32."""
        g = self.grid
        gx = cv2.Sobel(relief, cv2.CV_32F, 1, 0, ksize=3, scale=g.scale / 8)
        gy = cv2.Sobel(relief, cv2.CV_32F, 0, 1, ksize=3, scale=g.scale / 8)
        length = np.sqrt(gx * gx + gy * gy + 1)
        lx, ly, lz = light.astype(np.float32)
        diffuse = np.maximum((lz - gx * lx - gy * ly) / length, 0)
        half = light / np.linalg.norm(light) + (0, 0, 1)
        hx, hy, hz = (half / np.linalg.norm(half)).astype(np.float32)
        glint = np.maximum((hz - gx * hx - gy * hy) / length, 0) ** 2
        glint *= glint
        glint *= glint
        glint *= glint
        return diffuse + np.float32(ambient) * (0.6 + 0.4 / length), glint * np.float32(np.linalg.norm(light))

    def _eyes(self, lit: np.ndarray, points: np.ndarray, distractors: Distractors, level: float) -> None:
        g, who = self.grid, self.identity
        for eye, centre in zip((points[36:42], points[42:48]), self._eye_centres, strict=True):
            upper, lower = curve(eye[:4]), curve(np.vstack([eye[3:], eye[:1]]))
            where, opening = g.patch(np.vstack([upper, lower]))
            x, y = g.x[None, where[1]], g.y[where[0], None]
            pupil = centre + (0.0, -0.006) + 0.02 * np.clip(distractors.gaze, -2, 2)
            radius = np.hypot(x - pupil[0], y - pupil[1])
            ball = np.array([0.72, 0.68, 0.66], np.float32) * np.clip(1 - 4 * ((x - centre[0]) ** 2), 0.4, 1)[..., None]
            for size, colour in ((0.066, np.square(who.iris) * 1.2), (0.027, np.full(3, 0.01))):
                disc = np.clip((size - radius) * g.scale + 0.5, 0, 1)[..., None]
                ball = ball + disc * (colour - ball)
            lid_shadow = np.clip((y - upper[:, 1].min()) / 0.05, 0.35, 1)[..., None]
            spark = np.hypot(x - pupil[0] - 0.02, y - pupil[1] + 0.022)
            glint = np.clip((0.014 - spark) * g.scale + 0.5, 0, 1)[..., None]
            ball = ball * lid_shadow * level + 0.9 * glint
            lit[where] += opening * (ball.astype(np.float32) - lit[where])
            lash, rim = np.square(who.brow) * 0.5 * level, np.square(who.skin) * 0.35 * level
            g.band(lit, upper - 0.016 * _DOWN, upper + 0.006 * _DOWN, lash, 0.8, 0.006)
            g.band(lit, lower - 0.002 * _DOWN, lower + 0.008 * _DOWN, rim, 0.5, 0.006)

    def _mouth(self, lit: np.ndarray, points: np.ndarray, level: float) -> None:
        g, who = self.grid, self.identity
        upper = curve(points[60:65])
        lower = curve(np.vstack([points[64:68], points[60:61]]))[::-1]
        gap = np.maximum(lower - upper, 0) * _DOWN
        dark, teeth, tongue = level * np.array([(0.05, 0.012, 0.01), (0.62, 0.58, 0.5), (0.28, 0.07, 0.07)])
        g.band(lit, upper - 0.006 * _DOWN, upper + gap + 0.006 * _DOWN, dark, 0.9)
        opening = gap[:, 1].max()
        if opening > 0.02:
            edge = upper + np.minimum(0.8 * gap, 0.06)
            g.band(lit, upper[4:-4], edge[4:-4], teeth, min(1.0, opening / 0.06), 0.005)
        if opening > 0.11:
            g.band(lit, (upper + 0.72 * gap)[6:-6], (upper + 0.98 * gap)[6:-6], tongue, 0.8, 0.01)
        angle = np.linspace(0, 2 * np.pi, 8, endpoint=False)
        for nostril, sign in ((points[32], -1), (points[34], 1)):
            hole = np.stack([0.034 * np.cos(angle), 0.014 * np.sin(angle)], axis=1) + np.array([sign * 0.012, -0.018])
            g.paint(lit, nostril + hole, np.square(who.skin) * 0.06, 0.75, 0.008)


@cache
def _pebbles(side: int) -> np.ndarray:
    return _noise(stream(0, 0, Purpose.TEXTURE), side, (44, 44))
