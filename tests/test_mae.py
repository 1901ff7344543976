"""MAE against lightly, against a mask by hand, and against the container that contains it."""

from functools import partial

import pytest
import torch
from lightly.models.utils import normalize_mean_var, patchify
from nets16 import BATCH, resnet, views, vit
from test_nets_decoder import lightly_forward
from torch import Tensor

from baselines.mae import MAE
from baselines.mrcl import MRCL
from benchmark.errors import ConfigError
from benchmark.method import Draws, Method
from benchmark.nets.decoder import PixelDecoder
from benchmark.nets.encoders import Encoder, ViT

DECODER = partial(PixelDecoder, width=16, depth=2, heads=2)


def mae(ratio: float = 0.75, encoder: Encoder | None = None) -> MAE:
    encoder = encoder or ViT(16, name="vit", width=24, depth=2, heads=3, patch=4)
    torch.manual_seed(1)
    return MAE(encoder, decoder=DECODER, mask_ratio=ratio)


def train(method: Method) -> list[Tensor]:
    optimiser = torch.optim.AdamW(method.parameters(), lr=1e-2)
    losses = []
    for t in range(3):
        step = method(views(t, torch.float32)[:1], Draws(0, t, BATCH))
        step.loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(step.loss.detach())
    return losses


@pytest.mark.parametrize(("ratio", "count"), [(0.75, 4), (0.5, 8), (0.1, 14), (0.9375, 1)])
def test_loss_equals_lightly(ratio: float, count: int) -> None:
    """Oracle: lightly's encoder, decoder, patches and normalised targets, written by others, on the drawn ids."""
    torch.manual_seed(0)
    method = mae(ratio)
    view = views(dtype=torch.float32)[0]
    visible = Draws(0, 7, BATCH).rows(("mask", 0), 16).argsort(1)[:, :count]
    masked = torch.ones(BATCH, 16, dtype=torch.bool).scatter(1, visible, False)
    _, predicted = lightly_forward(method.encoder, method.restore.decoder, view, visible)
    expected = (predicted - normalize_mean_var(patchify(view, 4))).square()[masked].mean()
    torch.testing.assert_close(method([view], Draws(0, 7, BATCH)).loss, expected, rtol=1e-5, atol=0)


def test_loss_is_the_mean_over_masked_patches() -> None:
    """Oracle: (n - 1) / n for a decoder that predicts 0, n = 48 pixels; a flat image leaves 0."""
    method = mae()
    torch.nn.init.zeros_(method.restore.decoder.predict.weight)
    view = views(dtype=torch.float32)[0]
    assert float(method([view], Draws(0, 0, BATCH)).loss.detach()) == pytest.approx(47 / 48, rel=1e-4)
    assert float(method([torch.full_like(view, 0.3)], Draws(0, 0, BATCH)).loss.detach()) == pytest.approx(0, abs=1e-6)


def test_untrained_loss_is_one_and_the_variance_of_predictions() -> None:
    """Oracle: (n - 1) / n of independent targets + the predictions' mean square, for xavier 2 w / (w + n) = 0.5."""
    method = mae()
    given: list[Tensor] = []
    method.restore.decoder.register_forward_hook(lambda module, inputs, output: given.append(output.detach()))
    loss = float(method(views(dtype=torch.float32)[:1], Draws(0, 0, BATCH)).loss.detach())
    variance = float(given[0].square().mean())
    assert variance == pytest.approx(2 * 16 / (16 + 48), abs=0.1)
    assert loss == pytest.approx(47 / 48 + variance, abs=0.1)


@pytest.mark.parametrize(("ratio", "effective"), [(0.75, 12 / 16), (0.8, 13 / 16)])
def test_effective_ratio_is_recorded(ratio: float, effective: float) -> None:
    """Oracle: ceil(16 ratio) masked patches, by hand; what restores both views, and one, log the same."""
    drawn = views(dtype=torch.float32)[:1], Draws(0, 0, BATCH)
    assert float(mae(ratio=ratio)(*drawn).logs["mask_ratio"]) == effective
    alone = MRCL(vit(), base=None, decoder=DECODER, mask_ratio=ratio, masked_weight=1.0, visible_weight=0.0)
    assert float(alone(*drawn).logs["mask_ratio"]) == effective


def test_masks_differ_between_images_and_steps() -> None:
    """Oracle: the ids that the encoder is given: 4 of 16 for each image, no two images or steps alike."""
    method = mae()
    given: list[Tensor] = []
    method.encoder.register_forward_pre_hook(lambda module, inputs: given.append(inputs[1]))
    for t in range(2):
        method(views(dtype=torch.float32)[:1], Draws(0, t, BATCH))
    rows = {tuple(sorted(row)) for ids in given for row in ids.tolist()}
    assert {ids.shape for ids in given} == {(BATCH, 4)}
    assert len(rows) == 2 * BATCH


def test_it_is_its_container_without_a_base() -> None:
    """Oracle: the container with no base and weight 1 on masked patches: equal losses and weights, to the bit."""
    ours = mae(encoder=vit())
    encoder = vit()
    torch.manual_seed(1)
    theirs = MRCL(encoder, base=None, decoder=DECODER, mask_ratio=0.75, masked_weight=1.0, visible_weight=0.0)
    assert train(ours) == train(theirs)
    for module, other in ((ours.encoder, theirs.encoder), (ours.restore, theirs.restore)):
        for key, value in module.state_dict().items():
            assert torch.equal(other.state_dict()[key], value), key


def test_convolutional_encoders_are_refused() -> None:
    """Oracle: the message names the encoder, what it lacks, and both ways out."""
    with pytest.raises(
        ConfigError, match=r"subset of patches; got resnet18.*Use a ViT .*or a method without a decoder"
    ):
        mae(encoder=resnet())


@pytest.mark.parametrize(
    ("ratio", "message"), [(0.0, "masks no patch"), (1.0, "leaves no visible"), (0.95, "leaves no visible")]
)
def test_ratios_without_a_loss_or_without_input_are_refused(ratio: float, message: str) -> None:
    """Oracle: the message names the setting; with nothing masked the loss would be 0 for any weights."""
    with pytest.raises(ConfigError, match=rf"MAE\.mask_ratio = \S+ {message}"):
        mae(ratio)
