from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from callbacks.features import Features


@pytest.mark.parametrize("key", ["image", "clip"])
def test_features_of_the_picked_frames_stand_beside_their_labels(key: str, tmp_path: Path) -> None:
    values = torch.arange(40.0)
    model = SimpleNamespace(aus=[6], features=lambda batch: batch[key].view(len(batch[key]), 1, -1)[..., :1])
    trainer = SimpleNamespace(is_global_zero=True)
    callback = Features(tmp_path / "features.npz", share=0.5, limit=12)
    callback.on_test_start(trainer, model)
    for start in (0, 20):
        index = torch.arange(start, start + 20)
        batch: dict[str, Any] = {key: values[index].view(20, 1, 1), "index": index, "au": index[:, None] % 2}
        callback.on_test_batch_end(trainer, model, None, batch)
    callback.on_test_end(trainer, model)
    with np.load(tmp_path / "features.npz") as kept:
        assert len(kept["index"]) == 12
        np.testing.assert_array_equal(kept["features"][:, 0, 0], kept["index"])
        np.testing.assert_array_equal(kept["true"][:, 0], kept["index"] % 2)
