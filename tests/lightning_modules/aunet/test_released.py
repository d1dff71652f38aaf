import re

import pytest
import torch

from lightning_modules.aunet.network import FAN, AUFANHead, AUNetHead, LabelVAE
from lightning_modules.aunet.released import (
    AUFAN_HEAD,
    AUNET_HEAD,
    LABEL_VAE,
    check_fan,
    fan_keys,
    pooling_evidence,
    recognise,
    renamed_keys,
)
from lightning_modules.common.errors import ModelError


def released_fan(**arguments) -> tuple[FAN, dict[str, torch.Tensor]]:
    """A small FAN whose statistics are those of two batches, and its state dict as the release would name it."""
    torch.manual_seed(0)
    network = FAN(**{"width": 1 / 32, "depth": 2, "landmarks": 5, **arguments}).train()
    with torch.no_grad():
        for _ in range(2):
            network(torch.rand(4, 3, 64, 64))
    keys = fan_keys(network)
    return network, {keys[own]: tensor for own, tensor in network.state_dict().items()}


@pytest.mark.parametrize(
    ("kind", "build", "names"),
    [
        ("fan", FAN, None),
        ("aufan_head", AUFANHead, AUFAN_HEAD),
        ("aunet_head", AUNetHead, AUNET_HEAD),
        ("label_vae", LabelVAE, LABEL_VAE),
    ],
)
def test_names_shapes_and_order_are_the_releases(released_shapes, kind, build, names):
    with torch.device("meta"):
        network = build()
    keys = fan_keys(network) if names is None else renamed_keys(names, network)
    ours = [(keys[own], list(tensor.shape)) for own, tensor in network.state_dict().items()]
    assert ours == list(released_shapes[kind].items())


def test_four_stacks_have_the_names_of_the_package_face_alignment():
    with torch.device("meta"):
        names = list(fan_keys(FAN(stacks=4)).values())
    assert len(names) == len(set(names)) == 1_129
    for stem in ("m", "top_m_", "conv_last", "bn_end", "l"):
        assert {int(found[1]) for name in names if (found := re.match(rf"{stem}(\d)\.", name))} == {0, 1, 2, 3}
    for stem in ("bl", "al"):
        assert {int(found[1]) for name in names if (found := re.match(rf"{stem}(\d)\.", name))} == {0, 1, 2}


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_levels_of_an_hourglass_count_down_to_one(depth):
    with torch.device("meta"):
        names = fan_keys(FAN(1 / 32, depth=depth, stacks=1)).values()
    blocks = {found[1] for name in names if (found := re.match(r"m0\.(.+?)\.", name))}
    levels = range(1, depth + 1)
    assert blocks == {f"b{branch}_{level}" for branch in (1, 2, 3) for level in levels} | {"b2_plus_1"}


@pytest.mark.parametrize("pool", ["max", "avg"])
def test_running_means_tell_the_pooling(pool):
    network, state = released_fan(pool=pool)
    assert pooling_evidence(state) == pool
    assert check_fan(state, network) == [f"pool={pool}, as the running means of the file confirm"]
    other = "avg" if pool == "max" else "max"
    with pytest.raises(ModelError, match=f"trained with {pool} pooling, not {other}") as fault:
        check_fan(state, FAN(1 / 32, depth=2, landmarks=5, pool=other))
    assert f'pool="{pool}"' in fault.value.remedy


def test_a_fan_never_trained_or_with_foreign_statistics_does_not_tell_its_pooling(released_state):
    network = FAN(1 / 32, depth=2)
    keys = fan_keys(network)
    assert pooling_evidence({keys[own]: tensor for own, tensor in network.state_dict().items()}) is None
    assert pooling_evidence(released_state("fan")) is None  # drawn at random
    assert pooling_evidence({}) is None


@pytest.mark.parametrize(
    ("declared", "message", "remedy"),
    [
        ({"stacks": 4}, "FAN of 4 stacks, not of 2", "stacks=4"),
        ({"stacks": 1}, "FAN of 1 stacks, not of 2", "2dfan2.pth"),
        ({"depth": 3}, "depth 3, not 2", "depth=3"),
        ({"width": 1 / 16}, "16 channels, not 8", "width=0.0625"),
    ],
)
def test_another_architecture_is_refused_with_the_reason(declared, message, remedy):
    _, state = released_fan(**declared)
    with pytest.raises(ModelError, match=message) as fault:
        check_fan(state, FAN(1 / 32, depth=2, landmarks=5))
    assert remedy in fault.value.remedy


@pytest.mark.parametrize(
    ("keys", "found"),
    [
        (["conv1.weight", "l0.weight", "l1.weight"], "FAN of 2 stacks"),
        (["fan.conv1.weight", "fan.l0.weight"], "FAN of 1 stack,"),
        ([*(f"l{i}.weight" for i in range(4)), "conv1.weight"], "FAN of 4 stacks"),
        (["conv1.weight", "l0.weight", "emo_net_2.0.bn1.weight"], "EmoNet"),
        (["feature.fan.conv1.weight", "predictor.conv1x1.weight"], "fan and aufan_head"),
        (
            ["feature.fan.conv1.weight", "predictor.conv1x1.weight", "predictor.conv1x1_diff.weight"],
            "fan and aunet_head",
        ),
        (["conv1x1.weight", "ConvNet.0.bn1.weight"], "kind aufan_head"),
        (["predictor.conv1x1.weight", "predictor.conv1x1_diff.weight"], "kind aunet_head"),
        (["fc1.weight", "fc21.weight"], "kind label_vae"),
        (["layer1.0.conv1.weight"], None),
    ],
)
def test_known_files_are_recognised(keys, found):
    name = recognise(keys)
    assert name is None if found is None else found in name
