import numpy as np
import pytest
import torch

from lightning_modules.common.backbones import create_backbone
from lightning_modules.common.errors import ModelError
from lightning_modules.emotiram_fau.fau_network import FAU, point_intensity
from lightning_modules.emotiram_fau.megraph_network import MEGraph
from lightning_modules.emotiram_fau.released import fau_keys, megraph_keys, recognise
from lightning_modules.published import load_published, load_with_report

KEYS = {"megraph_anfl": megraph_keys, "megraph_mefl": megraph_keys, "fau_heatmap": fau_keys}


def small(kind: str, n_aus: int = 3) -> dict[str, torch.Tensor]:
    """A small network's tensors under their published names."""
    backbone = create_backbone("resnet18", 0.125)
    network = FAU(backbone, 2 * n_aus, 0.125) if kind == "fau_heatmap" else MEGraph(backbone, n_aus, kind[-4:], 2)
    keys = KEYS[kind](network)
    return {keys[own]: tensor for own, tensor in network.state_dict().items()}


def under(prefix: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + key: tensor for key, tensor in state.items()}


@pytest.mark.parametrize("kind", KEYS)
def test_names_and_shapes_are_the_releases(released_shapes, kind):
    with torch.device("meta"):
        network = FAU(create_backbone("resnet50"), 10) if kind == "fau_heatmap" else None
        network = network or MEGraph(create_backbone("resnet50"), 12, kind[-4:])
    keys = KEYS[kind](network)
    assert {keys[own]: list(tensor.shape) for own, tensor in network.state_dict().items()} == released_shapes[kind]


def test_megraph_computes_the_golden_similarities(fill, released_state, golden):
    arrays = golden("megraph")
    image = fill.fill_input("megraph.image", (3, 3, 224, 224), low=-2, high=2)
    anfl = load_published("megraph_anfl", under("module.", released_state("megraph_anfl")))
    mefl, report = load_with_report("megraph_mefl", {"epoch": 3, "state_dict": released_state("megraph_mefl")})
    with torch.no_grad():
        feature = anfl.backbone.forward_features(image).flatten(2).transpose(1, 2)[:, ::7, ::64]
        prob, (mefl_prob, edge) = anfl(image), mefl(image)
    np.testing.assert_allclose(prob.numpy(), arrays["anfl.prob"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(feature.numpy(), arrays["anfl.backbone"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(mefl_prob.numpy(), arrays["mefl.prob"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(edge.numpy(), arrays["mefl.edge"], rtol=0, atol=1e-4)  # to 14
    assert report.parameters == 31_666_132
    assert not mefl.training


def test_heatmaps_are_the_golden_ones(fill, released_state, golden):
    arrays = golden("fau")
    network, report = load_with_report("fau_heatmap", released_state("fau_heatmap"))
    with torch.no_grad():
        maps = network(fill.fill_input("fau.image", (3, 3, 96, 96)))
    np.testing.assert_allclose(maps.numpy(), arrays["fau.heatmaps"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(point_intensity(maps).numpy(), arrays["fau.intensity"], rtol=0, atol=1e-7)
    assert report.parameters == 33_997_898


@pytest.mark.parametrize(
    ("stage", "n_aus", "parameters"),
    [("anfl", 8, 27_197_008), ("anfl", 12, 28_253_784), ("mefl", 8, 30_608_868), ("mefl", 12, 31_666_132)],
)
def test_megraph_has_the_published_number_of_parameters(stage, n_aus, parameters):
    with torch.device("meta"):
        network = MEGraph(create_backbone("resnet50"), n_aus, stage)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


@pytest.mark.parametrize("kind", KEYS)
def test_what_a_file_lacks_or_has_too_much_is_named(kind):
    state = small(kind)
    lost = next(key for key in state if key.endswith("conv2.weight"))
    for broken, message in (
        ({key: x for key, x in state.items() if key != lost}, f"lacks .*{lost}"),
        (state | {"epoch_of_what": torch.zeros(1)}, "has more than this network: .*epoch_of_what"),
        (state, r"layer1.0.downsample.0.weight"),  # an eighth of the width joins its blocks by convolutions
    ):
        with pytest.raises(ModelError, match=message):
            load_published(kind, broken, backbone="resnet18")


def test_another_number_of_aus_than_declared_is_refused():
    with pytest.raises(ModelError, match=r"lacks head.class_linears.3.fc.weight"):
        load_published("megraph_mefl", small("megraph_mefl"), backbone="resnet18", n_aus=4)


@pytest.mark.parametrize("asked", KEYS)
@pytest.mark.parametrize("given", KEYS)
def test_the_wrong_kind_says_which_one_the_file_is(asked, given):
    if asked == given:
        assert given in recognise(small(given))
        return
    with pytest.raises(ModelError, match=f"not {asked}") as fault:
        load_published(asked, small(given))
    assert f"kind {given}" in fault.value.remedy


def test_opengraphau_is_told_apart():
    assert "OpenGraphAU" in recognise(["backbone.conv1.weight", "head.main_class_linears.0.fc.weight", "head.sc"])
    assert recognise(["layer1.0.conv1.weight"]) is None
