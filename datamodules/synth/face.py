"""A face in its own frame: height field and albedo, shaded by the normals. Pose and picture are `scene`'s affair.

Colours are linear light inside (sRGB squared, which is close enough and costs a square root).
"""

from functools import cache, cached_property

import cv2
import numpy as np
from scipy.special import expit

from datamodules.synth.behaviour import COLUMN, Distractors
from datamodules.synth.expression import BULGES, MOTION, RESTING, WRINKLES
from datamodules.synth.grid import SUBPIXEL, curve, grid, noise
from datamodules.synth.identity import MIRROR, TEMPLATE, Identity
from datamodules.synth.streams import Purpose, stream

_COARSE = 36  # cells a side of the grid on which landmark motion spreads over the skin
_DOWN = np.array([0.0, 1.0])
_TRACE = 0.02  # strength below which nothing is drawn
_LASTING = {1: 0.15, 2: 0.15, 4: 0.15, 10: 0.5, 12: 0.5}  # AUs whose wrinkles age leaves in the resting face
# Inner lip points opposite the outer ones 49..53 and 55..59.
_INNER_UPPER = np.array([(60, 61), (61, 61), (62, 62), (63, 63), (63, 64)])
_INNER_LOWER = np.array([(64, 65), (65, 65), (66, 66), (67, 67), (67, 60)])


