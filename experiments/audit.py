"""Is SynthFACS honest work for a network? Measured, per action unit, on unseen subjects.

    python experiments/audit.py [--subjects 200 --frames 12 --seed 0 --size 64 --epochs 15]

All columns are ROC-AUC, but for the rate of positives (level 1 or more) and F1. See docs/synth_facs.md for the reading.
Exits 1 when one of the claims below the table fails.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, roc_auc_score
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from tqdm import tqdm

from datamodules.align import PRESETS, warp_image, warp_points
from datamodules.errors import DataError
from datamodules.synth.behaviour import Behaviour
from datamodules.synth.clips import SYNTH_AUS, render_clip
from experiments.terminal import exit_with
from lightning_modules.common.backbones import InputNormalization, create_backbone

TEXTURE_AUS = (6, 14, 23)  # FACS: these change the skin and move no landmark
_STRIDE, _FPS = 200, 20.0


@dataclass(frozen=True, slots=True)
class Stills:
    """Aligned pictures of a synthetic set with all that is known about them; n rows, A = 17 AUs.

    Attributes:
        image: (n, 3, size, size) uint8.
        landmarks: (n, 136) float, aligned.
        scene: (n, k) float: pose, light and background, with their squares.
        coded, clean: (n, A) bool, level 1 or more with and without coder noise.
        subject, tone: (n,) int.
    """

    image: torch.Tensor
    landmarks: np.ndarray
    scene: np.ndarray
    coded: np.ndarray
    clean: np.ndarray
    subject: np.ndarray
    tone: np.ndarray


def render_stills(subjects: int, frames: int, seed: int, size: int, independent: bool) -> Stills:
    """Render and align nearly independent stills at balanced rates.

    Args:
        subjects: How many.
        frames: Stills a subject.
        seed: Seed of the set.
        size: Side of the aligned crops; the frames they are cut from have twice that.
        independent: Whether AUs are drawn independently of each other.
    """
    preset = PRESETS["renet"]
    rows: list[tuple] = []
    for subject in tqdm(range(1, subjects + 1), desc="independent AUs" if independent else "co-occurring AUs"):
        truth = Behaviour(subject, seed, "balanced", independent)
        clip = render_clip(
            subject, frames, seed=seed, size=2 * size, rates="balanced", stride=_STRIDE, independent=independent
        )
        for k, still in enumerate(clip):
            matrix = preset.matrix(still.landmarks, None, None, size)
            if matrix is None:
                raise DataError(f"the face of subject {subject}, still {k} has no extent", "raise --size")
            scene = np.concatenate([still.pose, still.light, still.background])
            rows.append(
                (
                    warp_image(still.image, matrix, size),
                    warp_points(still.landmarks, matrix).ravel(),
                    np.concatenate([scene, scene**2]),
                    np.array(list(still.intensity.values())) >= 1,
                    truth.coded(k * _STRIDE / _FPS, coder_noise=False) >= 1,
                    subject,
                    still.skin_tone,
                )
            )
    image, *others = (np.stack([row[k] for row in rows]) for k in range(7))
    return Stills(torch.from_numpy(image).permute(0, 3, 1, 2), *others)


def auc_per_au(true: np.ndarray, score: np.ndarray) -> np.ndarray:
    """(n, A) bool, (n, A) -> (A,) ROC-AUC, NaN where one class is missing."""
    pairs = zip(true.T, score.T, strict=True)
    return np.array([roc_auc_score(t, s) if t.any() and not t.all() else np.nan for t, s in pairs])


def mean_known(values: np.ndarray) -> np.ndarray:
    """Mean over the first axis without the NaNs; NaN where nothing else is."""
    return np.ma.masked_invalid(values).mean(axis=0).filled(np.nan)


def linear_scores(features: np.ndarray, true: np.ndarray, groups: np.ndarray, fitted: np.ndarray) -> np.ndarray:
    """Three-fold subject-exclusive logistic regression, one an AU.

    Args:
        features: (n, k).
        true: (n, A) labels that are scored.
        groups: (n,) subjects.
        fitted: (n, A) labels that are learned, ``true`` or a permutation of them.

    Returns:
        (A,) mean ROC-AUC of the folds.
    """
    folds = []
    for train, test in GroupKFold(3).split(features, groups=groups):
        score = np.zeros((len(test), true.shape[1]))
        for k in range(true.shape[1]):
            if 0 < fitted[train, k].sum() < len(train):
                model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
                score[:, k] = model.fit(features[train], fitted[train, k]).decision_function(features[test])
        folds.append(auc_per_au(true[test], score))
    return mean_known(np.array(folds))


def network_scores(
    image: torch.Tensor, target: np.ndarray, train: np.ndarray, test: np.ndarray, epochs: int, name: str
) -> np.ndarray:
    """Train a half-width ResNet-18 from scratch; flips and shifts by an eighth of the crop are its augmentation.

    Args:
        image: (n, 3, S, S) uint8.
        target: (n, A) bool.
        train: Rows to learn from.
        test: Rows to score.
        epochs: Passes over ``train``.
        name: What the progress bar says.

    Returns:
        (len(test), A) float probabilities.
    """
    torch.manual_seed(0)
    backbone = create_backbone("resnet18", width=0.5)
    width = backbone(torch.zeros(2, 3, 32, 32)).shape[1]
    network = nn.Sequential(InputNormalization(), backbone, nn.Linear(width, target.shape[1]))
    network = network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    labels, rows = torch.from_numpy(target).float(), torch.from_numpy(train)
    margin = image.shape[-1] // 8
    side = image.shape[-1] - margin
    for _ in tqdm(range(epochs), desc=name):
        network.train()
        for batch in rows[torch.randperm(len(rows))].split(64):
            if len(batch) < 2:  # batch norm needs two
                continue
            y, x = torch.randint(0, margin + 1, (2,)).tolist()
            crop = image[batch, :, y : y + side, x : x + side]
            crop = torch.where(torch.rand(len(batch), 1, 1, 1) < 0.5, crop.flip(3), crop)
            loss = nn.functional.binary_cross_entropy_with_logits(network(crop), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    network.eval()
    centre = slice(margin // 2, margin // 2 + side)
    with torch.inference_mode():
        parts = [network(image[batch][:, :, centre, centre]).sigmoid() for batch in torch.from_numpy(test).split(256)]
    return torch.cat(parts).double().numpy()


def chance_band(true: np.ndarray, subject: np.ndarray) -> np.ndarray:
    """(A,) four standard deviations of the AUC of scores that only tell subjects apart, at random.

    Labels of one subject resemble each other, so frames are no independent evidence against chance.
    """
    rng = np.random.default_rng(0)
    code = np.unique(subject, return_inverse=True)[1]
    draws = [auc_per_au(true, np.tile(rng.standard_normal(len(subject))[code, None], true.shape[1])) for _ in range(60)]
    return 4 * np.std(draws, axis=0)


def audit(
    subjects: int, frames: int, seed: int, size: int, epochs: int
) -> tuple[dict[str, np.ndarray], dict[str, bool]]:
    """Render, fit and score.

    Returns:
        The table's columns, each (A,), and the claims with whether they hold.
    """
    data = render_stills(subjects, frames, seed, size, independent=False)
    alone = render_stills(subjects, frames, seed, size, independent=True)
    rng = np.random.default_rng(seed)
    shuffled = data.coded[rng.permutation(len(data.coded))]
    train, test = np.flatnonzero(data.subject % 3 != 0), np.flatnonzero(data.subject % 3 == 0)
    mixed = rng.permutation(len(data.subject))
    mixed_test, mixed_train = mixed[: len(test)], mixed[len(test) :]
    true = data.coded[test]

    unseen = network_scores(data.image, data.coded, train, test, epochs, "unseen subjects")
    permuted = network_scores(data.image, shuffled, train, test, epochs, "shuffled labels")
    frames_split = network_scores(data.image, data.coded, mixed_train, mixed_test, epochs, "random frames")
    clean = network_scores(data.image, data.clean, train, test, epochs, "no coder noise")

    columns = {
        "rate": data.coded.mean(axis=0),
        "shuffled": auc_per_au(true, permuted),
        "scene": linear_scores(data.scene, data.coded, data.subject, data.coded),
        "landmarks": linear_scores(alone.landmarks, alone.coded, alone.subject, alone.coded),
        "network": auc_per_au(true, unseen),
        "random": auc_per_au(data.coded[mixed_test], frames_split),
        "no noise": auc_per_au(data.clean[test], clean),
    }
    for name, tones in (("light", (1, 2)), ("medium", (3, 4)), ("dark", (5, 6))):
        chosen = np.isin(data.tone[test], tones)
        columns[name] = auc_per_au(true[chosen], unseen[chosen])
    columns["F1"] = np.array([f1_score(t, s >= 0.5, zero_division=0) for t, s in zip(true.T, unseen.T, strict=True)])
    columns["all-pos F1"] = 2 * true.mean(axis=0) / (1 + true.mean(axis=0))

    texture = np.isin(SYNTH_AUS, TEXTURE_AUS)
    off = {name: np.abs(columns[name] - 0.5) for name in ("shuffled", "scene", "landmarks")}
    band = {
        "shuffled": chance_band(true, data.subject[test]),
        "scene": chance_band(data.coded, data.subject),
        "landmarks": chance_band(alone.coded, alone.subject),
    }
    claims = {
        "shuffled labels: every AU at chance": bool((off["shuffled"] < band["shuffled"]).all()),
        "pose, light, background alone: every AU at chance": bool((off["scene"] < band["scene"]).all()),
        "landmarks alone: AU06, AU14, AU23 at chance": bool((off["landmarks"] < band["landmarks"])[texture].all()),
        "landmarks alone: the other AUs above chance": bool((off["landmarks"] > band["landmarks"])[~texture].all()),
        "network, unseen subjects: mean AUC within .75 and .95": bool(0.75 <= columns["network"].mean() <= 0.95),
        "network, unseen subjects: mean F1 above all-positive": bool(
            columns["F1"].mean() > columns["all-pos F1"].mean()
        ),
    }
    return columns, claims


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table and the claims."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--subjects", type=int, default=200)
    parser.add_argument("--frames", type=int, default=12, help="stills a subject (default 12)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=64, help="side of the aligned crops (default 64)")
    parser.add_argument("--epochs", type=int, default=15, help="of each of the four networks (default 15)")
    options = parser.parse_args(arguments)
    if options.subjects < 6 or options.frames < 1 or options.size < 32 or options.epochs < 1 or options.seed < 0:
        raise DataError(
            f"audit: {vars(options)} leaves nothing to measure",
            "give at least 6 subjects, 1 frame, 1 epoch, a size of 32 and a seed of 0",
        )
    columns, claims = audit(options.subjects, options.frames, options.seed, options.size, options.epochs)
    print("AU    " + "".join(f"{name:>11}" for name in columns))
    for k, au in enumerate(SYNTH_AUS):
        print(f"AU{au:02d}  " + "".join(f"{values[k]:11.2f}" for values in columns.values()))
    print("mean  " + "".join(f"{mean_known(values[:, None])[0]:11.2f}" for values in columns.values()))
    for claim, holds in claims.items():
        print(f"{'holds' if holds else 'FAILS'}  {claim}")
    return 0 if all(claims.values()) else 1


if __name__ == "__main__":
    exit_with(main)
