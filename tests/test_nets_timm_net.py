"""Encoders by timm's names, against timm's own forward and our ViT."""

from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor

from benchmark.errors import ConfigError, MissingError
from benchmark.nets.encoders import TimmSpec, ViT
from benchmark.nets.timm_net import Timm

NARROW = "vit_tiny_patch16_224"


def images(size: int, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0))


def twin(encoder: Timm, **settings: object) -> torch.nn.Module:
    """timm's own network with the encoder's weights."""
    net = timm.create_model(encoder.name, num_classes=0, **settings)
    net.load_state_dict(encoder.net.state_dict())
    return net.eval()


def test_vit_equals_ours() -> None:
    """Oracle: our ViT with the same weights: class token and patch tokens, both after the final norm."""
    theirs, ours = Timm(32, name=NARROW).eval(), ViT(32, name="vit", width=192, depth=12, heads=3, patch=16)
    ours.net.load_state_dict(theirs.net.state_dict())
    expected, features = ours.eval()(images(32)), theirs(images(32))
    assert torch.equal(features.pooled, expected.pooled)
    assert torch.equal(features.tokens, expected.tokens)
    assert features.tokens.shape == (2, 4, 192)
    assert theirs.width == 192
    assert (theirs.n_tokens, theirs.patch, theirs.stem, theirs.image_size) == (None, None, None, 32)


def test_tokens_leave_out_every_other_token() -> None:
    """Oracle: arithmetic: a distilled ViT precedes its 4 patches by a class and a distillation token."""
    encoder = Timm(32, name="deit_tiny_distilled_patch16_224").eval()
    features = twin(encoder, img_size=32).forward_features(images(32))
    assert features.shape == (2, 6, 192)
    assert torch.equal(encoder(images(32)).tokens, features[:, 2:])


@pytest.mark.parametrize(
    ("name", "width"), [("resnet18", 512), ("mobilenetv3_small_050", 1024), ("convnext_atto", 320)]
)
def test_convolutional_networks(name: str, width: int) -> None:
    """Oracle: timm's network without classifier, and widths of its logits' inputs: 1024 is not its `num_features`."""
    encoder = Timm(32, name=name).eval()
    features = encoder(images(32))
    assert torch.equal(features.pooled, twin(encoder)(images(32)))
    assert features.tokens is None
    assert encoder.width == width == timm.create_model(name).get_classifier().in_features


def test_images_of_a_swin_have_no_list_of_tokens() -> None:
    """Oracle: timm's network, whose map of features is not a sequence; its windows follow the image size."""
    encoder = Timm(64, name="swin_tiny_patch4_window7_224").eval()
    features = encoder(images(64))
    assert features.tokens is None
    assert features.pooled.shape == (2, encoder.width)


def test_building_leaves_the_network_as_built() -> None:
    """Oracle: timm's network from the same seed: no weight, statistic or mode is changed by measuring the width."""
    torch.manual_seed(3)
    expected = timm.create_model("resnet18", num_classes=0)
    after = torch.rand(3)
    torch.manual_seed(3)
    encoder = Timm(32, name="resnet18")
    assert torch.equal(torch.rand(3), after)
    assert all(part.training for part in encoder.modules())
    assert all(
        torch.equal(a, b)
        for a, b in zip(encoder.net.state_dict().values(), expected.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("resnet18", {"num_classes": 0}), (NARROW + ".augreg_in21k", {"num_classes": 0, "img_size": 32})],
)
def test_spec(name: str, arguments: dict[str, int]) -> None:
    """Oracle: timm's network from the spec, which takes the encoder's weights strictly."""
    encoder = Timm(32, name=name)
    assert encoder.spec == TimmSpec(name.partition(".")[0], arguments)
    timm.create_model(encoder.spec.architecture, **arguments).load_state_dict(encoder.net.state_dict())


@pytest.mark.parametrize("name", ["resnet18", NARROW])
def test_masking_is_refused(name: str) -> None:
    """Oracle: the refusal that a residual network makes."""
    encoder, ids = Timm(32, name=name), torch.zeros(2, 1, dtype=torch.long)
    for arguments in ({"visible": ids}, {"fill": (torch.zeros(2, 4), torch.zeros(192))}):
        with pytest.raises(ConfigError, match="neither drop nor replace"):
            encoder(images(32), **arguments)
    with pytest.raises(ConfigError, match=name):
        encoder.patch_grid()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("resnet81", "Did you mean resnet18"),
        ("local-dir:somewhere", "no such network"),
        ("resnet18.nonsense", "nonsense"),
        ("vit_tiny_patch16_224.augreg_in21k", None),
    ],
)
def test_names(name: str, says: str | None) -> None:
    """Oracle: timm's registry by hand: a near name, a folder, a tag that is not there, a tag that is."""
    if says is None:
        assert Timm(32, name=name).name == name
        return
    with pytest.raises(ConfigError, match=says):
        Timm(32, name=name)


def test_an_impossible_size_is_refused() -> None:
    """Oracle: an image smaller than the windows that this network was built for."""
    with pytest.raises(ConfigError, match=r"Timm.name = 'coatnet_0_rw_224'.* 8 px"):
        Timm(8, name="coatnet_0_rw_224")


