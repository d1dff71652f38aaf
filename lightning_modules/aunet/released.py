"""What the release of AUNet, EmoNet and the package face-alignment call the tensors of our networks."""

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from lightning_modules.aunet.network import CHANNELS, FAN
from lightning_modules.common.errors import ModelError

#: Tensors of EmoNet beside its FAN: a head like AU-FAN's, which tells expressions, valence and arousal.
EMONET_HEAD = ("conv1x1_input_emo_2.", "emo_net_2.", "emo_fc_2.")
#: Where whole networks keep the parts: FAN alone, inside the feature of AU-FAN and AUNet, and their heads.
FAN_PREFIXES = ("", "fan.", "feature.fan.")
HEAD_PREFIXES = ("", "predictor.")

_STACK = {
    "hourglass.": "m{i}.",
    "top.": "top_m_{i}.",
    "conv.": "conv_last{i}.",
    "norm.": "bn_end{i}.",
    "heatmaps.": "l{i}.",
    "back.": "bl{i}.",
    "heatmaps_back.": "al{i}.",
}
_LEVEL = {"skip.": "b1_{level}.", "down.": "b2_{level}.", "up.": "b3_{level}."}
AUFAN_HEAD = {"static_in.": "conv1x1.", "tail.": "ConvNet.", "classifier.": "predictor."}
AUNET_HEAD = {
    "static_in.": "conv1x1.",
    "static_block.": "ConvNet_1.",
    "motion_block.": "ConvNet_diff.",
    "tail.": "ConvNet_2.",
    "classifier.": "predictor.",
    "motion_in.": "conv1x1_diff.",
}
LABEL_VAE = {"hidden.": "fc1.", "mean.": "fc21.", "logvar.": "fc22.", "decoder.0.": "fc3.", "decoder.2.": "fc4."}


def _renamed(key: str, names: dict[str, str]) -> str:
    """``key`` with the first of the prefixes ``names`` that it has replaced."""
    for own, theirs in names.items():
        if key.startswith(own):
            return theirs + key.removeprefix(own)
    return key


def fan_keys(network: FAN) -> dict[str, str]:
    """Own name of every tensor -> its name in ``2dfan2.pth``, in the order of that file."""
    return {key: _fan_key(key, network.depth) for key in network.state_dict()}


def _fan_key(key: str, depth: int) -> str:
    if not key.startswith("stacks."):
        return key
    _, stack, rest = key.split(".", 2)
    if rest.startswith("hourglass."):
        rest = rest.removeprefix("hourglass.")
        level = depth
        while rest.startswith("inner."):
            rest, level = rest.removeprefix("inner."), level - 1
        block = _renamed(rest, {own: name.format(level=level) for own, name in _LEVEL.items()})
        rest = f"hourglass.{block if level else f'b2_plus_1.{rest}'}"
    return _renamed(rest, {own: name.format(i=stack) for own, name in _STACK.items()})


def renamed_keys(names: dict[str, str], network: nn.Module) -> dict[str, str]:
    """As ``fan_keys``, for a network whose modules have the released ``names``."""
    return {key: _renamed(key, names) for key in network.state_dict()}


def head_sizes(state: dict[str, Tensor]) -> dict[str, Any]:
    """Sizes of a head that its tensors tell."""
    channels, in_channels = state["conv1x1.weight"].shape[:2]
    return {"n_aus": len(state["predictor.3.bias"]), "in_channels": in_channels, "channels": channels}


def vae_sizes(state: dict[str, Tensor]) -> dict[str, Any]:
    """Sizes of a VAE that its tensors tell."""
    latent, n_aus = state["fc1.weight"].shape
    return {"n_aus": n_aus, "latent": latent}


