"""What the releases of FAU (PyTorch) and ME-GraphAU call the tensors of our networks."""

from collections.abc import Collection
from typing import Any

from torch import Tensor

from lightning_modules.common.backbones import create_backbone
from lightning_modules.emotiram_fau.fau_network import FAU
from lightning_modules.emotiram_fau.megraph_network import MEGraph, Stage

_LINEAR_BLOCK = {"linear.": "fc.", "norm.": "bn."}
_CROSS_ATTENTION = {"query.": "linear_q.", "key.": "linear_k.", "value.": "linear_v."}
_EDGES = {"face.": "FAM.", "pair.": "ARM.", "project.": "edge_proj.", "norm.": "bn."}
_GRAPH = {"own.": "U.", "other.": "V.", "norm.": "bnv."}
_GATED_LAYER = {
    "own.": "U{n}.",
    "other.": "V{n}.",
    "end.": "A{n}.",
    "start.": "B{n}.",
    "edge.": "E{n}.",
    "node_norm.": "bnv{n}.",
    "edge_norm.": "bne{n}.",
}


def fau_keys(network: FAU) -> dict[str, str]:
    """Own name of every tensor -> its published name."""
    return {key: _fau_key(key) for key in network.state_dict()}


def _fau_key(key: str) -> str:
    if key.startswith("deconvolutions."):
        _, number, rest = key.split(".", 2)
        return f"deconv_layers_{int(number) + 1}.{rest}"
    return key.removeprefix("backbone.").replace("final.", "final_layer.")


def megraph_keys(network: MEGraph) -> dict[str, str]:
    """Own name of every tensor -> its published name."""
    return {key: _megraph_key(key) for key in network.state_dict()}


def _megraph_key(key: str) -> str:
    part, _, rest = key.partition(".")
    match part:
        case "reduce":
            return f"global_linear.{_renamed(rest, _LINEAR_BLOCK)}"
        case "nodes":
            number, _, rest = rest.partition(".")
            return f"head.class_linears.{number}.{_renamed(rest, _LINEAR_BLOCK)}"
        case "centres":
            return "head.sc"
        case "graph":
            return f"head.gnn.{_renamed(rest, _GRAPH)}"
        case "edges":
            module, _, rest = rest.partition(".")
            return f"head.edge_extractor.{_renamed(f'{module}.', _EDGES)}{_renamed(rest, _CROSS_ATTENTION)}"
        case "layers":
            number, _, rest = rest.partition(".")
            return f"head.gnn.{_renamed(rest, _GATED_LAYER).format(n=int(number) + 1)}"
        case "edge_classifier":
            return f"head.edge_fc.{rest}"
    return key


def _renamed(key: str, names: dict[str, str]) -> str:
    return next((names[own] + key.removeprefix(own) for own in names if key.startswith(own)), key)


def build_fau(n_maps: int, backbone: str = "resnet50", **architecture: Any) -> FAU:
    """FAU as published."""
    return FAU(create_backbone(backbone), n_maps, **architecture)


def build_anfl(n_aus: int, backbone: str = "resnet50", neighbors: int = 4) -> MEGraph:
    """ME-GraphAU's first stage as published for BP4D; DISFA's has 3 neighbours, which no tensor tells."""
    return MEGraph(create_backbone(backbone), n_aus, "anfl", neighbors)


def build_mefl(n_aus: int, backbone: str = "resnet50") -> MEGraph:
    """ME-GraphAU's second stage as published."""
    return MEGraph(create_backbone(backbone), n_aus, "mefl")


def fau_sizes(state: dict[str, Tensor]) -> dict[str, Any]:
    """Sizes that the tensors tell."""
    return {"n_maps": len(state["final_layer.bias"])}


def megraph_sizes(state: dict[str, Tensor]) -> dict[str, Any]:
    """As ``fau_sizes``."""
    return {"n_aus": len(state["head.sc"])}


def stage_of(keys: Collection[str]) -> Stage | None:
    """Stage of the ME-GraphAU that has tensors of these names; None of other networks."""
    if "head.sc" not in keys:
        return None
    return "mefl" if "head.edge_fc.weight" in keys else "anfl"


def recognise(keys: Collection[str]) -> str | None:
    """What has tensors of these names, and what it is good for; None when nothing known."""
    if any(key.startswith("head.main_class_linears.") for key in keys):
        return "OpenGraphAU, whose head knows other AUs and both sides of the face apart: no kind of ours"
    if stage := stage_of(keys):
        return f"ME-GraphAU of the stage {stage}, kind megraph_{stage}"
    return "heat-maps of FAU, kind fau_heatmap" if "deconv_layers_1.0.weight" in keys else None
