"""Whether a dataset has the landmarks that a model learns from."""

from typing import Any

import numpy as np

from lightning_modules.common.errors import ModelError

LOOKED_AT = 32  # training frames that are asked for landmarks before a fit begins


def check_landmarks(data: Any, name: str) -> None:
    """Raise ModelError when no training frame of the DataModule ``data`` has a landmark; ``name`` needs them."""
    rows, samples = data.rows_train, data.samples(train=False)
    chosen = rows[np.linspace(0, len(rows) - 1, min(len(rows), LOOKED_AT)).astype(int)]
    if not any(samples[int(row)]["landmarks"].isfinite().any() for row in chosen):
        raise ModelError(
            f"{name} learns from landmarks, and none of {len(chosen)} training frames of {data.dataset} has any",
            "prepare the dataset with --faces detect, or start from a checkpoint that has learnt from another one",
        )
