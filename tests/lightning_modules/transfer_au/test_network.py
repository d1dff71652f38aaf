import timm
import torch
from torch import nn

from lightning_modules.common.backbones import create_backbone
from lightning_modules.transfer_au.network import ExpressionNetwork, TransferNetwork


def images(n: int = 4) -> torch.Tensor:
    return torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8)


def test_the_published_sizes_are_2048_512_256_and_an_output_per_au():
    backbone = timm.create_model("resnet50", num_classes=0)
    network = TransferNetwork(backbone, 12, [512, 256], 0.5)
    sizes = [(layer.in_features, layer.out_features) for layer in network.modules() if isinstance(layer, nn.Linear)]
    assert sizes == [(2048, 512), (512, 256)]
    assert network.head.weight.shape == (12, 256, 1)
    rest = sum(p.numel() for p in network.parameters()) - sum(p.numel() for p in backbone.parameters())
    assert rest == 2048 * 512 + 512 + 512 * 256 + 256 + 256 * 12 + 12


def test_the_perceptron_is_torchs():
    network = TransferNetwork(create_backbone("resnet10t", 0.25), 3, [8, 5], 0.5).eval()
    first, second = (layer[0] for layer in network.hidden)
    image = images()
    feature = network.backbone(network.normalize(image))
    hidden = torch.relu(second(torch.relu(first(feature))))
    torch.testing.assert_close(network.features(image), hidden[:, None])
    expected = hidden @ network.head.weight[:, :, 0].T + network.head.bias[:, 0]
    torch.testing.assert_close(network(image), expected[..., None])
    network.outputs = [2, 0]
    torch.testing.assert_close(network(image), expected[:, [2, 0], None])


def test_dropout_follows_each_hidden_layer_in_training_alone():
    network = TransferNetwork(create_backbone("resnet10t", 0.25), 3, [64, 64], 0.5)
    assert [layer[2].p for layer in network.hidden] == [0.5, 0.5]
    layer = network.hidden[0].train()
    assert (layer(torch.ones(2, 128)) == 0).float().mean() > 0.5  # half by ReLU, half of the rest by dropout


def test_without_hidden_layers_it_is_a_linear_probe():
    network = TransferNetwork(create_backbone("resnet10t", 0.25), 3, [], 0.5).eval()
    image = images()
    feature = network.backbone(network.normalize(image))
    torch.testing.assert_close(network.features(image)[:, 0], feature)


def test_a_frozen_backbone_keeps_weights_and_statistics():
    network = TransferNetwork(create_backbone("resnet10t", 0.25), 3, [8, 5], 0.5, frozen=True).train()
    before = {name: value.clone() for name, value in network.backbone.state_dict().items()}
    network(images()).sum().backward()
    assert all(torch.equal(before[name], value) for name, value in network.backbone.state_dict().items())
    assert all(parameter.grad is None for parameter in network.backbone.parameters())
    assert network.hidden[0][0].weight.grad is not None
    assert network.hidden.training
    thawed = TransferNetwork(network.backbone, 3, [8, 5], 0.5).train()
    thawed(images()).sum().backward()
    assert all(parameter.grad is not None for parameter in thawed.backbone.parameters())


def test_expressions_are_a_linear_layer_on_the_backbone():
    network = ExpressionNetwork(create_backbone("resnet10t", 0.25), 6).eval()
    image = images()
    feature = network.backbone(network.normalize(image))
    torch.testing.assert_close(network(image), feature @ network.head.weight.T + network.head.bias)
