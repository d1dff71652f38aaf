import pytest
import torch
from torch import nn

from lightning_modules.aunet.losses import gaussian_heatmaps, heatmap_loss
from lightning_modules.aunet.network import (
    FAN,
    AUFANHead,
    AUNetHead,
    FeatureHeadNetwork,
    FrozenFAN,
    Hourglass,
    LabelVAE,
    attention_feature,
    decode_landmarks,
)
from lightning_modules.common.backbones import unit_range
from lightning_modules.common.errors import ModelError
from lightning_modules.published import load_published

TOLERANCE = 1e-4  # relative, for features and logits alike: ../shared/golden/README.md


def tiny_fan(**arguments) -> FAN:
    return FAN(**{"width": 1 / 32, "depth": 2, **arguments})


def trained_norms(network: nn.Module) -> nn.Module:
    """Statistics and parameters of normalisation as after training, so that mix-ups show."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return network.eval()


# --- the release's outputs -------------------------------------------------------------------------------------------


def test_fan_gives_the_releases_features(golden, fan_outputs):
    low, hourglasses, heatmaps, feature = fan_outputs["current"]
    assert golden.error("fan.low", low[:, ::32, ::4, ::4]) < TOLERANCE
    assert golden.error("fan.hg1", hourglasses[0][:, ::32, ::4, ::4]) < TOLERANCE
    assert golden.error("fan.hg2", hourglasses[1][:, ::32, ::4, ::4]) < TOLERANCE
    assert golden.error("fan.heatmaps", heatmaps[:, ::8, ::4, ::4]) < TOLERANCE
    assert golden.error("fan.feature", feature[:, ::48, ::4, ::4]) < TOLERANCE
    assert feature.shape == (2, 768, 64, 64)


@torch.no_grad()
def test_heads_give_the_releases_logits(golden, published, head_inputs):
    current, former, later = head_inputs
    head = published("aunet_head")
    assert golden.error("aunet_head.logits", head(current, former, later)) < TOLERANCE
    assert golden.error("aunet_head.logits_static", head(current, current, current)) < TOLERANCE
    assert golden.error("aunet_head.logits_swapped", head(current, later, former)) < TOLERANCE
    assert golden.error("aufan_head.logits", published("aufan_head")(current)) < TOLERANCE


@torch.no_grad()
def test_alpha_and_beta_weigh_the_branches_as_in_the_release(golden, released_state, head_inputs):
    head = load_published("aunet_head", released_state("aunet_head"), alpha=0.5, beta=0.5)
    assert golden.error("aunet_head.logits_alpha05_beta05", head(*head_inputs)) < TOLERANCE


@torch.no_grad()
def test_whole_networks_give_the_releases_logits(golden, published, fan_outputs):
    features = [fan_outputs[name].feature for name in ("current", "former", "later")]
    assert golden.error("aunet.logits", published("aunet_head")(*features)) < TOLERANCE
    assert golden.error("aufan.logits", published("aufan_head")(features[0])) < TOLERANCE


@torch.no_grad()
def test_the_vae_gives_the_releases_codes(golden, published):
    vae = published("label_vae")
    for name, given in (("p", golden.tensor("vae.logit").sigmoid()), ("g", golden.tensor("vae.y"))):
        mean, logvar = vae.encode(given)
        assert golden.error(f"vae.mu_{name}", mean) < 1e-5
        assert golden.error(f"vae.logvar_{name}", logvar) < 1e-5
    assert golden.error("vae.decoded_mu_g", vae.decode(mean)) < 1e-5


# --- the paper's counts ----------------------------------------------------------------------------------------------


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def multiply_accumulates(network: nn.Module, *inputs: tuple[int, ...]) -> tuple[int, int]:
    """Those of convolutions and linear layers for one sample, and the count behind the paper's "flops".

    The latter adds, as the counter ptflops does, one for every output with a bias, two for every normalised value and
    one for every value that enters a module of ReLU or pooling; what is called as a function is not counted.
    """
    exact = extra = 0

    def count(module: nn.Module, given: tuple[torch.Tensor, ...], result: torch.Tensor) -> None:
        nonlocal exact, extra
        if isinstance(module, nn.Conv2d | nn.Linear):
            exact += result.numel() * module.weight[0].numel()
            extra += result.numel() * (module.bias is not None)
        elif isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            extra += 2 * result.numel()
        elif isinstance(module, nn.ReLU | nn.MaxPool2d | nn.AvgPool2d):
            extra += given[0].numel()

    for module in network.modules():
        module.register_forward_hook(count)
    network.eval()(*(torch.empty(1, *shape, device="meta") for shape in inputs))
    return exact, exact + extra


FEATURE = (768, 64, 64)


@pytest.mark.parametrize(
    ("build", "inputs", "millions", "exact", "printed"),
    [
        (FAN, [(3, 256, 256)], "12.106504", "13.9236", "13.972"),
        (lambda: FAN(stacks=1), [(3, 256, 256)], "6.25", "8.27", ""),
        (lambda: FAN(stacks=4), [(3, 256, 256)], "23.82", "25.24", ""),
        (AUFANHead, [FEATURE], "1.857164", "3.0113", "3.0186"),
        (AUNetHead, [FEATURE] * 3, "2.657036", "3.8292", "3.8442"),
        (lambda: AUNetHead(differences="paper", fusion="paper"), [FEATURE] * 3, "2.657036", "3.8292", "3.84"),
        (lambda: AUNetHead(8), [FEATURE] * 3, "2.656520", "", ""),
        (lambda: AUNetHead(15), [FEATURE] * 3, "2.657423", "", ""),
    ],
    ids=["fan", "one_stack", "four_stacks", "aufan_head", "aunet_head", "as_in_the_paper", "8_aus", "15_aus"],
)
def test_parameters_and_multiply_accumulates(build, inputs, millions, exact, printed):
    """Sizes of the release, to the digits given; the paper prints 12.11, 1.86, 2.66 M and 13.97, 3.02, 3.84 G."""
    with torch.device("meta"):
        network = build()
    assert digits(parameters(network) / 1e6, millions) == millions
    count = multiply_accumulates(network, *inputs)
    assert digits(count[0] / 1e9, exact) == exact
    assert digits(count[1] / 1e9, printed) == printed


def digits(value: float, like: str) -> str:
    """``value`` with as many digits as ``like`` has."""
    return f"{value:.{len(like.partition('.')[2])}f}" if like else ""


def test_vae_sizes():
    assert parameters(LabelVAE(12, 8)) == 428
    assert parameters(LabelVAE(8, 6)) == 236


# --- FAN -------------------------------------------------------------------------------------------------------------


def test_feature_is_low_then_the_masked_hourglasses():
    low, first, second = (torch.full((1, 2, 1, 2), value) for value in (1.0, 2.0, 3.0))
    heatmaps = torch.tensor([[[[1.0, -1.0]], [[3.0, -4.0]]]])  # sums 4 and -5: neither clamped nor squashed
    feature = attention_feature(low, (first, second), heatmaps)
    assert feature[0, :, 0].tolist() == [[1, 1], [1, 1], [8, -10], [8, -10], [12, -15], [12, -15]]


@pytest.mark.parametrize(("pool", "kept"), [("max", 4.0), ("avg", 1.0)])
def test_pooling_of_the_hourglass(pool, kept):
    hourglass = Hourglass(4, 1, pool).eval()
    x = torch.zeros(1, 4, 4, 4)
    x[..., ::2, ::2] = 4  # one pixel of every 2x2
    seen = []
    hourglass.down.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    hourglass(x)
    torch.testing.assert_close(seen[0], torch.full((1, 4, 2, 2), kept))


@pytest.mark.parametrize("pool", ["max", "avg"])
def test_pooling_of_the_stem(pool):
    fan, seen = tiny_fan(pool=pool).eval(), {}
    fan.conv2.register_forward_hook(lambda module, given, result: seen.update(before=result))
    fan.conv3.register_forward_pre_hook(lambda module, given: seen.update(after=given[0]))
    fan(torch.rand(1, 3, 32, 32))
    blocks = seen["before"].unflatten(3, (-1, 2)).unflatten(2, (-1, 2))
    expected = blocks.amax((3, 5)) if pool == "max" else blocks.mean((3, 5))
    torch.testing.assert_close(seen["after"], expected)


@pytest.mark.parametrize(("stacks", "width", "side"), [(1, 1 / 16, 32), (2, 1 / 32, 48), (3, 1 / 32, 32)])
def test_sizes_are_arguments(stacks, width, side):
    fan = FAN(width, depth=2, stacks=stacks, landmarks=5).eval()
    output = fan(torch.rand(2, 3, side, side + 16))
    channels = round(256 * width)
    assert output.low.shape == (2, channels, side // 4, side // 4 + 4)
    assert output.heatmaps.shape == (2, 5, side // 4, side // 4 + 4)
    assert output.feature.shape[1] == fan.feature_channels == channels * (1 + stacks)
    assert len(output.hourglasses) == stacks
    assert output.hourglasses[-1].min() >= 0  # behind a ReLU; the others are behind a linear layer
    assert all(feature.min() < 0 for feature in output.hourglasses[:-1])


def test_what_does_not_fit_is_refused():
    with pytest.raises(ModelError, match="width") as fault:
        FAN(width=0.3)
    assert "1/32" in fault.value.remedy
    with pytest.raises(ModelError, match="224x256 pixels") as fault, torch.device("meta"):
        FAN()(torch.empty(1, 3, 224, 256))
    assert "64" in fault.value.remedy


def test_landmarks_are_decoded_where_the_targets_have_them():
    landmarks = torch.tensor([[[20.0, 30.0], [21.3, 30.0], [40.6, 41.7], [33.25, 12.5]]])
    decoded, score = decode_landmarks(gaussian_heatmaps(landmarks, 16, 16, sigma=0.7))
    assert (decoded - landmarks).abs().max() < 0.5  # whole pixels of the map would be off by up to 2
    decoded, score = decode_landmarks(gaussian_heatmaps(2 * landmarks, 64, 64), radius=0.07)
    assert (decoded - 2 * landmarks).abs().max() < 0.05
    assert score.min() > 0.7


def test_a_far_second_peak_does_not_pull_and_no_peak_at_all_is_no_nan():
    maps = torch.zeros(1, 2, 32, 32)
    maps[0, 0, 8, 4], maps[0, 0, 28, 28] = 1, 0.9
    maps[0, 1] = -1
    maps[0, 1, 3, 5] = -0.5
    decoded, score = decode_landmarks(maps)
    assert decoded[0].tolist() == [
        [17.5, 33.5],
        [21.5, 13.5],
    ]  # pixel x of the map is centred on 4 x + 1.5 of the image
    assert score[0].tolist() == [1, -0.5]


def test_a_quarter_width_fan_learns_landmarks_at_64_pixels():
    torch.manual_seed(0)
    landmarks = 12 + 40 * torch.rand(4, 2, 2)
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    spots = torch.exp(-((x - landmarks[..., :1, None]) ** 2 + (y - landmarks[..., 1:, None]) ** 2) / 18)
    image = (255 * torch.cat([spots, spots[:, :1]], 1)).to(torch.uint8)
    fan = FAN(width=0.25, depth=4, landmarks=2).train()
    optimizer = torch.optim.Adam(fan.parameters(), 3e-3)
    losses = []
    for _ in range(12):
        loss = heatmap_loss(fan.stages(unit_range(image))[2], landmarks)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 10
    decoded, _ = decode_landmarks(fan.stages(unit_range(image))[2][-1])
    assert (decoded - landmarks).norm(dim=-1).mean() < 2
    assert all(parameter.grad is not None for parameter in fan.parameters())


# --- the heads -------------------------------------------------------------------------------------------------------


def small_heads(**arguments) -> tuple[AUNetHead, list[torch.Tensor]]:
    torch.manual_seed(0)
    head = AUNetHead(3, in_channels=6, channels=8, **arguments)
    return trained_norms(head), list(torch.randn(3, 2, 6, 16, 16))


def exchanged(head: AUNetHead, sign: float) -> AUNetHead:
    """The head whose motion branch reads the two differences the other way round."""
    first, second = head.motion_in.weight.data.clone().chunk(2, 1)
    head.motion_in.weight.data = torch.cat([sign * second, sign * first], 1)
    return head


@pytest.mark.parametrize(("differences", "sign"), [("paper", 1), ("released", -1)])
@torch.no_grad()
def test_which_differences_the_motion_branch_sees(differences, sign):
    """In the paper both are current - other; in the release both run forwards in time, so that order brings a sign."""
    head, (current, former, later) = small_heads(differences=differences)
    expected = head(current, former, later)
    assert (head(current, later, former) - expected).abs().max() > 1e-3
    torch.testing.assert_close(exchanged(head, sign)(current, later, former), expected)


@torch.no_grad()
def test_the_first_difference_is_to_the_former_frame():
    head, (current, former, later) = small_heads()
    head.motion_in.weight.zero_()
    head.motion_in.weight[0, 0] = 1
    pooled = (current - former)[:, 0].unflatten(2, (8, 2)).unflatten(1, (8, 2)).mean((2, 4))
    bias = head.motion_in.bias[0]
    torch.testing.assert_close(head.motion(current, former, later)[:, 0], pooled + bias)


@torch.no_grad()
def test_the_papers_fusion_adds_the_motion_once_where_both_have_one_resolution():
    head, frames = small_heads(fusion="paper")
    seen = {}
    for name in ("static_in", "static_block", "motion_block", "tail"):
        getattr(head, name).register_forward_hook(
            lambda module, given, result, name=name: seen.update({name: (given[0], result)})
        )
    head(*frames)
    torch.testing.assert_close(seen["static_block"][0], seen["static_in"][1])
    torch.testing.assert_close(seen["tail"][0], seen["static_block"][1] + seen["motion_block"][1])


@torch.no_grad()
def test_without_motion_both_fusions_are_au_fan():
    """alpha = 1, beta = 0 leaves the static path, which is AU-FAN with the same weights."""
    head, frames = small_heads(alpha=1.0, beta=0.0)
    plain = AUFANHead(3, in_channels=6, channels=8).eval()
    state = {}
    for key, tensor in head.state_dict().items():
        if key.startswith("tail."):
            _, place, rest = key.split(".", 2)
            state[f"tail.{int(place) + 2}.{rest}"] = tensor
        elif not key.startswith("motion"):
            state[key.replace("static_block.", "tail.")] = tensor
    plain.load_state_dict(state)
    torch.testing.assert_close(head(*frames), plain(frames[0]))


@pytest.mark.parametrize("side", [16, 20, 40])
@torch.no_grad()
def test_heads_take_maps_of_any_size_and_use_all_of_them(side):
    torch.manual_seed(0)
    plain = AUFANHead(2, in_channels=4, channels=8).eval()
    for head, inputs in ((plain, 1), (AUNetHead(2, in_channels=4, channels=8).eval(), 3)):
        maps = torch.randn(inputs, 2, 4, side, side)
        assert head(*maps).shape == (2, 2)
    kept = 16 * (side // 16)  # what remains whole after four poolings
    changed = maps[0].clone()
    changed[..., kept - 1, kept - 1] += 100
    assert (plain(changed) - plain(maps[0])).abs().max() > 1e-4


def test_every_parameter_of_the_heads_learns():
    for head, inputs in ((AUFANHead(2, 4, 8), 1), (AUNetHead(2, 4, 8), 3), (AUNetHead(2, 4, 8, fusion="paper"), 3)):
        head(*torch.randn(inputs, 4, 4, 16, 16)).square().sum().backward()
        assert all(parameter.grad is not None for parameter in head.parameters())


# --- the VAE ---------------------------------------------------------------------------------------------------------


def test_the_code_is_drawn_in_training_only():
    torch.manual_seed(0)
    vae = LabelVAE(4, 2)
    vae.decoder = nn.Identity()  # the code itself
    label = torch.tensor([[1.0, 0, 0, 1]]).repeat(20_000, 1)
    code, mean, logvar = vae(label)
    standard = (0.5 * logvar[0]).exp()
    torch.testing.assert_close(code.mean(0), mean[0], atol=0.04, rtol=0)
    torch.testing.assert_close(code.std(0), standard, atol=0.04, rtol=0)
    assert (standard - logvar[0].exp()).abs().min() > 0.08  # a variance would be told from a deviation
    code, mean, _ = vae.eval()(label)
    assert torch.equal(code, mean)


# --- from pictures to logits -----------------------------------------------------------------------------------------


def frozen_network(head: type[AUFANHead] | type[AUNetHead]) -> FeatureHeadNetwork:
    torch.manual_seed(0)
    fan = trained_norms(tiny_fan())
    return FeatureHeadNetwork(FrozenFAN(fan), trained_norms(head(3, fan.feature_channels, 8)))


def test_a_frozen_fan_stays_in_evaluation_and_gets_no_gradient():
    network = frozen_network(AUFANHead).train()
    before = {key: tensor.clone() for key, tensor in network.extractor.state_dict().items()}
    image = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8)
    network(image).sum().backward()
    assert network.head.training
    assert not network.extractor.training
    assert not any(module.training for module in network.extractor.modules())
    assert not any(
        parameter.requires_grad or parameter.grad is not None for parameter in network.extractor.parameters()
    )
    assert all(torch.equal(tensor, before[key]) for key, tensor in network.extractor.state_dict().items())
    assert network.head.static_in.weight.grad.abs().sum() > 0


@torch.no_grad()
def test_a_clip_is_former_current_later():
    network = frozen_network(AUNetHead).eval()
    clip = torch.randint(0, 256, (2, 3, 3, 64, 64), dtype=torch.uint8)
    former, current, later = (network.extractor.fan(clip[:, i] / 255).feature for i in range(3))
    expected = network.head(current, former, later)
    torch.testing.assert_close(network(clip).squeeze(2), expected, atol=1e-5, rtol=1e-4)
    assert (network(clip.flip(1)).squeeze(2) - expected).abs().max() > 1e-3


@torch.no_grad()
def test_a_network_answers_for_the_aus_asked_for():
    network = frozen_network(AUFANHead).eval()
    image = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    everything = network(image)
    assert everything.shape == (2, 3, 1)
    network.outputs = [2, 0]
    torch.testing.assert_close(network(image), everything[:, [2, 0]])
    state = network.state_dict()
    assert {key for key in state if len(state[key].shape) and key in network.au_keys()} == network.au_keys()
    assert all(len(state[key]) == 3 for key in network.au_keys())
    torch.testing.assert_close(network.head.classifier(network.features(image)[:, 0])[:, [2, 0], None], network(image))
    assert network.features(image).shape == (2, 1, 8)
