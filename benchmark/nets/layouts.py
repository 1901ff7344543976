"""Where each project keeps the weights of an encoder, and by which names.

`encoder.net` has timm's names. A layout says what to cut and rename in a file to get them. Weights show neither the
number of attention heads nor a stride, a padding, a pooling or the inputs: a layout states them where its project fixes
them, the rest the user has to match. From every key `_orig_mod.` is cut before, which torch.compile puts there. This is
the one file of the harness that names methods and others' projects.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from benchmark.nets.encoders import Statistics

IMAGENET: Statistics = IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

TORCHVISION_VIT = (
    (r"^conv_proj\.", "patch_embed.proj."),
    (r"^class_token$", "cls_token"),
    (r"^encoder\.pos_embedding$", "pos_embed"),
    (r"^encoder\.ln\.", "norm."),
    (r"^encoder\.layers\.encoder_layer_(\d+)\.ln_", r"blocks.\1.norm"),
    (r"^encoder\.layers\.encoder_layer_(\d+)\.", r"blocks.\1."),
    (r"\.self_attention\.in_proj_", ".attn.qkv."),
    (r"\.self_attention\.out_proj\.", ".attn.proj."),
    (r"\.mlp\.(0|linear_1)\.", ".mlp.fc1."),
    (r"\.mlp\.(3|linear_2)\.", ".mlp.fc2."),
)

SEQUENTIAL_RESNET = (  # the children of torchvision's network by number: 2 and 3 are an activation and a pooling
    (r"^0\.", "conv1."),
    (r"^1\.", "bn1."),
    (r"^([4-7])\.", lambda number: f"layer{int(number[1]) - 3}."),
)


POOLED = "class token, or global average"
WIDE_HEADS = {768: 12, 1024: 16, 1280: 16}  # ViT-B, -L and -H (Dosovitskiy et al. 2021, Table 1)


@dataclass(frozen=True)
class Layout:
    """How one project writes an encoder, and what of it keys and shapes do not show.

    `within`: the entries of the file that may hold its weights, None for the file itself; the first one that does is
    read. `prefix`: a pattern with which every key of the encoder begins. `beside`: beginnings of the keys without it
    that are known not to belong to the encoder. `renames`: patterns and replacements that turn the rest of a key into
    timm's name. `dropped`: beginnings of such names that are in the file beside the encoder's.

    `statistics`: mean and deviation of the inputs that the project's weights expect, of most projects ImageNet's; None
    where they are the data set's own. `pooled`: what `Features.pooled` is; a class token is taken after the final norm.
    `padding`: of the 3x3 convolution by which the project replaces the stem of a residual network for small images,
    without a max pooling; None where it has none, and ours keeps its 1. The 7x7 stem is padded by 3 everywhere.
    `heads`: attention heads by width, where all ViTs of the project have as many. `remark`: which copy of the weights
    is read, and how the project's own evaluation differs. Batch norms use the file's running statistics everywhere, as
    the projects do where they evaluate frozen features. docs/reference.md says the same to users.
    """

    within: tuple[str | None, ...]
    prefix: str = ""
    beside: tuple[str, ...] = ()
    renames: tuple[tuple[str, Any], ...] = ()
    dropped: tuple[str, ...] = ()
    statistics: Statistics | None = IMAGENET
    pooled: str = POOLED
    padding: int | None = None
    heads: Mapping[int, int] = field(default_factory=dict)
    remark: str = ""


LAYOUTS = {
    "run": Layout((None,), statistics=None, remark="the encoder of a run of this benchmark"),
    "timm": Layout(
        (None, "state_dict_ema", "model_ema", "state_dict", "model"),
        r"(module\.|model\.)?",
        dropped=("head.", "fc.", "classifier."),
        statistics=None,
        pooled=f"{POOLED}; with `@Timm` what its classifier reads",
        remark="averaged weights before plain ones, as timm loads them; `Timm.pretrained=True` knows the inputs; also "
        "a Lightning module's `model.`",
    ),
    "mae": Layout(
        ("model",),
        dropped=("decoder_", "mask_token", "head."),
        pooled="class token",
        heads=WIDE_HEADS,
        remark="its linear probe reads the class token, its fine-tuning a new norm of the mean of the patch tokens",
    ),
    "moco_v3": Layout(
        ("state_dict",),
        r"module\.base_encoder\.",
        beside=("module.momentum_encoder.", "module.predictor."),
        dropped=("head.", "fc."),
        heads={384: 12} | WIDE_HEADS,
        remark="the base encoder, not the momentum encoder",
    ),
    "moco": Layout(
        ("state_dict",),
        r"(module\.)?encoder_q\.",
        beside=("module.encoder_k.", "module.queue", "encoder_k.", "queue"),
        dropped=("fc.",),
        pooled="global average",
        remark="the query encoder, not the key encoder",
    ),
    "simsiam": Layout(
        ("state_dict",),
        r"module\.encoder\.",
        beside=("module.predictor.",),
        dropped=("fc.",),
        pooled="global average",
        remark="the encoder without its projector",
    ),
    "barlow_twins": Layout(
        ("model", None),
        r"(module\.backbone\.)?",
        dropped=("module.projector.", "module.bn.", "fc."),
        pooled="global average",
        remark="`checkpoint.pth`, or `resnet50.pth`, which has the encoder alone",
    ),
    "swav": Layout(
        ("state_dict", None),
        r"module\.",
        dropped=("projection_head.", "prototypes."),
        pooled="global average",
        remark="the encoder without its projector and prototypes",
    ),
    "ijepa": Layout(
        ("target_encoder",),
        r"module\.",
        pooled="mean of the patch tokens, since it has no class token",
        remark="the target encoder; it has no class token, so that it takes a network such as "
        "`Timm.name=vit_huge_patch14_gap_224`",
    ),
    "dino": Layout(
        ("teacher", None),
        r"(module\.)?(backbone\.)?",
        dropped=("head.",),
        heads={192: 3, 384: 6, 768: 12},
        remark="the teacher; its linear evaluation joins the class tokens of the last 4 blocks (ViT-S), or the class "
        "token and the mean of the patch tokens (ViT-B)",
    ),
    "solo_learn": Layout(
        ("state_dict",),
        r"backbone\.",
        beside=("",),
        statistics=None,
        padding=2,
        heads={768: 12, 1024: 16},
        remark="the online network; trained on CIFAR with its own inputs, on STL-10 with CIFAR-10's, else with "
        "ImageNet's; 12 heads at widths 192 and 384 in its MAE and MoCo v3, else 3 and 6",
    ),
    "lightly": Layout(
        ("state_dict", None),
        r"backbone\.(vit\.)?",
        beside=("",),
        renames=TORCHVISION_VIT + SEQUENTIAL_RESNET,
        dropped=("mask_token", "head.", "heads.", "fc."),
        remark="the network named `backbone`; its transforms have ImageNet's inputs by default, for CIFAR too",
    ),
    "torchvision": Layout(
        (None, "model"),
        renames=TORCHVISION_VIT,
        dropped=("heads.", "fc."),
        heads=WIDE_HEADS,
        remark="plain weights, not `model_ema`",
    ),
}
"""By name, the layouts that can be read. `run` is the encoder.safetensors of a run of this benchmark."""
