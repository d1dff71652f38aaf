import hashlib
import logging
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lightning_modules.aunet.network import FAN, AUFANHead, AUNetHead, LabelVAE
from lightning_modules.aunet.released import AUFAN_HEAD, AUNET_HEAD, LABEL_VAE, fan_keys, renamed_keys
from lightning_modules.common.errors import ModelError
from lightning_modules.published import load_published, load_with_report

SMALL = {"width": 1 / 32, "depth": 2, "landmarks": 5}


def drawn(network: nn.Module) -> nn.Module:
    """The network with a different value in every tensor."""
    with torch.no_grad():
        for tensor in network.state_dict().values():
            if tensor.is_floating_point():
                tensor.uniform_(0.5, 1.5)
            else:
                tensor.fill_(1)
    return network.eval()


def fan_state(**arguments) -> dict[str, Tensor]:
    network = drawn(FAN(**{**SMALL, **arguments}))
    keys = fan_keys(network)
    return {keys[own]: tensor for own, tensor in network.state_dict().items()}


def head_state(build=AUNetHead, n_aus: int = 3) -> dict[str, Tensor]:
    network = drawn(build(n_aus, 12, 8))
    keys = renamed_keys(AUNET_HEAD if build is AUNetHead else AUFAN_HEAD, network)
    return {keys[own]: tensor for own, tensor in network.state_dict().items()}


def vae_state() -> dict[str, Tensor]:
    network = drawn(LabelVAE(8, 6))
    keys = renamed_keys(LABEL_VAE, network)
    return {keys[own]: tensor for own, tensor in network.state_dict().items()}


def under(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + key: tensor for key, tensor in state.items()}


def whole(head: dict[str, Tensor]) -> dict[str, Tensor]:
    return under("feature.fan.", fan_state()) | under("predictor.", head)


def sources() -> list:
    return [
        pytest.param("fan", fan_state(), "", SMALL, id="fan"),
        pytest.param("fan", under("fan.", fan_state()), "fan.", SMALL, id="fan of FAN_"),
        pytest.param("fan", whole(head_state()), "feature.fan.", SMALL, id="fan of AU_NET"),
        pytest.param("aunet_head", head_state(), "", {}, id="aunet_head"),
        pytest.param("aunet_head", whole(head_state()), "predictor.", {}, id="head of AU_NET"),
        pytest.param("aufan_head", head_state(AUFANHead), "", {}, id="aufan_head"),
        pytest.param("aufan_head", whole(head_state(AUFANHead)), "predictor.", {}, id="head of AU_FAN"),
        pytest.param("label_vae", vae_state(), "", {}, id="label_vae"),
    ]


@pytest.mark.parametrize(("kind", "state", "prefix", "architecture"), sources())
@pytest.mark.parametrize("module", [False, True], ids=["", "module."])
def test_every_tensor_arrives(kind, state, prefix, architecture, module):
    given = {"epoch": 12, "state_dict": under("module.", state)} if module else state
    network, report = load_with_report(kind, given, **architecture)
    part = {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}
    if kind == "fan":
        keys = fan_keys(network)
    else:
        keys = renamed_keys({"aufan_head": AUFAN_HEAD, "aunet_head": AUNET_HEAD, "label_vae": LABEL_VAE}[kind], network)
    loaded = network.state_dict()
    assert {keys[own] for own in loaded} == set(part)
    assert all(torch.equal(tensor, part[keys[own]]) for own, tensor in loaded.items())
    assert not network.training
    assert (report.kind, report.prefix, report.by) == (kind, prefix, "key")
    assert report.tensors == len(part)
    assert len(report.left_out) == len(state) - len(part)
    assert loaded[next(iter(loaded))].data_ptr() != next(iter(part.values())).data_ptr()


