"""Weights from another run: read strictly, mapped by AU number, refused where test subjects would leak."""

import hashlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_modules.common.errors import ModelError


def file_sha(path: str) -> str:
    """First twelve hex digits of a file's SHA-256."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]


def read_checkpoint(path: str, model_class: str) -> dict[str, Any]:
    """A checkpoint that a run of ``model_class`` wrote, on the CPU.

    Raises:
        ModelError: No file, not a checkpoint, or one of another class.
    """
    if not Path(path).is_file():
        raise ModelError(f"model.backbone_checkpoint: no file {path}", "run the source first, or correct the path")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a broken file
        raise ModelError(
            f"model.backbone_checkpoint: cannot read {path} ({type(error).__name__})", "train the source again"
        ) from error
    model = checkpoint.get("model") if isinstance(checkpoint, dict) else None
    if not isinstance(model, dict) or model.get("class") != model_class:
        written_by = model.get("class") if isinstance(model, dict) else "another program"
        raise ModelError(
            f"model.backbone_checkpoint: {path} was written by {written_by}, not by {model_class}",
            f"give the checkpoint of a {model_class} run (checkpoints/best.ckpt)",
        )
    return checkpoint


def check_leakage(checkpoint: dict[str, Any], data: dict[str, Any], path: str) -> None:
    """Refuse a source that was fitted or selected on persons whom this run validates or tests on.

    Args:
        checkpoint: The source.
        data: ``state_dict()`` of this run's DataModule.
        path: Of the source, for the message.

    Raises:
        ModelError: Shared persons, or a source that does not say whom it has seen.
    """
    source = next(
        (state for state in checkpoint.values() if isinstance(state, dict) and "train_subjects" in state), None
    )
    if source is None:
        raise ModelError(
            f"model.backbone_checkpoint: {path} does not say which subjects it has seen", "give a checkpoint of run.py"
        )
    if source["persons"] != data["persons"]:
        return
    seen = {*source["train_subjects"], *source["val_subjects"]}
    leaked = sorted(seen & {*data["val_subjects"], *data["test_subjects"]})
    if leaked:
        raise ModelError(
            f"model.backbone_checkpoint: {path} has seen subjects that this run validates or tests on: {leaked}",
            f"take a source of the same fold (this run: fold {data['fold']}, source: fold {source['fold']})",
        )


def map_weights(
    own: dict[str, Tensor],
    source: dict[str, Tensor],
    aus: list[int],
    source_aus: list[int],
    au_keys: Collection[str],
    kept: Collection[str] = (),
) -> dict[str, Tensor]:
    """The source's weights in the shape of our own: shared tensors copied, rows of AUs mapped by AU number.

    A row of an AU that the source lacks becomes the mean over the source's rows.

    Args:
        own: State dict to fill; gives names and shapes.
        source: State dict of the source.
        aus: Our AU numbers.
        source_aus: The source's AU numbers.
        au_keys: Names of the tensors whose first dimension is the AU.
        kept: Names that stay as they are in ``own``, because they belong to a run's data.

    Raises:
        ModelError: Names or shapes differ.
    """
    remedy = "give both runs the same backbone, width, task, relation and head"
    if differing := sorted(set(own) ^ set(source)):
        raise ModelError(
            f"model.backbone_checkpoint: {len(differing)} tensors differ ({', '.join(differing[:3])})", remedy
        )
    mapped = {}
    for name, tensor in own.items():
        value = source[name]
        if name in kept:
            value = tensor
        elif name in au_keys:
            rows = [value[source_aus.index(au)] if au in source_aus else value.mean(0) for au in aus]
            value = torch.stack(rows)
        if value.shape != tensor.shape:
            raise ModelError(
                f"model.backbone_checkpoint: {name} is {tuple(value.shape)} there, {tuple(tensor.shape)} here", remedy
            )
        mapped[name] = value
    return mapped
