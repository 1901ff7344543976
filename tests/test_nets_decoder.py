"""The decoder and the encoder before it against lightly's masked autoencoder, with the same weights."""

import copy

import pytest
import timm
import torch
from lightly.models.modules import MaskedVisionTransformerTIMM
from lightly.models.modules.masked_vision_transformer_decoder_timm import MaskedVisionTransformerDecoderTIMM
from lightly.models.utils import set_at_index
from torch import Tensor, nn

from benchmark.config import load as configuration
from benchmark.errors import ConfigError
from benchmark.nets.decoder import PixelDecoder
from benchmark.nets.encoders import Features, ViT
from benchmark.nets.masking import visible_tokens
from benchmark.nets.resnet import ResNet


@pytest.fixture
def autoencoder() -> tuple[ViT, PixelDecoder]:
    torch.manual_seed(0)
    encoder = ViT(16, name="vit", width=24, depth=2, heads=3, patch=4)
    decoder = PixelDecoder(encoder, width=16, depth=2, heads=2)
    for parameter in [*encoder.parameters(), *decoder.parameters()]:
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn_like(parameter)
    return encoder, decoder


@pytest.fixture
def visible() -> Tensor:
    return visible_tokens(torch.rand(3, 16, generator=torch.Generator().manual_seed(0)), 0.75)


class LightlyAutoencoder(nn.Module):
    """Lightly's masked encoder and decoder, with copies of our weights; its layers around the decoder are torch's."""

    def __init__(self, encoder: ViT, decoder: PixelDecoder) -> None:
        super().__init__()
        shape = {name: value for name, value in encoder.spec.arguments.items() if name != "global_pool"}
        self.encoder = MaskedVisionTransformerTIMM(vit=timm.create_model("vit_tiny_patch16_224", **shape))
        block = decoder.blocks[0]
        self.decoder = MaskedVisionTransformerDecoderTIMM(
            num_patches=decoder.n_tokens,
            embed_dim=decoder.norm.normalized_shape[0],
            depth=len(decoder.blocks),
            num_heads=block.attn.num_heads,
        )
        self.embed, self.predict = copy.deepcopy(decoder.embed), copy.deepcopy(decoder.predict)
        self.to(decoder.predict.weight.dtype)
        self.encoder.vit.load_state_dict(encoder.net.state_dict())
        outside = ("embed.", "predict.")
        weights = {k: v for k, v in decoder.state_dict().items() if not k.startswith(outside)}
        weights["pos_embed"] = weights.pop("positions")
        self.decoder.load_state_dict(weights, strict=True)

    def forward(self, view: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
        """Return the encoded tokens and the predicted patches; lightly's ids count the class token."""
        keep = torch.cat([torch.zeros(len(visible), 1, dtype=torch.long), visible + 1], dim=1)
        latent = self.encoder.encode(view, idx_keep=keep)
        tokens = self.decoder.mask_token.repeat(len(view), self.decoder.sequence_length, 1)
        tokens = set_at_index(tokens, keep, self.embed(latent))
        return latent, self.predict(self.decoder(tokens))[:, 1:]


def test_autoencoder_equals_lightly(autoencoder: tuple[ViT, PixelDecoder], visible: Tensor) -> None:
    """Oracle: lightly's masked encoder and decoder, written by others, with our weights under their names."""
    encoder, decoder = (part.double() for part in autoencoder)
    view = torch.randn(3, 3, 16, 16).double()
    features = encoder(view, visible)
    latent, predicted = LightlyAutoencoder(encoder, decoder)(view, visible)
    torch.testing.assert_close(torch.cat([features.pooled[:, None], features.tokens], 1), latent, rtol=0, atol=1e-12)
    torch.testing.assert_close(decoder(features), predicted, rtol=0, atol=1e-12)
    assert predicted.shape == (3, 16, 48)


def test_places_do_not_depend_on_the_order_of_ids(autoencoder: tuple[ViT, PixelDecoder], visible: Tensor) -> None:
    """Oracle: the same prediction when tokens and ids are shuffled together, another one when tokens alone are."""
    encoder, decoder = autoencoder
    features = encoder(torch.randn(3, 3, 16, 16), visible)
    order = torch.tensor([2, 0, 3, 1])
    expected = decoder(features)
    shuffled = decoder(Features(features.pooled, features.tokens[:, order], visible[:, order]))
    misplaced = decoder(Features(features.pooled, features.tokens[:, order], visible))
    torch.testing.assert_close(shuffled, expected, rtol=0, atol=1e-6)
    assert (misplaced - expected).abs().max() > 1e-3


def test_without_mask_all_tokens_are_decoded(autoencoder: tuple[ViT, PixelDecoder]) -> None:
    """Oracle: all ids in order, spelled out; then the mask token has no part in the output."""
    encoder, decoder = autoencoder
    view = torch.randn(3, 3, 16, 16)
    decoded = decoder(encoder(view))
    torch.testing.assert_close(decoder(encoder(view, torch.arange(16).expand(3, -1))), decoded, rtol=0, atol=1e-6)
    decoded.sum().backward()
    assert decoder.mask_token.grad is None


def test_masked_patches_send_a_gradient_to_the_encoder(autoencoder: tuple[ViT, PixelDecoder], visible: Tensor) -> None:
    """Oracle: the reason why blocks are required: masked places alone must reach tokens, class token and mask token."""
    encoder, decoder = autoencoder
    features = encoder(torch.randn(3, 3, 16, 16), visible)
    masked = torch.ones(3, 16, dtype=torch.bool).scatter(1, visible, False)
    inputs = (features.pooled, features.tokens, decoder.mask_token)
    for gradient in torch.autograd.grad(decoder(features)[masked].square().sum(), inputs):
        assert float(gradient.abs().max()) > 1e-3


def test_decoder_keeps_its_own_from_the_encoder(autoencoder: tuple[ViT, PixelDecoder]) -> None:
    """Oracle: the exported state is that of timm's network; mask token and positions of the decoder are not in it."""
    encoder, decoder = autoencoder
    assert not any("mask_token" in name for name in encoder.state_dict())
    held = {id(p) for p in encoder.parameters()}
    assert held.isdisjoint(id(p) for p in decoder.parameters())
    assert [name for name, p in decoder.named_parameters() if not p.requires_grad] == ["positions"]


def test_prediction_at_initialisation_has_its_closed_form() -> None:
    """Oracle: variance 2 w / (w + 3 p^2) of a Xavier-uniform layer on normalised inputs of width w."""
    torch.manual_seed(0)
    encoder = ViT(32, name="vit", width=24, depth=1, heads=3, patch=4)
    decoder = PixelDecoder(encoder, width=192, depth=1, heads=3)
    predicted = decoder.predict(decoder.norm(torch.randn(4096, 192)))
    assert predicted.var().item() == pytest.approx(2 * 192 / (192 + 48), rel=0.1)


def test_impossible_decoders_are_refused(autoencoder: tuple[ViT, PixelDecoder]) -> None:
    """Oracle: the messages say what is missing: blocks that mix tokens, heads that divide, an encoder with tokens."""
    with pytest.raises(ConfigError, match=r"PixelDecoder\.depth expected int of at least 1"):
        configuration.load(["gin/mae.gin"], ("PixelDecoder.depth=0",))
    with pytest.raises(ConfigError, match=r"PixelDecoder\.heads = 3"):
        PixelDecoder(autoencoder[0], width=16, depth=1, heads=3)
    with pytest.raises(ConfigError, match="Use a ViT"):
        PixelDecoder(ResNet(16, name="resnet18"), width=16, depth=1, heads=2)
