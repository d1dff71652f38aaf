"""Weights of another run: read strictly, mapped by AU number, refused where test subjects would leak."""

import hashlib
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lightning_modules.common.errors import ModelError

if TYPE_CHECKING:
    from lightning_modules.common.classifier import AUClassifier


def file_sha(path: str | Path) -> str:
    """First twelve hex digits of a file's SHA-256."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """A checkpoint that a model of this suite wrote, on the CPU.

    Raises:
        ModelError: No file, a broken one, or the file of another program.
    """
    checkpoint = _read(path)
    if not isinstance(checkpoint, dict) or not {"model", "state_dict"} <= set(checkpoint):
        raise ModelError(f"checkpoint {path}: not of this suite", "give checkpoints/best.ckpt of a run folder")
    return checkpoint


def _read(path: str | Path) -> Any:
    if not Path(path).is_file():
        raise ModelError(f"checkpoint {path}: no such file", "run the source first, or correct the path")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken file raises errors of many kinds
        cause = type(error).__name__
        raise ModelError(f"checkpoint {path}: cannot be read ({cause})", "train the source again") from error


def dataset_of(path: str | Path) -> str:
    """Name of the dataset that trained a checkpoint."""
    return str(provenance(read_checkpoint(path), path)["dataset"])


def is_own(path: str | Path) -> bool:
    """Whether the file is a checkpoint of this suite, and not what another program published.

    Raises:
        ModelError: No file, or a broken one.
    """
    checkpoint = _read(path)
    return isinstance(checkpoint, dict) and {"model", "state_dict"} <= set(checkpoint)


def network_state(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors of a model's network, by their names in it."""
    prefix = "network."
    state = checkpoint["state_dict"]
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def load_strictly(network: nn.Module, state: dict[str, Tensor], path: str | Path) -> None:
    """Give ``network`` the tensors of a checkpoint; raises ModelError unless they are just its own."""
    own = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    theirs = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if own != theirs:
        differing = sorted(name for name in own.keys() | theirs.keys() if own.get(name) != theirs.get(name))
        what = f"checkpoint {path}: {len(differing)} tensors differ from the network's, as {differing[0]}"
        raise ModelError(what, "train the source again with this version")
    network.load_state_dict(state)


def check_class(checkpoint: dict[str, Any], name: str, path: str | Path) -> None:
    """Raise ModelError when the checkpoint holds a model of another class than ``name``."""
    written = checkpoint["model"]["class"]
    if written != name:
        raise ModelError(f"checkpoint {path}: of {written}, not of {name}", f"give a checkpoint of a {name} run")


def provenance(checkpoint: dict[str, Any], path: str | Path) -> dict[str, Any]:
    """The DataModule's state in a checkpoint: whom and which crops the model has seen.

    Raises:
        ModelError: It holds none.
    """
    # Lightning files the state of a DataModule under its class name; what tells it apart is what it holds.
    states = (state for state in checkpoint.values() if isinstance(state, dict))
    source = next((state for state in states if {"train_persons", "val_persons", "test_persons"} <= set(state)), None)
    if source is None:
        raise ModelError(f"checkpoint {path}: does not say whom it has seen", "give a checkpoint that run.py wrote")
    return source


def crops_differ(checkpoint: dict[str, Any], data: dict[str, Any], path: str | Path, allowed: bool) -> bool:
    """Whether the source saw faces cropped in another way than this run does.

    Raises:
        ModelError: It did, and that is not allowed.
    """
    theirs, ours = provenance(checkpoint, path)["preprocessing"], data["preprocessing"]
    if theirs != ours and not allowed:
        raise ModelError(
            f"checkpoint {path}: trained on crops {theirs}, this run has {ours}",
            "prepare both datasets with one preset, or set model.allow_crop_mismatch=true",
        )
    return bool(theirs != ours)