def test_sizes_are_read_and_the_rest_is_declared():
    head = load_published("aunet_head", head_state(n_aus=5), alpha=0.25, differences="paper")
    assert (head.classifier[-1].out_features, head.alpha, head.beta, head.differences) == (5, 0.25, 0.1, "paper")
    assert load_published("aunet_head", head_state()).alpha == 0.9
    vae = load_published("label_vae", vae_state())
    assert vae.encode(torch.zeros(2, 8))[0].shape == (2, 6)
    with pytest.raises(ModelError, match=r"predictor.3.weight \(5, 4\) instead of \(12, 4\)"):
        load_published("aunet_head", head_state(n_aus=5), n_aus=12)


def test_a_file_is_read_safely_and_reported(tmp_path, caplog):
    path = tmp_path / "2dfan2.pth"
    torch.save({"state_dict": under("module.", fan_state())}, path)
    with caplog.at_level(logging.INFO, logger="lightning_modules.published"):
        _, report = load_with_report("fan", path, **SMALL)
    assert report.sha == hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    assert report.source == str(path)
    assert str(report) in caplog.text
    assert "pool=max as declared" in str(report)
    torch.save({"weights": Path("not a tensor")}, path)
    with pytest.raises(ModelError, match="not a file of tensors"):
        load_published("fan", path)
    path.write_bytes(b"broken")
    with pytest.raises(ModelError, match="not a file of tensors"):
        load_published("fan", path)
    with pytest.raises(ModelError, match="no such file"):
        load_published("fan", tmp_path / "missing.pth")
    with pytest.raises(ModelError, match="holds no state dict"):
        load_published("fan", {"epoch": 3})


def test_an_unknown_kind_is_refused_with_the_list():
    with pytest.raises(ModelError, match="'fan4'") as fault:
        load_published("fan4", {})
    for kind in ("fan", "aufan_head", "aunet_head", "label_vae"):
        assert kind in fault.value.remedy


# --- by position ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "build"), [("aunet_head", AUNetHead), ("aufan_head", AUFANHead)])
@pytest.mark.parametrize("names", ["{i}", "net.{i}.{ending}"])
def test_a_head_under_foreign_names_is_told_by_position(kind, build, names):
    state = head_state(build)
    foreign = {
        names.format(i=i, ending=key.rpartition(".")[2]): tensor for i, (key, tensor) in enumerate(state.items())
    }
    network, report = load_with_report(kind, foreign)
    assert report.by == "position"
    torch.manual_seed(0)
    frames = torch.randn(3, 2, 12, 16, 16)[: 3 if build is AUNetHead else 1]
    torch.testing.assert_close(network(*frames), load_published(kind, state)(*frames))


def test_position_is_no_way_around_order_count_shapes_and_known_names():
    state = list(head_state().values())
    for tensors, message in (
        (state[:-1], "102 tensors of unknown names, not 103"),
        ([state[2], state[1], state[0], *state[3:]], r"has 0 \(8,\) in the place of conv1x1.weight"),
        ([*state[:4], state[0], *state[5:]], r"has 4 \(8, 12, 1, 1\) in the place of ConvNet_1.0.bn1.running_mean"),
        ([*state[:2], state[-3], *state[3:]], r"ConvNet_1.0.bn1.weight \(3,\) instead of \(8,\)"),
    ):
        with pytest.raises(ModelError, match=message):
            load_published("aunet_head", {str(i): tensor for i, tensor in enumerate(tensors)})
    endings = [key.rpartition(".")[2] for key in head_state()]
    endings[3], endings[2] = endings[2], endings[3]
    with pytest.raises(ModelError, match=r"has 2.bias \(8,\) in the place of ConvNet_1.0.bn1.weight"):
        load_published("aunet_head", {f"{i}.{end}": x for i, (end, x) in enumerate(zip(endings, state, strict=True))})
    for kind in ("fan", "label_vae"):  # published by key
        with pytest.raises(ModelError, match="has other tensors"):
            load_published(kind, {str(i): x for i, x in enumerate(vae_state().values())})
    with pytest.raises(ModelError) as fault:
        load_published("aufan_head", fan_state())
    assert "kind fan" in fault.value.remedy


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_missing_and_superfluous_tensors_are_listed():
    state = fan_state()
    del state["m1.b2_plus_1.conv2.weight"], state["al0.bias"]
    state["m1.b4_1.conv2.weight"] = torch.zeros(2)
    with pytest.raises(ModelError) as fault:
        load_published("fan", state, **SMALL)
    for name in ("m1.b2_plus_1.conv2.weight", "al0.bias", "m1.b4_1.conv2.weight"):
        assert name in str(fault.value)
    state = head_state()
    del state["predictor.3.bias"]
    with pytest.raises(ModelError, match=r"lacks predictor\.3\.bias"):
        load_published("aunet_head", state)
    with pytest.raises(ModelError, match=r"has more than this network: l2\.bias$"):
        load_published("fan", fan_state() | {"l2.bias": torch.zeros(5)}, **SMALL)
    with pytest.raises(ModelError, match=r"l0\.bias"):  # beside the fan.l0.bias that belongs
        load_published("fan", under("fan.", fan_state()) | {"l0.bias": torch.zeros(5)}, **SMALL)
    with pytest.raises(ModelError, match="optimizer"):
        load_published("fan", whole(head_state()) | {"optimizer.step": torch.zeros(1)}, **SMALL)


