"""Speed of the pairwise rankers' data side, each beside the obvious implementation, in one run.

    python benchmarks/pairwise.py [--frames 1000000]

Pairs: an index built once against a search through the frames for each pair. Features: windows of a whole video
gathered at once against a loop over its frames. Networks: one an AU run in turn against one grouped pass.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.func import functional_call, stack_module_state

from datamodules.pairs import PairIndex
from datamodules.pseudo import PseudoFeatures, percentiles
from lightning_modules.common.backbones import create_backbone
from lightning_modules.pairwise_ranker.network import FrameRanker

VIDEOS, WINDOW = 300, 300


def seconds(call: Callable[[], Any], least: float = 0.5) -> float:
    """CPU seconds of a call, the best of as many as fit into ``least`` seconds, two or more."""
    best, spent = np.inf, 0.0
    while spent < least or best == np.inf:
        start = time.process_time()
        call()
        taken = time.process_time() - start
        best, spent = min(best, taken), spent + taken
    return best


def searched_pairs(level: np.ndarray, video: np.ndarray, number: int, generator: np.random.Generator) -> np.ndarray:
    """Pairs as one would first write it: look through a video for frames of each level, until both are there."""
    found = []
    while len(found) < number:
        a, b = generator.choice(6, 2, replace=False)
        rows = np.flatnonzero(video == generator.integers(VIDEOS))
        first, second = rows[level[rows] == a], rows[level[rows] == b]
        if len(first) and len(second):
            found.append((generator.choice(first), generator.choice(second)))
    return np.array(found)


def looped_features(pseudo: np.ndarray, confidence: np.ndarray) -> np.ndarray:
    """Features of every frame of one video of one AU, frame by frame, as the published code computes them."""
    n, found = len(pseudo), []
    for i in range(n):
        rest = list(percentiles(pseudo))
        last, confident = rest, []
        for least in (0, 0.25, 0.5, 0.75):
            kept = confidence >= least
            last = list(percentiles(pseudo[kept])) if kept.any() else last
            confident += [*last, kept.mean()]
        ahead = [min(i + k, n - 1) for k in range(1, WINDOW + 1)]
        behind = [max(i - k, 0) for k in range(1, WINDOW + 1)]
        around = [*(pseudo[k] for k in ahead), *(pseudo[k] for k in behind)]
        sure = [*(confidence[k] for k in ahead), *(confidence[k] for k in behind)]
        found.append([pseudo[i], *rest, *confident, *around, *sure, confidence[i]])
    return np.array(found, np.float32)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--frames", type=int, default=1_000_000)
    frames = parser.parse_args().frames
    torch.set_num_threads(1)
    coin = np.random.default_rng(0)

    for n in (frames // 100, frames):
        video, level = np.sort(coin.integers(VIDEOS, size=n)), coin.choice(6, n, p=[0.7, 0.1, 0.1, 0.05, 0.03, 0.02])
        group = np.zeros(n, int)
        built = seconds(lambda v=video, y=level, g=group: PairIndex(np.arange(len(v)), y, v, g))
        index = PairIndex(np.arange(n), level, video, group)
        ours = seconds(lambda i=index: i.draw(10_000, np.random.default_rng(0))) / 10_000
        theirs = seconds(lambda v=video, y=level: searched_pairs(y, v, 20, np.random.default_rng(0))) / 20
        print(
            f"{n:,} frames: index {built:.2f} s, a pair {1e6 * ours:.2f} us; searched {1e6 * theirs:.0f} us "
            f"({theirs / ours:.0f} x)"
        )

    n = 3000
    pseudo, sigma = np.cumsum(coin.normal(size=(n, 1)), 0), coin.uniform(0.1, 3, (n, 1))
    features = PseudoFeatures(pseudo, sigma, np.zeros(n, int), np.arange(n), np.ones(n, bool), WINDOW)
    rows = np.arange(n)[:, None]
    ours = seconds(lambda: features(rows))
    values, confidence = features.pseudo[:, 0], features.confidence[:, 0]
    start = time.process_time()
    looped = looped_features(values, confidence)
    theirs = time.process_time() - start
    assert np.abs(looped - features(rows)[:, 0]).max() < 1e-6
    print(
        f"features of {n:,} frames: {ours:.3f} s; frame by frame {theirs:.1f} s ({theirs / ours:.0f} x), values equal"
    )

    names = [f"AU{au:02d}" for au in (4, 6, 12, 25)]
    network = FrameRanker(lambda _: create_backbone("resnet10t", 0.25), names)
    base = network.networks["AU04"]
    parameters, buffers = stack_module_state(list(network.networks.values()))
    pairs = torch.randint(0, 256, (8, 4, 2, 3, 64, 64), dtype=torch.uint8)

    def grouped() -> torch.Tensor:
        image = network.normalize(pairs.transpose(0, 1).flatten(1, 2).flatten(0, 1)).unflatten(0, (4, 16))

        def one(p: Any, b: Any, x: torch.Tensor) -> torch.Tensor:
            return functional_call(base, (p, b), (x,))

        return torch.vmap(one, randomness="different")(parameters, buffers, image)

    in_turn = seconds(lambda: network(pairs).sum().backward(), 2)
    at_once = seconds(lambda: grouped().sum().backward(), 2)
    print(
        f"training step of four networks: in turn {in_turn:.3f} s, grouped {at_once:.3f} s ({at_once / in_turn:.2f} x)"
    )


if __name__ == "__main__":
    main()
