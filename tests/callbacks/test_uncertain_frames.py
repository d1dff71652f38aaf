from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from callbacks.uncertain_frames import UncertainFrames


def run(path: Path, edition: str, **settings: bool) -> None:
    """Three videos of four frames in two batches; sigma of frame f of video v is 10 v + f, its picture is that grey."""
    kept = UncertainFrames(path, edition, number=2, **settings)
    trainer = SimpleNamespace(is_global_zero=True)
    kept.on_test_start(trainer, None)
    number = np.array([10 * v + f for v in (1, 2, 3) for f in (1, 2, 3, 4)])
    for part in np.split(np.random.default_rng(0).permutation(number), 2):
        batch = {
            "image": torch.from_numpy(part.astype(np.uint8))[:, None, None, None].expand(-1, 3, 4, 4),
            "dataset": ["d"] * 6,
            "subject": [f"S{value // 10}" for value in part],
            "sequence": ["q"] * 6,
            "frame": torch.from_numpy(part % 10),
            "occluded": torch.from_numpy(part % 2),
        }
        sigma = torch.from_numpy(part).float()[:, None].expand(-1, 3)
        kept.on_test_batch_end(trainer, None, {"sigma": sigma}, batch, 0)
    kept.on_test_end(trainer, None)


def test_the_ends_are_kept_one_frame_a_video(tmp_path: Path) -> None:
    run(tmp_path / "frames.npz", "twin")
    arrays = np.load(tmp_path / "frames.npz")
    assert arrays["most uncertain frames"].tolist() == ["S3, 4", "S2, 4"]
    assert arrays["least uncertain frames"].tolist() == ["S1, 1, covered", "S2, 1, covered"]
    assert arrays["most uncertain images"].shape == (2, 4, 4, 3)
    assert arrays["most uncertain images"][:, 0, 0, 0].tolist() == [34, 24]


def test_real_faces_are_not_written_unless_asked(tmp_path: Path) -> None:
    run(tmp_path / "frames.npz", "published")
    assert not list(tmp_path.iterdir())
    run(tmp_path / "frames.npz", "published", faces=True)
    assert (tmp_path / "frames.npz").exists()