@pytest.mark.parametrize(
    ("kind", "state", "named"),
    [
        ("aunet_head", head_state(AUFANHead), "aufan_head"),
        ("aufan_head", head_state(AUNetHead), "aunet_head"),
        ("aufan_head", whole(head_state(AUNetHead)), "aunet_head"),
        ("label_vae", whole(head_state(AUNetHead)), "aunet_head"),
        ("fan", vae_state(), "label_vae"),
    ],
)
def test_a_file_of_another_kind_is_refused_by_name(kind, state, named):
    with pytest.raises(ModelError) as fault:
        load_published(kind, state)
    assert named in fault.value.remedy


def emonet_state() -> dict[str, Tensor]:
    """EmoNet's tensors: FAN's, and a head like AU-FAN's under names of its own."""
    names = {"conv1x1.": "conv1x1_input_emo_2.", "ConvNet.": "emo_net_2.", "predictor.": "emo_fc_2."}
    head = {}
    for key, tensor in head_state(AUFANHead, 10).items():
        own = next(own for own in names if key.startswith(own))
        head[names[own] + key.removeprefix(own)] = tensor
    return fan_state() | head


def test_emonet_gives_its_fan_and_no_head():
    state = emonet_state()
    network, report = load_with_report("fan", state, **SMALL)
    assert len(report.left_out) == 83
    assert "left out (conv1x1_input_emo_2.weight, ...)" in str(report)
    image = torch.rand(1, 3, 32, 32)
    reference = load_published("fan", fan_state(), **SMALL)
    reference.load_state_dict(network.state_dict())
    torch.testing.assert_close(network(image).feature, reference(image).feature)
    for kind in ("aufan_head", "aunet_head"):
        with pytest.raises(ModelError) as fault:
            load_published(kind, state)
        assert "EmoNet" in fault.value.remedy
        assert "expressions" in fault.value.remedy


def test_a_four_stack_fan_is_refused_with_the_reason_and_loads_as_what_it_is():
    state = fan_state(stacks=4, pool="avg")
    with pytest.raises(ModelError, match=r"state dict: .*4 stacks, not of 2.*pools by the mean") as fault:
        load_published("fan", state, **SMALL)
    assert 'stacks=4 (pool="avg"' in fault.value.remedy
    network = load_published("fan", state, stacks=4, pool="avg", **SMALL)
    assert len(network.stacks) == 4
    assert network.pool == "avg"


def test_a_wrong_pooling_is_refused_where_the_statistics_tell_it():
    torch.manual_seed(0)
    trained = FAN(pool="avg", **SMALL).train()
    with torch.no_grad():
        trained(torch.rand(4, 3, 64, 64))
    keys = fan_keys(trained)
    state = {keys[own]: tensor for own, tensor in trained.state_dict().items()}
    with pytest.raises(ModelError, match="trained with avg pooling, not max"):
        load_published("fan", state, **SMALL)
    _, report = load_with_report("fan", state, pool="avg", **SMALL)
    assert "confirm" in str(report)
