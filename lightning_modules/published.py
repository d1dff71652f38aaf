"""Checkpoints that the papers' authors published, loaded into our networks by the names that they gave the tensors."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_modules.aunet import network as aunet
from lightning_modules.aunet import released as aunet_release
from lightning_modules.common.errors import ModelError
from lightning_modules.common.weights import file_sha
from lightning_modules.emotiram_fau import released as emotiram_release

log = logging.getLogger(__name__)
SUFFIXES = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True, slots=True)
class Kind:
    """How one kind of published network is read.

    Attributes:
        build: Our network from its architecture, as published by default.
        keys: Our name of every tensor -> its published name, in the order of the published file.
        anchor: A published name that every file of this kind has.
        prefixes: What may stand before the published names: a whole network's names for this part.
        others: Beginnings of names that may be in the same file and are left out.
        sizes: Architecture that the tensors tell, by published name.
        check: Refuses an architecture other than declared, with the reason; gives remarks for the report.
        positional: Published with names that nobody knows: tensors are then told by their position.
    """

    build: Callable[..., nn.Module]
    keys: Callable[[Any], dict[str, str]]
    anchor: str
    prefixes: tuple[str, ...] = ("",)
    others: tuple[str, ...] = ()
    sizes: Callable[[dict[str, Tensor]], dict[str, Any]] = lambda state: {}
    check: Callable[[dict[str, Tensor], Any], list[str]] = lambda state, network: []
    positional: bool = False


KINDS: dict[str, Kind] = {
    "fan": Kind(
        build=aunet.FAN,
        keys=aunet_release.fan_keys,
        anchor="conv1.weight",
        prefixes=aunet_release.FAN_PREFIXES,
        others=(*aunet_release.HEAD_PREFIXES[1:], *aunet_release.EMONET_HEAD),
        check=aunet_release.check_fan,
    ),
    "aufan_head": Kind(
        build=aunet.AUFANHead,
        keys=partial(aunet_release.renamed_keys, aunet_release.AUFAN_HEAD),
        anchor="conv1x1.weight",
        prefixes=aunet_release.HEAD_PREFIXES,
        others=aunet_release.FAN_PREFIXES[1:],
        sizes=aunet_release.head_sizes,
        positional=True,
    ),
    "aunet_head": Kind(
        build=aunet.AUNetHead,
        keys=partial(aunet_release.renamed_keys, aunet_release.AUNET_HEAD),
        anchor="conv1x1.weight",
        prefixes=aunet_release.HEAD_PREFIXES,
        others=aunet_release.FAN_PREFIXES[1:],
        sizes=aunet_release.head_sizes,
        positional=True,
    ),
    "label_vae": Kind(
        build=aunet.LabelVAE,
        keys=partial(aunet_release.renamed_keys, aunet_release.LABEL_VAE),
        anchor="fc1.weight",
        sizes=aunet_release.vae_sizes,
    ),
    "megraph_anfl": Kind(
        build=emotiram_release.build_anfl,
        keys=emotiram_release.megraph_keys,
        anchor="head.gnn.U.weight",
        sizes=emotiram_release.megraph_sizes,
    ),
    "megraph_mefl": Kind(
        build=emotiram_release.build_mefl,
        keys=emotiram_release.megraph_keys,
        anchor="head.edge_fc.weight",
        sizes=emotiram_release.megraph_sizes,
    ),
    "fau_heatmap": Kind(
        build=emotiram_release.build_fau,
        keys=emotiram_release.fau_keys,
        anchor="deconv_layers_1.0.weight",
        sizes=emotiram_release.fau_sizes,
    ),
}


@dataclass(frozen=True, slots=True)
class Report:
    """What was loaded from where.

    Attributes:
        kind: Of the network.
        source: Path, or ``state dict``.
        sha: First twelve hex digits of the file's SHA-256; empty for a state dict.
        prefix: What stood before the published names.
        by: Whether tensors were told by ``key`` or by ``position``.
        tensors: How many were loaded, buffers included.
        parameters: How many numbers of them are parameters.
        left_out: Tensors in the file that belong to other parts.
        remarks: What else to know.
    """

    kind: str
    source: str
    sha: str
    prefix: str
    by: str
    tensors: int
    parameters: int
    left_out: tuple[str, ...]
    remarks: tuple[str, ...]

    def __str__(self) -> str:
        """One line for a log."""
        parts = [f"{self.kind} from {self.source}: {self.tensors} tensors by {self.by}, {self.parameters:,} parameters"]
        parts += [f"under '{self.prefix}'"] * bool(self.prefix) + [f"sha256 {self.sha}"] * bool(self.sha)
        if self.left_out:
            parts.append(f"{len(self.left_out)} left out ({self.left_out[0]}, ...)")
        return ", ".join([*parts, *self.remarks])


def load_published(kind: str, source: str | Path | Mapping[str, Tensor], **architecture: Any) -> nn.Module:
    """A published network in evaluation mode, without the input normalisation of our LightningModules.

    Every tensor of the file is accounted for, or it is refused with the list. The report goes to the log; see
    ``load_with_report``. Kinds and calls of what they give (sizes not declared are read from the tensors):

    - ``fan`` (``width=1, depth=4, stacks=2, pool="max"``): `network.FAN`. Keys are the same for both poolings, but the
      file is refused where its running means were taken with the other one.
    - ``aufan_head``, ``aunet_head`` (``alpha=.9, beta=.1, differences="released", fusion="released"``):
      `network.AUFANHead`, `network.AUNetHead`. Where a file has names of its own for all tensors they are told by
      position, as the release does; shapes and order must agree.
    - ``label_vae``: `network.LabelVAE`.
    - ``megraph_anfl`` (``neighbors=4``; DISFA's 3), ``megraph_mefl``: `megraph_network.MEGraph`.
    - ``fau_heatmap``: `fau_network.FAU`.

    Args:
        kind: See above.
        source: Path of a file that torch.load reads with ``weights_only=True``, or a state dict; also wrapped in
            ``state_dict``, with ``module.`` before its names, or as a part of a whole published network.
        architecture: Of the network, where it is not as published.

    Raises:
        ModelError: Unknown kind, no such file, or tensors that are not those of this kind and architecture.
    """
    return load_with_report(kind, source, **architecture)[0]


def load_with_report(
    kind: str, source: str | Path | Mapping[str, Tensor], **architecture: Any
) -> tuple[nn.Module, Report]:
    """As ``load_published``, with the report."""
    if kind not in KINDS:
        raise ModelError(f"no published network of kind '{kind}'", f"take one of {', '.join(KINDS)}")
    spec = KINDS[kind]
    where = str(source) if isinstance(source, str | Path) else "state dict"
    whole = _unwrapped(_read(source) if isinstance(source, str | Path) else source, where)
    prefix, state, left_out = _part(spec, kind, whole, where)
    by = "key" if spec.anchor in state else "position"
    if by == "position":
        state = _by_position(spec, kind, state, where)
    try:
        network = spec.build(**{**spec.sizes(state), **architecture})
        remarks = spec.check(state, network)
    except KeyError as missing:
        raise _refusal(kind, where, state, f"lacks {missing.args[0]}") from None
    except ModelError as fault:  # of the architecture; the file is named here
        raise ModelError(f"{where}: {fault}", fault.remedy) from None
    keys = spec.keys(network)
    _check_tensors(kind, where, {keys[own]: tensor for own, tensor in network.state_dict().items()}, state)
    network.load_state_dict({own: state[theirs] for own, theirs in keys.items()})
    report = Report(
        kind=kind,
        source=where,
        sha=file_sha(source) if isinstance(source, str | Path) else "",
        prefix=prefix,
        by=by,
        tensors=len(keys),
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        left_out=tuple(left_out),
        remarks=tuple(remarks),
    )
    log.info("%s", report)
    return network.eval(), report


def _read(path: str | Path) -> Any:
    if not Path(path).is_file():
        raise ModelError(f"{path}: no such file", "download the published file, or correct the path")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken or unsafe file raises errors of many kinds
        cause = type(error).__name__
        raise ModelError(f"{path}: not a file of tensors ({cause})", "download the published file again") from error


def _unwrapped(content: Any, where: str) -> dict[str, Tensor]:
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not content or not all(isinstance(x, Tensor) for x in content.values()):
        raise ModelError(f"{where}: holds no state dict", "give the published file, or its state dict")
    if all(key.startswith("module.") for key in content):
        content = {key.removeprefix("module."): tensor for key, tensor in content.items()}
    return dict(content)


def _part(spec: Kind, kind: str, whole: dict[str, Tensor], where: str) -> tuple[str, dict[str, Tensor], list[str]]:
    """Prefix under which ``whole`` has this kind, its tensors without it, and the names left out."""
    prefix = next((prefix for prefix in spec.prefixes if prefix + spec.anchor in whole), None)
    if prefix is None:
        if spec.positional and _recognised(whole) is None:
            return "", whole, []
        raise _refusal(kind, where, whole, "has other tensors")
    left_out = [key for key in whole if key.startswith(spec.others) and not (prefix and key.startswith(prefix))]
    rest = [key for key in whole if key not in left_out and not key.startswith(prefix)]
    if rest:
        raise _refusal(kind, where, whole, f"has more than this network: {_some(rest)}")
    return prefix, {key.removeprefix(prefix): whole[key] for key in whole if key not in left_out}, left_out


def _by_position(spec: Kind, kind: str, state: dict[str, Tensor], where: str) -> dict[str, Tensor]:
    """The tensors under their published names, told by position as the release tells them."""
    with torch.device("meta"):
        usual = spec.build()
    names = list(spec.keys(usual).values())
    if len(names) != len(state):
        raise _refusal(kind, where, state, f"has {len(state)} tensors of unknown names, not {len(names)}")
    for name, own, (key, tensor) in zip(names, usual.state_dict().values(), state.items(), strict=True):
        ending = key.rpartition(".")[2]
        if tensor.dim() != own.dim() or (ending in SUFFIXES and not name.endswith(f".{ending}")):
            raise _refusal(kind, where, state, f"has {key} {tuple(tensor.shape)} in the place of {name}")
    return dict(zip(names, state.values(), strict=True))


def _check_tensors(kind: str, where: str, own: dict[str, Tensor], state: dict[str, Tensor]) -> None:
    missing, more = [key for key in own if key not in state], [key for key in state if key not in own]
    if missing or more:
        faults = [f"lacks {_some(missing)}"] * bool(missing) + [f"has more than this network: {_some(more)}"] * bool(
            more
        )
        raise _refusal(kind, where, state, "; ".join(faults))
    shapes = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(tensor.shape)}"
        for key, tensor in own.items()
        if state[key].shape != tensor.shape
    ]
    if shapes:
        raise ModelError(f"{where}: shapes differ from {kind}: {_some(shapes)}", "declare the architecture of the file")


def _refusal(kind: str, where: str, state: dict[str, Tensor], what: str) -> ModelError:
    found = _recognised(state)
    remedy = f"the file holds {found}" if found else f"give a published file of kind {kind}"
    return ModelError(f"{where}: not {kind}: {what}", remedy)


def _recognised(state: Mapping[str, Tensor]) -> str | None:
    return aunet_release.recognise(state) or emotiram_release.recognise(state)


def _some(names: list[str]) -> str:
    return ", ".join(names[:8]) + f" and {len(names) - 8} more" * (len(names) > 8)
