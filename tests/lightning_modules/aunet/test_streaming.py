import gc

import pytest
import torch
from torch import Tensor, nn

from lightning_modules.aunet.network import FAN, AUFANHead, AUNetHead, FeatureHeadNetwork, FrozenFAN
from lightning_modules.aunet.streaming import per_frame, per_triple
from lightning_modules.common.errors import ModelError

SIDE, LENGTH = 64, 7
CHANNELS = 8


@pytest.fixture(scope="module")
def network() -> FeatureHeadNetwork:
    """A small AUNet to which motion matters as much as the frame."""
    return small_network(AUNetHead, alpha=0.5, beta=0.5)


def small_network(head: type[AUFANHead] | type[AUNetHead], **arguments) -> FeatureHeadNetwork:
    """Its normalisation is as after training."""
    torch.manual_seed(0)
    fan = FAN(1 / 32, depth=2)
    network = FeatureHeadNetwork(FrozenFAN(fan), head(3, fan.feature_channels, CHANNELS, **arguments))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return network.eval()


@pytest.fixture(scope="module")
def video() -> Tensor:
    """Frames that differ in brightness and pattern."""
    generator = torch.Generator().manual_seed(1)
    noise = torch.rand(LENGTH, 3, SIDE, SIDE, generator=generator)
    return (255 * noise * torch.linspace(0.1, 1, LENGTH).view(-1, 1, 1, 1)).to(torch.uint8)


@torch.no_grad()
def of_clips(network: FeatureHeadNetwork, frames: list[Tensor | None], reach: int) -> list[Tensor | None]:
    """The network on every clip by itself; a neighbour that is not there repeats the current frame."""

    def neighbour(t: int, current: Tensor) -> Tensor:
        there = 0 <= t < len(frames) and frames[t] is not None
        return frames[t] if there else current

    return [
        None
        if current is None
        else network(torch.stack([neighbour(t - reach, current), current, neighbour(t + reach, current)])[None])[0]
        for t, current in enumerate(frames)
    ]


def assert_same(ours: list[Tensor | None], expected: list[Tensor | None]) -> None:
    assert [logits is None for logits in ours] == [logits is None for logits in expected]
    for logits, other in zip(ours, expected, strict=True):
        if other is not None:
            torch.testing.assert_close(logits, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("reach", [1, 2, 3, 6, 7, 100])
def test_a_stream_equals_the_clips_of_its_frames(network, video, reach):
    expected = of_clips(network, list(video), reach)
    if reach < LENGTH:  # a frame repeated instead of a neighbour would show
        alone = of_clips(network, list(video), 100)
        changed = [bool((logits - other).abs().max() > 1e-3) for logits, other in zip(expected, alone, strict=True)]
        assert changed == [t >= reach or t < LENGTH - reach for t in range(LENGTH)]
    for batch in range(1, LENGTH + 2):
        assert_same(list(per_frame(network, video.unbind(), reach, batch)), expected)


@pytest.mark.parametrize("length", [1, 2])
def test_the_shortest_videos(network, video, length):
    frames = list(video[:length])
    for reach in (1, 2):
        assert_same(list(per_frame(network, frames, reach, 4)), of_clips(network, frames, reach))
    assert list(per_frame(network, [], 1)) == []


@pytest.mark.parametrize("missing", [(0,), (3,), (1, 2), (0, 1, 2, 5, 6), tuple(range(LENGTH))])
def test_a_frame_without_a_picture_is_no_neighbour(network, video, missing):
    frames = [None if t in missing else picture for t, picture in enumerate(video)]
    for reach in (1, 3):
        expected = of_clips(network, frames, reach)
        for batch in (1, 2, 10):
            assert_same(list(per_frame(network, frames, reach, batch)), expected)


def test_differences_and_fusion_of_the_paper(video):
    network = small_network(AUNetHead, differences="paper", fusion="paper")
    assert_same(list(per_frame(network, video, 2, 3)), of_clips(network, list(video), 2))


def test_batches_of_frames_are_frames(network, video):
    expected = of_clips(network, list(video), 2)
    assert_same(list(per_frame(network, [video[:3], video[3], video[4:]], 2, 2)), expected)


def test_only_the_aus_asked_for(network, video):
    everything = list(per_frame(network, video, 2))
    network.outputs = [2, 0]
    try:
        assert_same(list(per_frame(network, video, 2)), [logits[[2, 0]] for logits in everything])
    finally:
        network.outputs = [0, 1, 2]


def test_clips_are_answered_one_by_one(network, video):
    clips = torch.stack([video.roll(1, 0), video, video.roll(-1, 0)], 1)
    with torch.no_grad():
        expected = list(network(clips))
    for batch in (1, 3, 10):
        assert_same(list(per_triple(network, clips.unbind(), batch)), expected)
    assert_same(list(per_triple(network, [clips[:2], clips[2], clips[3:]])), expected)


def test_the_extractor_sees_each_frame_once_and_no_further_than_needed(network, video):
    reach, batch = 2, 2
    seen = 0

    def count(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        nonlocal seen
        assert len(given[0]) <= batch
        seen += len(given[0])

    hook = network.extractor.register_forward_pre_hook(count)
    for t, _ in enumerate(per_frame(network, video.unbind(), reach, batch)):
        assert min(t + reach + 1, LENGTH) <= seen <= min(t + reach + batch, LENGTH)
    hook.remove()
    assert seen == LENGTH


def test_what_is_kept_does_not_grow_with_the_video(network, video):
    reach, batch = 2, 3
    halved = (network.head.static_in.in_channels, SIDE // 8, SIDE // 8)
    static = (CHANNELS, SIDE // 4, SIDE // 4)

    def kept() -> list[int]:
        shapes = [tuple(thing.shape) for thing in gc.get_objects() if type(thing) is Tensor]
        return [shapes.count(halved), shapes.count(static)]

    most = [0, 0]
    for t, _ in enumerate(per_frame(network, (picture for _ in range(5) for picture in video), reach, batch)):
        if t % batch == 0:
            most = [max(pair) for pair in zip(most, kept(), strict=True)]
    assert 0 < most[0] <= 2 * reach + batch
    assert 0 < most[1] <= reach + batch


def test_a_stream_leaves_no_graph_and_gradients_on(network, video):
    stream = per_frame(network, video, 1, 2)
    assert not next(stream).requires_grad
    assert torch.is_grad_enabled()
    assert not next(per_triple(network, [torch.stack([video[0]] * 3)])).requires_grad


@pytest.mark.parametrize(
    ("call", "what"),
    [
        (lambda network, video: per_frame(network, video, 0), "neighbours 0"),
        (lambda network, video: per_frame(network, video, 1, 0), "batch 0"),
        (lambda network, video: per_triple(network, video, -1), "batch -1"),
        (lambda network, video: per_frame(small_network(AUNetHead).train(), video, 1), "training mode"),
        (lambda network, video: per_frame(small_network(AUFANHead), video, 1), "AUFANHead"),
        (lambda network, video: next(per_frame(network, video / 255, 1)), "float32 of shape"),
        (lambda network, video: next(per_frame(network, [video[0, 0]], 1)), r"shape \(64, 64\)"),
        (lambda network, video: next(per_frame(network, video.movedim(1, -1), 1)), r"\(64, 64, 3\)"),
        (lambda network, video: next(per_triple(network, [video])), r"\(7, 3, 64, 64\)"),
    ],
)
def test_what_cannot_be_streamed_is_refused(network, video, call, what):
    with pytest.raises(ModelError, match=what) as fault:
        call(network, video)
    assert fault.value.remedy