def recognise(keys: Collection[str]) -> str | None:
    """What has tensors of these names, and what it is good for; None when nothing known."""
    names = set(keys)
    if any(name.startswith(EMONET_HEAD) for name in names):
        return "EmoNet: its FAN is of kind fan, its head tells expressions and no AUs"
    if any(prefix + "conv1.weight" in names for prefix in FAN_PREFIXES) and "predictor.conv1x1.weight" in names:
        head = "aunet_head" if "predictor.conv1x1_diff.weight" in names else "aufan_head"
        return f"a whole network: its parts are of the kinds fan and {head}"
    for prefix in FAN_PREFIXES:
        if stacks := sum(f"{prefix}l{i}.weight" in names for i in range(16)):
            return f"a FAN of {stacks} stack{'s' * (stacks > 1)}, kind fan"
    for prefix in HEAD_PREFIXES:
        if f"{prefix}conv1x1.weight" in names:
            return f"a head, kind {'aunet_head' if f'{prefix}conv1x1_diff.weight' in names else 'aufan_head'}"
    return "a label VAE, kind label_vae" if "fc21.weight" in names else None


def check_fan(state: dict[str, Tensor], network: FAN) -> list[str]:
    """Refuse the tensors of a FAN of another architecture than declared, with the reason.

    Args:
        state: Released name -> tensor.
        network: As declared.

    Returns:
        Remarks for the report.

    Raises:
        ModelError: Other stacks, depth or width, or the statistics of the other pooling.
    """
    stacks = sum(f"l{i}.weight" in state for i in range(16))
    if stacks != len(network.stacks):
        raise ModelError(
            f"the file holds a FAN of {stacks} stacks, not of {len(network.stacks)}: its heat-maps come from the last "
            "stack, so a part of it is no trained network; the published four-stack FAN also pools by the mean",
            f'give 2dfan2.pth or EmoNet, or declare stacks={stacks} (pool="avg" for the published four-stack FAN)',
        )
    depth = sum(f"m0.b1_{level}.bn1.weight" in state for level in range(1, 16))
    if depth != network.depth:
        raise ModelError(f"the file holds hourglasses of depth {depth}, not {network.depth}", f"declare depth={depth}")
    channels = len(state["conv4.downsample.2.weight"]) if "conv4.downsample.2.weight" in state else network.channels
    if channels != network.channels:
        raise ModelError(
            f"the file holds a FAN of {channels} channels, not {network.channels}",
            f"declare width={channels / CHANNELS:g}",
        )
    seen = pooling_evidence(state)
    if seen is None:
        return [f"pool={network.pool} as declared; neither keys nor running means of the file tell it"]
    if seen != network.pool:
        raise ModelError(
            f"the file was trained with {seen} pooling, not {network.pool}: its keys are the same, but the running "
            "means on both sides of the poolings tell it",
            f'declare pool="{seen}"',
        )
    return [f"pool={seen}, as the running means of the file confirm"]


def pooling_evidence(state: dict[str, Tensor]) -> str | None:
    """By which pooling a FAN was trained: ``max``, ``avg``, or None where its statistics do not say.

    At every level of an hourglass one batch normalisation sees the map x and another one pool(x), and both average
    over the same batches. A mean over 2x2 pixels leaves the running mean as it is; a maximum raises it everywhere.

    Args:
        state: Released name -> tensor.
    """
    shifts = []
    for key, mean in state.items():
        if ".b1_" in key and key.endswith(".bn1.running_mean"):
            pooled, deviation = state.get(key.replace(".b1_", ".b2_")), state.get(key.replace("_mean", "_var"))
            if pooled is not None and deviation is not None and pooled.shape == mean.shape == deviation.shape:
                shifts.append((pooled.double() - mean.double()) / (deviation.double() + 1e-5).sqrt())
    if not shifts:
        return None
    shift = torch.cat(shifts)
    untrained = not any(mean.any() for key, mean in state.items() if key.endswith(".running_mean"))
    if untrained:
        return None
    if shift.abs().median() < 1e-3:
        return "avg"
    return "max" if (shift > 1e-3).double().mean() > 0.9 else None
