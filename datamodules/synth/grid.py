"""The pixels of a face's own frame, and how curves, masks and colours are put on them."""

from functools import cache

import cv2
import numpy as np

_EXTENT, _LEFT, _TOP = 2.8, -1.4, -1.5  # the square of face coordinates (see `identity`) that is drawn
SUBPIXEL = 4  # fractional bits of cv2's polygon coordinates


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


class Grid:
    """A square of ``side`` pixels that covers the head.

    Args:
        side: Pixels a side.

    Attributes:
        scale: Pixels a face unit.
        x: (side,) float32 face coordinate of each column; y: of each row.
    """

    def __init__(self, side: int) -> None:
        self.side, self.scale = side, side / _EXTENT
        self.x = (np.arange(side, dtype=np.float32) + 0.5) / np.float32(self.scale) + _LEFT
        self.y = (np.arange(side, dtype=np.float32) + 0.5) / np.float32(self.scale) + _TOP

    def mesh(self, cells: int) -> np.ndarray:
        """(cells, cells, 2) face coordinates of a coarser grid over the same square."""
        centres = (np.arange(cells) + 0.5) / cells * _EXTENT
        return np.stack(np.meshgrid(centres + _LEFT, centres + _TOP), axis=-1)

    def pixels(self, points: np.ndarray) -> np.ndarray:
        """Face coordinates (..., 2) -> pixels, (0, 0) the centre of the top left one."""
        return (points - (_LEFT, _TOP)) * self.scale - 0.5

    def gaussian(self, x: float, y: float, width: float, height: float, peak: float = 1.0) -> np.ndarray:
        """(side, side) float32 axis-parallel Gaussian; width and height are standard deviations."""
        gx = np.exp(-0.5 * ((self.x - np.float32(x)) / np.float32(width)) ** 2)
        gy = np.exp(-0.5 * ((self.y - np.float32(y)) / np.float32(height)) ** 2)
        return (np.float32(peak) * gy)[:, None] * gx[None]

    def fixed(self, points: np.ndarray) -> np.ndarray:
        """Points as cv2's fixed-point pixels."""
        return np.round(self.pixels(points) * 2**SUBPIXEL).astype(np.int32)

    def mask(self, outline: np.ndarray) -> np.ndarray:
        """(m, 2) closed outline -> (side, side) float32 coverage 0..1."""
        canvas = np.zeros((self.side, self.side), np.uint8)
        cv2.fillPoly(canvas, [self.fixed(outline)], 255, cv2.LINE_AA, SUBPIXEL)
        return canvas.astype(np.float32) / 255

    def patch(self, outline: np.ndarray, softness: float = 0.0) -> tuple[tuple[slice, slice], np.ndarray]:
        """Like `mask`, cut out: where the outline lies and its coverage (h, w, 1), blurred by ``softness`` units."""
        p = self.pixels(outline)
        border = int(3 * softness * self.scale) + 2
        low = np.maximum(np.floor(p.min(axis=0)).astype(int) - border, 0)
        high = np.minimum(np.ceil(p.max(axis=0)).astype(int) + border + 1, self.side)
        canvas = np.zeros(tuple(np.maximum(high - low, 1)[::-1]), np.uint8)
        cv2.fillPoly(canvas, [np.round((p - low) * 2**SUBPIXEL).astype(np.int32)], 255, cv2.LINE_AA, SUBPIXEL)
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


def noise(rng: np.random.Generator, side: int, columns: int, rows: int | None = None) -> np.ndarray:
    """(side, side) float32 smooth noise about 0 that varies over so many columns and rows (as many unless given)."""
    cells = rng.standard_normal((rows or columns, columns), dtype=np.float32)
    return cv2.resize(cells, (side, side), interpolation=cv2.INTER_CUBIC)