def _on_face(points: tuple[tuple[float, float], ...], anchor: int, side: int, landmarks: np.ndarray) -> np.ndarray:
    """Place a curve of `expression`'s tables on this face: side 0 as written, 1 mirrored, moved with its anchor."""
    if side:
        anchor = MIRROR[anchor]
    return np.array(points) * (1 - 2 * side, 1) + landmarks[anchor] - TEMPLATE[anchor]


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
        self.depth = self._depth()
        rng = stream(seed, subject, Purpose.TEXTURE)
        relief, albedo = self._relief(rng), self._albedo(rng)
        hair = self._hair(rng)
        front, strands = self._forehead_hair(rng)
        albedo += front[..., None] * (hair - albedo)
        relief += front * (0.03 + 0.008 * strands)
        self._skin = np.dstack([albedo, relief]).astype(np.float32)
        self._gloss = 0.10 * (1 - front)
        self._backdrop, self._backdrop_alpha = self._hair_and_ears(hair)
        weight = np.square(self.grid.mesh(_COARSE).reshape(-1, 1, 2) - identity.landmarks).sum(axis=-1)
        weight = np.exp(-0.5 * weight / 0.11**2)
        self._spread = weight / (weight.sum(axis=1, keepdims=True) + 0.3)

    def _depth(self) -> np.ndarray:
        """(side, side) float32 coarse relief that pose turns: head and nose, smooth enough to be inverted."""
        g = self.grid
        x, y = g.x[None], g.y[:, None]
        head = -1.25 * (np.sqrt(x**2 + 0.64) - 0.8) - 0.35 * (np.sqrt((y - 0.05) ** 2 + 0.5) - 0.7)
        nose = g.gaussian(0.0, self.identity.landmarks[30, 1] - 0.06, 0.20, 0.16, 0.2 * self.identity.depth[0])
        return head.astype(np.float32) + nose

    def _symmetric(self, bumps: tuple[tuple[float, float, float, float, float], ...]) -> np.ndarray:
        """(side, side) float32 sum of Gaussians (x, y, width, height, peak), each also at -x unless x is 0."""
        places = [(sign * x, *rest) for x, *rest in bumps for sign in ((1, -1) if x else (1,))]
        return np.sum([self.grid.gaussian(*place) for place in places], axis=0)

    def _relief(self, rng: np.random.Generator) -> np.ndarray:
        """(side, side) float32 height of the neutral face's skin."""
        p, n = self.identity.landmarks, self.grid.side
        nose, brow, cheek, chin, socket = self.identity.depth
        eye_x, eye_y = abs(p[36:42, 0].mean()), p[36:42, 1].mean()
        bumps = (
            (0.0, 0.0, 0.055, 0.16, 0.05 * nose),  # bridge
            (0.0, p[30, 1], 0.075, 0.065, 0.10 * nose),  # tip
            (0.8 * p[35, 0], p[31, 1] - 0.02, 0.04, 0.045, 0.06 * nose),  # wings
            (0.36, -0.44, 0.20, 0.06, 0.035 * brow),
            (eye_x, eye_y, 0.17, 0.10, -0.07 * socket),
            (eye_x, eye_y, 0.11, 0.065, 0.055),  # eyeball
            (0.50, 0.06, 0.17, 0.12, 0.05 * cheek),
            (0.0, p[8, 1] - 0.16, 0.14, 0.09, 0.06 * chin),
            (0.0, p[57, 1] + 0.07, 0.14, 0.03, -0.02),  # between lip and chin
            (0.03, p[33, 1] + 0.1, 0.018, 0.06, 0.012),  # philtrum
        )
        return self.depth + self._symmetric(bumps) + 0.0012 * noise(rng, n, n // 2) + 0.006 * noise(rng, n, 14)

    def _albedo(self, rng: np.random.Generator) -> np.ndarray:
        """(side, side, 3) float32 linear colour of the neutral face's skin, stubble and moles included."""
        g, who, p = self.grid, self.identity, self.identity.landmarks
        n, eye_x, eye_y = g.side, abs(p[36:42, 0].mean()), p[36:42, 1].mean()
        shadow = self._symmetric(
            (
                (eye_x, eye_y + 0.02, 0.15, 0.09, 0.16),
                (0.0, p[33, 1] + 0.03, 0.12, 0.03, 0.22),
                (0.0, p[57, 1] + 0.05, 0.10, 0.025, 0.2),
            )
        )
        blood = self._symmetric(((0.48, 0.12, 0.18, 0.14, 0.5), (0.0, 0.16, 0.12, 0.1, 0.6)))
        tone = 1 - shadow + 0.05 * noise(rng, n, 8) + 0.03 * noise(rng, n, 60)
        albedo = tone[..., None] * np.square(who.skin).astype(np.float32)
        albedo *= 1 - blood[..., None] * rng.uniform(0.1, 0.35) * np.array([0.0, 0.5, 0.45], np.float32)
        for _ in range(rng.poisson(3)):
            mole = rng.uniform((-0.6, -0.5), (0.6, 0.8)) + 0.016 * np.array([(1, 0), (0, 1), (-1, 0), (0, -1)])
            where, spot = g.patch(mole, 0.008)
            albedo[where] *= 1 - 0.5 * spot
        if who.stubble:
            x, y = np.abs(g.x[None]), g.y[:, None]
            beard = expit((y - 0.36 - 0.25 * (x < 0.3) + 0.15 * (x > 0.6)) / 0.05) + g.gaussian(0.0, 0.36, 0.2, 0.05)
            cover = np.clip(beard, 0, 1) * (0.6 + 0.25 * noise(rng, n, n // 2))
            cover = 0.75 * np.clip(cover * who.stubble, 0, 0.9)
            albedo += cover[..., None] * (np.square(who.hair) - albedo)
        return albedo.astype(np.float32)

    def _hair(self, rng: np.random.Generator) -> np.ndarray:
        """(side, side, 3) float32 linear colour of strands that run downwards."""
        strands = 0.6 * noise(rng, self.grid.side, 70, rows=10) + 0.4 * noise(rng, self.grid.side, 20, rows=6)
        return np.square(self.identity.hair).astype(np.float32) * np.clip(1 + 0.3 * strands, 0.3, 2)[..., None]

    def _forehead_hair(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """How far hair covers the forehead and temples, 0..1, and its strands about 0; each (side, side) float32."""
        g, who = self.grid, self.identity
        strands = noise(rng, g.side, 70, rows=10)
        temple = 1.0 if who.hair_drop > 0.2 else 0.55
        wave = 0.05 * np.sin(g.x * rng.uniform(2, 7) + rng.uniform(0, 6)) + rng.normal(0, 0.08) * g.x
        edge = who.hairline + temple * (np.abs(g.x) / 0.82) ** 4 + wave
        return expit((edge[None] - g.y[:, None] - 0.03 * strands) / 0.025).astype(np.float32), strands

    def _hair_and_ears(self, hair: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What lies behind the face: (side, side, 3) linear albedo and (side, side) coverage."""
        g, who, v = self.grid, self.identity, self.identity.hair_volume
        wide = who.landmarks[16, 0] / 0.8
        if who.hair_drop < 0.2:
            half = np.array([(0.78 / v, who.hair_drop), (0.85, -0.45), (0.80, -0.80), (0.5, -1.13)])
        else:
            half = np.array([(0.90, who.hair_drop), (0.95, 0.1), (0.88, -0.45), (0.80, -0.80), (0.5, -1.13)])
        half *= (v * wide, 1)
        half[-2:, 1] -= np.array([0.4, 0.8]) * (v - 1)
        outline = np.vstack([half, [(0, -1.22 - 0.8 * (v - 1))], half[::-1] * (-1, 1)])
        alpha, albedo = g.mask(curve(outline, closed=True)), hair.copy()
        if who.hair_drop < 0.2:
            angle = np.linspace(0, 2 * np.pi, 12, endpoint=False)
            for side in (-1, 1):
                ear = np.stack([side * (0.83 * wide + 0.075 * np.cos(angle)), 0.02 + 0.17 * np.sin(angle)], axis=1)
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
        # Lids and lips may touch, never cross, however many AUs pull at them.
        for lid, below in ((37, 41), (38, 40), (43, 47), (44, 46)):
            gap = max(p[below, 1] - p[lid, 1], 0.022)
            p[lid, 1] = p[below, 1] - gap * (1 - distractors.blink)
        for above, below in ((61, 67), (62, 66), (63, 65)):
            p[below, 1] = max(p[below, 1], p[above, 1])
        p[49:54, 1] = np.minimum(p[49:54, 1], p[_INNER_UPPER, 1].mean(axis=1) - 0.012)
        p[55:60, 1] = np.maximum(p[55:60, 1], p[_INNER_LOWER, 1].mean(axis=1) + 0.012)
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
        u, v = index[None] - flow[..., 0], index[:, None] - flow[..., 1]
        skin = cv2.remap(self._skin, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        albedo, relief = np.ascontiguousarray(skin[..., :3]), np.ascontiguousarray(skin[..., 3])

        crease = self._fold(relief, strength, points, distractors)
        albedo *= 1 - 0.45 * np.minimum(crease, 1)[..., None]
        self._brows(albedo, points)
        self._lips(albedo, relief, strength, points)

        face = curve(np.vstack([points[:17], self._skull(points)]), closed=True)
        inside = g.mask(face)
        albedo = self._backdrop + inside[..., None] * (albedo - self._backdrop)
        diffuse, highlight = self._shade(relief, light, ambient)
        lit = albedo * diffuse[..., None] + (self._gloss * inside * highlight)[..., None]
        level = ambient + max(float(light[2]), 0.0) * 0.9
        self._eyes(lit, points, distractors, level)
        self._mouth(lit, points, level)
        return np.dstack([lit, np.maximum(inside, self._backdrop_alpha)])

    def _skull(self, points: np.ndarray) -> np.ndarray:
        """(7, 2) outline of the head above the ears, from the ear on the picture's right to the other."""
        left, right = points[[0, 16], 0]
        half = np.array([(0.99, -0.52), (0.87, -0.86), (0.56, -1.12), (0.0, -1.22)])
        return np.vstack([half, half[2::-1] * (-1, 1)]) * ((right - left) / 2, 1) + ((right + left) / 2, 0)

    def _fold(
        self, relief: np.ndarray, strength: np.ndarray, points: np.ndarray, distractors: Distractors
    ) -> np.ndarray:
        """Raise bulges and sink creases in ``relief``; returns (side, side) float32 crease depth."""
        g, who = self.grid, self.identity
        fine, broad = np.zeros((2, g.side, g.side), np.uint8)

        def crease(line: np.ndarray, depth: float, soft: bool = False) -> None:
            canvas, width = (broad, 0.035) if soft else (fine, 0.016)
            shade, thickness = int(255 * min(depth, 1.0)), max(1, round(width * g.scale))
            cv2.polylines(canvas, [g.fixed(curve(line))], False, shade, thickness, cv2.LINE_AA, SUBPIXEL)

        for side in (0, 1):
            for bulge in BULGES:
                amount = strength[side, COLUMN[bulge.au]]
                if amount > _TRACE:
                    ((x, y),) = _on_face(((bulge.x, bulge.y),), bulge.anchor, side, points)
                    relief += g.gaussian(x, y, bulge.width, bulge.height, bulge.relief * amount)
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
        if chin > _TRACE:
            # The mentalis pulls pits into the chin: a pattern that stands still on the skin.
            depth = 0.016 * chin * who.wrinkle
            relief += g.gaussian(points[8, 0], points[57, 1] + 0.2, 0.13, 0.08, depth) * _pebbles(g.side)
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
            (x, y), thickness = (outer + inner) / 2, abs(outer[1] - inner[1])
            peak = amount * min(thickness / 0.06, 1.3)
            relief += g.gaussian(x, y, 0.13, max(0.35 * thickness, 0.012), peak)

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
        glint = np.maximum((hz - gx * hx - gy * hy) / length, 0)
        for _ in range(4):  # Blinn-Phong, exponent 16
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
    return noise(stream(0, 0, Purpose.TEXTURE), side, 44)
