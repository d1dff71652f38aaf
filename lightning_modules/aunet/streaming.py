"""AUs of a whole video, frame after frame, without keeping the video. Pure torch.

AUNet sees a frame between two neighbours. How the neighbours are cropped decides what that costs:

- ``per_triple``, the release's way: both are laid on the current frame's crop, so that a frame is another picture in
  each of the three clips it is in, and FAN runs three times a frame.
- ``per_frame``: each keeps its own crop, so that its feature is the same in all three. FAN runs once a frame, and what
  the head needs of it is kept until the last clip that needs it.

Both are one when the crop does not move with the face; a crop that shakes is motion to the head in ``per_frame`` alone.
"""

from collections.abc import Iterable, Iterator
from itertools import chain, islice

import torch
from torch import Tensor

from lightning_modules.aunet.network import AUNetHead, FeatureHeadNetwork
from lightning_modules.common.errors import ModelError


def per_triple(network: FeatureHeadNetwork, clips: Iterable[Tensor], batch: int = 8) -> Iterator[Tensor]:
    """Logits of a video whose neighbours are laid on the crop of every frame: three passes of the extractor a frame.

    Args:
        network: With ``AUNetHead``, in evaluation mode.
        clips: uint8 (3, 3, H, W) of the frames t-T, t and t+T, for every t; or batches (B, 3, 3, H, W) of them.
        batch: Clips that go through the network together.

    Yields:
        (A, 1) for every clip, on the network's device.

    Raises:
        ModelError: A network that sees no neighbours or trains, or a clip of another shape or type.
    """
    _head(network)
    _check_positive(batch=batch)
    single = (_singles(clip, 4, "clip (3, 3, H, W)") for clip in clips)
    return _per_triple(network, chain.from_iterable(single), batch)


def per_frame(
    network: FeatureHeadNetwork, frames: Iterable[Tensor | None], neighbours: int, batch: int = 8
) -> Iterator[Tensor | None]:
    """Logits of a video whose frames keep their crops: one pass of the extractor a frame.

    They equal those of the clips (t-T, t, t+T) of the same crops. A neighbour that lies outside the video, or has no
    picture, is replaced by the frame itself. Frames are read up to T + ``batch`` before an answer; what is kept of them
    does not grow with the video.

    Args:
        network: With ``AUNetHead``, in evaluation mode.
        frames: uint8 (3, H, W), or batches (B, 3, H, W), in the order of the video and without gaps: None stands for a
            frame that has no picture.
        neighbours: T.
        batch: Frames that go through the extractor, and through the head, together.

    Yields:
        (A, 1) for every frame, on the network's device; None for a frame without a picture.

    Raises:
        ModelError: As ``per_triple``, for pictures; or T < 1.
    """
    head = _head(network)
    _check_positive(neighbours=neighbours, batch=batch)
    single = ((None,) if frame is None else _singles(frame, 3, "picture (3, H, W)") for frame in frames)
    return _per_frame(network, head, chain.from_iterable(single), neighbours, batch)


@torch.no_grad()
def _per_triple(network: FeatureHeadNetwork, clips: Iterator[Tensor], batch: int) -> Iterator[Tensor]:
    device = _device(network)
    while chunk := list(islice(clips, batch)):
        yield from network(torch.stack(chunk).to(device))


@torch.no_grad()
def _per_frame(
    network: FeatureHeadNetwork, head: AUNetHead, frames: Iterator[Tensor | None], reach: int, batch: int
) -> Iterator[Tensor | None]:
    device = _device(network)
    static: dict[int, Tensor] = {}  # of the static branch, (C, h, w), until its frame is answered
    halved: dict[int, Tensor] = {}  # of the motion branch, (C_in, h/2, w/2), of the 2 T + 1 frames in reach
    read = answered = 0
    while chunk := list(islice(frames, batch)):
        pictures = {read + i: picture for i, picture in enumerate(chunk) if picture is not None}
        read += len(chunk)
        if pictures:
            maps = network.extractor(torch.stack(list(pictures.values())).to(device))
            static.update(zip(pictures, head.static_in(maps), strict=True))
            halved.update(zip(pictures, head.halve(maps), strict=True))
            del maps
        ready = range(answered, max(answered, read - reach))
        yield from _answers(network, head, static, halved, ready, reach)
        answered = ready.stop
    for first in range(answered, read, batch):
        yield from _answers(network, head, static, halved, range(first, min(first + batch, read)), reach)


def _answers(
    network: FeatureHeadNetwork,
    head: AUNetHead,
    static: dict[int, Tensor],
    halved: dict[int, Tensor],
    frames: range,
    reach: int,
) -> list[Tensor | None]:
    """Logits of these frames, all of whose neighbours are read; what no later frame needs is dropped."""
    seen = [frame for frame in frames if frame in static]
    logits: dict[int, Tensor] = {}
    if seen:
        # A neighbour that is not there is the frame itself.
        places = [torch.stack([halved.get(t + step, halved[t]) for t in seen]) for step in (0, -reach, reach)]
        motion = head.motion_in(torch.cat(head.differenced(*places), 1))
        features = head.joined(torch.stack([static.pop(t) for t in seen]), motion)
        logits = dict(zip(seen, head.classifier(features)[:, network.outputs].unsqueeze(2), strict=True))
    for frame in frames:
        halved.pop(frame - reach, None)
    return [logits.get(frame) for frame in frames]


def _singles(item: Tensor, dims: int, what: str) -> tuple[Tensor, ...]:
    single = item.shape[-dims:]
    if item.dtype != torch.uint8 or item.ndim not in (dims, dims + 1) or set(single[:-2]) != {3}:
        given = f"{str(item.dtype).removeprefix('torch.')} of shape {tuple(item.shape)}"
        raise ModelError(f"a video of {given}", f"give every {what} as uint8, or batches of them")
    return item.unbind() if item.ndim > dims else (item,)


def _head(network: FeatureHeadNetwork) -> AUNetHead:
    if not isinstance(network.head, AUNetHead):
        raise ModelError(
            f"{type(network.head).__name__} sees one frame at a time", "call the network on batches of them"
        )
    if network.training:
        raise ModelError("a network in training mode answers by what else is in its batch", "call network.eval() first")
    return network.head


def _check_positive(**arguments: int) -> None:
    for name, value in arguments.items():
        if value < 1:
            raise ModelError(f"{name} {value}", "give 1 or more")


def _device(network: FeatureHeadNetwork) -> torch.device:
    return next(network.parameters()).device