def test_published_statistics(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Oracle: the means by hand: 0.5 for this ViT; weights from a file of the test in place of a download."""
    assert Timm(32, name=NARROW).statistics is None
    source = timm.create_model(NARROW)
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    load = "timm.models._builder.load_state_dict_from_hf"
    monkeypatch.setattr(load, lambda *_, **__: torch.load(tmp_path / "weights.pth", weights_only=True))
    encoder = Timm(224, name=NARROW, pretrained=True)
    assert encoder.statistics == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert torch.equal(encoder.net.pos_embed, source.pos_embed)


def test_weights_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: a hub that cannot be reached."""

    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("no route.")

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", fail)
    with pytest.raises(MissingError, match=r"resnet18 cannot be fetched: no route. Run once"):
        Timm(32, name="resnet18", pretrained=True)


def test_the_image_size_of_a_network_is_named() -> None:
    """Oracle: timm's own configuration: this network is made for 224 px and takes no 15."""
    with pytest.raises(ConfigError, match=r"It was made for images of --set Images\.size=224"):
        Timm(15, name="vit_tiny_patch16_224")


@pytest.mark.parametrize(
    ("name", "size", "sizes"),
    [
        (NARROW, 40, "32 or 48"),
        ("convnext_atto", 48, "32 or 64"),  # its last of four stages would see 2 of 3 rows
        ("eva02_tiny_patch14_224", 32, "28 or 42"),
    ],
)
def test_a_border_that_would_be_left_out_is_refused(name: str, size: int, sizes: str) -> None:
    """Oracle: arithmetic by hand: patches of 16, 4 x 2 x 2 x 2 and 14 px; at a size that is named each pixel counts."""
    with pytest.raises(ConfigError, match=rf"leave the rest of the image out.*Images\.size={sizes}$"):
        Timm(size, name=name)
    encoder = Timm(int(sizes.split()[0]), name=name).eval()
    view = images(encoder.image_size).requires_grad_()
    features = encoder(view).pooled
    (features * torch.randn(features.shape)).sum().backward()
    assert (view.grad.abs().sum((0, 1)) > 0).all()


def test_a_network_is_taken_at_its_own_size() -> None:
    """Oracle: timm's configuration: 384 px in patches of 14, which its authors evaluate; 370 px are nobody's."""
    with torch.device("meta"):
        assert Timm(384, name="vit_so400m_patch14_siglip_384").image_size == 384
        with pytest.raises(ConfigError, match=r"Images\.size=364 or 378"):
            Timm(370, name="vit_so400m_patch14_siglip_384")


def test_a_network_that_can_be_resized_is_and_says_so() -> None:
    """Oracle: a network of that size with the same convolutions; biases of attention have the shapes of its own."""
    network, built = Timm(224, name="efficientvit_m0").eval(), Timm(160, name="efficientvit_m0")
    network.resize(160)
    assert (network.positions, network.net.training) == ("224 px to 160 px", False)
    assert [each.shape for each in network.net.parameters()] == [each.shape for each in built.net.parameters()]


@pytest.mark.parametrize("size", [256, 448])
def test_each_stage_keeps_its_windows(size: int) -> None:
    """Oracle: a network that is built for the new size; this one has 7, 7, 14 and 7 places."""
    with torch.device("meta"):
        network, built = Timm(224, name="swin_s3_tiny_224"), Timm(size, name="swin_s3_tiny_224")
        network.resize(size)
    windows = [[block.window_size for stage in each.net.layers for block in stage.blocks] for each in (network, built)]
    assert windows[0] == windows[1]
    assert network.positions is None


@pytest.mark.parametrize("name", ["levit_128s", "mixer_s32_224"])
def test_a_network_of_one_size_is_refused_at_another(name: str) -> None:
    """Oracle: the size for which each was built; timm says why."""
    network = Timm(224, name=name)
    with pytest.raises(ConfigError, match=rf"{name} was built for images of 224 px and cannot take 160 px: .*=224"):
        network.resize(160)


def test_a_network_that_pads_takes_any_size() -> None:
    """Oracle: networks without patches, and one whose patches thin out the keys of attention alone."""
    for name, size in (("resnet18", 33), ("pvt_v2_b0", 50)):
        assert Timm(size, name=name).image_size == size


@pytest.mark.parametrize(
    ("name", "size", "widths"),
    [
        ("test_vit", 160, [64, 64]),
        ("test_vit3", 160, [96, 96]),  # pools by attention: each block as if it were the last
        ("eva02_tiny_patch14_224", 224, [192, 192]),
        ("test_efficientnet", 32, [48, 256]),
        ("test_convnext", 32, [48, 64]),
    ],
)
def test_last_layers(name: str, size: int, widths: list[int]) -> None:
    """Oracle: the widths that timm states, and the encoder's own output as the last of them."""
    torch.manual_seed(0)
    encoder, view = Timm(size, name=name).eval(), torch.randn(2, 3, size, size)
    with torch.no_grad():
        layers, whole = encoder.last(view, 2), encoder(view)
    assert [layer.pooled.shape[1] for layer in layers] == widths
    torch.testing.assert_close(layers[-1].pooled, whole.pooled)
    assert not layers[0].pooled.isnan().any()
    for layer in layers if whole.tokens is not None else ():
        assert layer.tokens is not None
        assert layer.tokens.shape == whole.tokens.shape


def test_blocks_without_their_class_tokens_are_refused() -> None:
    """Oracle: XCiT, whose class token joins after the blocks: the message names it and what is possible."""
    with pytest.raises(ConfigError, match=r"last 2 layers of xcit_nano_12_p16_224 cannot be had.*a ViT or a ResNet"):
        Timm(224, name="xcit_nano_12_p16_224").last(torch.zeros(1, 3, 224, 224), 2)
