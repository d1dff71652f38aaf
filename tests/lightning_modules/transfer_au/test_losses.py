import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from lightning_modules.transfer_au.losses import class_weights, positive_weights


def test_class_weights_are_scikit_learns_over_the_known_frames():
    label = torch.tensor([0, 0, 0, 0, 0, 1, 1, 3, -1, -1, -1])
    expected = compute_class_weight("balanced", classes=np.array([0, 1, 3]), y=label[label >= 0].numpy())
    weight = class_weights(label, 4)
    assert weight[[0, 1, 3]].tolist() == pytest.approx(expected.tolist())
    assert weight[2] == 0
    assert weight[label[label >= 0]].mean().item() == pytest.approx(1)


def test_positives_weigh_as_much_as_negatives():
    label = torch.tensor([[1, 0, 1, -1], [0, 0, 1, -1], [0, -1, 1, -1], [-1, 0, 1, -1]])
    assert positive_weights(label).tolist() == [2, 1, 1, 1]  # never or always present, or unknown: 1