def check_leakage(checkpoint: dict[str, Any], data: dict[str, Any], path: str | Path) -> None:
    """Refuse a source that has seen persons whom this run scores.

    Nobody tested may have been among the source's training or validation subjects, nobody validated among its training
    subjects. Validation subjects in common are in order: stages of one fold share them, and neither is fitted on them.
    People are told apart across datasets: DISFA and DISFA+ share theirs, BP4D and BP4D+ only names.

    Args:
        checkpoint: The source.
        data: ``state_dict()`` of this run's DataModule.
        path: Of the source, for the message.

    Raises:
        ModelError: Shared persons, or a source that does not say whom it has seen.
    """
    source = provenance(checkpoint, path)
    fitted, chosen = set(source["train_persons"]), set(source["val_persons"])
    if source.get("select_on") == "test" and data.get("select_on") != "test":
        chosen |= set(source["test_persons"])  # its epoch was chosen on them
    if leaked := sorted((fitted | chosen) & {*data["test_persons"]} | fitted & {*data["val_persons"]}):
        more = f" and {len(leaked) - 10} more" if len(leaked) > 10 else ""
        raise ModelError(
            f"checkpoint {path}: has seen subjects that this run validates or tests on: {', '.join(leaked[:10])}{more}",
            f"take a source of the same fold (this run: {data['dataset']}, fold {data['fold']}; source: "
            f"{source['dataset']}, fold {source['fold']})",
        )


def map_weights(
    own: dict[str, Tensor],
    source: dict[str, Tensor],
    aus: list[int],
    source_aus: list[int],
    au_keys: Collection[str],
    run_keys: Collection[str] = (),
) -> dict[str, Tensor]:
    """The source's weights in our own shape: shared tensors copied, rows of AUs mapped by AU number.

    The row of an AU that the source lacks becomes the mean of the source's rows.

    Args:
        own: State dict to be filled; gives names and shapes.
        source: State dict of the source.
        aus: Our AU numbers.
        source_aus: The source's AU numbers.
        au_keys: Names of the tensors whose first dimension is the AU, or some rows an AU.
        run_keys: Names that stay as they are in ``own``.

    Raises:
        ModelError: Names or shapes differ.
    """
    remedy = "give both runs the same backbone, width, task, relation and head"
    if differing := sorted(set(own) ^ set(source)):
        raise ModelError(f"model.backbone_checkpoint: {len(differing)} tensors differ, as {differing[0]}", remedy)
    mapped = {}
    for name, tensor in own.items():
        value = tensor if name in run_keys else source[name]
        if name in au_keys:
            rows = value.unflatten(0, (len(source_aus), -1))
            value = torch.cat([rows[source_aus.index(au)] if au in source_aus else rows.mean(0) for au in aus])
        if value.shape != tensor.shape:
            shapes = f"{tuple(value.shape)} there, {tuple(tensor.shape)} here"
            raise ModelError(f"model.backbone_checkpoint: {name} is {shapes}", remedy)
        mapped[name] = value
    return mapped


def map_backbone(own: dict[str, Tensor], source: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors, those of the ``backbone`` replaced by the source's; the rest of the source is left.

    Raises:
        ModelError: Names or shapes of the backbones differ.
    """
    ours, theirs = (
        {name: value for name, value in state.items() if name.startswith("backbone.")} for state in (own, source)
    )
    return own | map_weights(ours, theirs, [], [], ())


def check_evaluation(path: str | Path, aus: list[int], data: dict[str, Any], allow_crop_mismatch: bool = False) -> None:
    """Whether a run may score the checkpoint of another one: it knows AUs and crops and has not seen the subjects.

    Args:
        path: The checkpoint.
        aus: AUs to be scored.
        data: ``state_dict()`` of the DataModule.
        allow_crop_mismatch: Whether the crops may differ.

    Raises:
        ModelError: It may not.
    """
    checkpoint = read_checkpoint(path)
    known = checkpoint["model"]["aus"]
    if foreign := [au for au in aus if au not in known]:
        common = [au for au in aus if au in known]
        raise ModelError(f"checkpoint {path}: knows no AU {foreign}", f"set data.aus={common}")
    check_leakage(checkpoint, data, path)
    crops_differ(checkpoint, data, path, allow_crop_mismatch)


def load_for_evaluation(model: "AUClassifier", path: str | Path) -> None:
    """Give ``model`` the whole network of a checkpoint; it answers for ``model.aus`` only, picked by number.

    The network stays complete, since an AU's parameters may be mixed from those of AUs that are not asked for.

    Raises:
        ModelError: The checkpoint is of another class or task.
    """
    checkpoint = read_checkpoint(path)
    check_class(checkpoint, type(model).__name__, path)
    source = type(model).load_from_checkpoint(path, map_location="cpu", weights_only=True)
    if source.task != model.task:
        raise ModelError(f"checkpoint {path}: predicts {source.task}", f"set model.task={source.task}")
    model.network = source.network
    model.network.outputs = [source.aus.index(au) for au in model.aus]
