"""A transformer block of timm with the same parameters and fewer passes over memory.

In a narrow network on a processor, a product of `(tokens, 96)` by `(96, 384)` costs little more than a copy of its
result. So biases and residuals are added while a product is written, the gradient of the hidden layer takes the place
of that of its activations, and queries, keys and values are split where they lie: timm's order of axes costs a second
copy of their gradient. Values differ from timm's in the last bits.
"""

from collections.abc import Callable
from typing import Any

import torch
from timm.layers.attention import Attention as TimmAttention
from timm.layers.mlp import Mlp as TimmMlp
from timm.models.vision_transformer import Block as TimmBlock
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils.flop_counter import register_flop_formula

_cast = torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.bfloat16)  # under autocast, as for any product
_as_forward: Callable[[Callable[..., Any]], Callable[..., Any]] = torch.amp.custom_bwd(device_type="cpu")


class Attention(TimmAttention):
    """Attention over tokens `(batch, tokens, width)`, plus the residual."""

    def forward(  # type: ignore[override]  # no network here masks attention
        self, x: Tensor, residual: Tensor | None = None
    ) -> Tensor:
        qkv = linear(x, self.qkv.weight, self.qkv.bias).unflatten(2, (3, self.num_heads, self.head_dim))
        q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))
        if self.fused_attn:
            attended = F.scaled_dot_product_attention(q, k, v)
        else:
            attended = self.attn_drop((q * self.scale @ k.transpose(2, 3)).softmax(3)) @ v
        return _apply(_FusedLinear, attended.transpose(1, 2).flatten(2), self.proj.weight, self.proj.bias, residual)


class Mlp(TimmMlp):
    """W_2 gelu(W_1 x + b_1) + b_2, plus the residual."""

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        return _apply(_FusedMlp, x, self.fc1.weight, self.fc1.bias, self.fc2.weight, self.fc2.bias, residual)


class Block(TimmBlock):
    """x + drop_path(attention(norm(x))), then x + drop_path(mlp(norm(x))), on tokens `(batch, tokens, width)`."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options | {"attn_layer": Attention, "mlp_layer": Mlp})

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        x = _add(x, self.norm1, self.attn, self.drop_path1)
        return _add(x, self.norm2, self.mlp, self.drop_path2)


def _add(x: Tensor, norm: nn.Module, layer: nn.Module, drop_path: nn.Module) -> Tensor:
    """Return x + drop_path(layer(norm(x))). Under autocast x stays in float32, unlike the result of the layer."""
    if isinstance(drop_path, nn.Identity) and not torch.is_autocast_enabled("cpu"):
        fused: Tensor = layer(norm(x), x)
        return fused
    dropped: Tensor = drop_path(layer(norm(x)))
    return x + dropped


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return W x + b for x `(batch, tokens, inputs)`."""
    return _apply(_FusedLinear, x, weight, bias, None)


def _apply(layer: type["_FusedLinear | _FusedMlp"], x: Tensor, *weights: Tensor | None) -> Tensor:
    """Apply a layer to x, its weights and a residual or None: by oneDNN where it has the kernel, else by torch."""
    on_cpu = x.device.type == "cpu" and weights[0] is not None and weights[0].dtype == torch.float32
    if (
        on_cpu
        and torch.backends.mkldnn.is_available()
        and torch.backends.mkldnn.enabled
        and not torch.compiler.is_compiling()
    ):
        fused: Tensor = layer.apply(x, *weights)
        return fused
    residual = weights[-1]
    y: Tensor = layer.plain(x, *weights[:-1])  # type: ignore[arg-type]
    return y if residual is None else residual + y


class _FusedLinear(torch.autograd.Function):
    plain = staticmethod(F.linear)

    @staticmethod
    @_cast
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias, residual)

    @staticmethod
    @once_differentiable
    @_as_forward
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        d_weight, d_bias = _weight_gradients(grad, x, *ctx.needs_input_grad[1:3])
        d_x = grad @ weight if ctx.needs_input_grad[0] else None
        return d_x, d_weight, d_bias, grad if ctx.needs_input_grad[3] else None


class _FusedMlp(torch.autograd.Function):
    @staticmethod
    def plain(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
        return F.linear(F.gelu(F.linear(x, w1, b1)), w2, b2)

    @staticmethod
    @_cast
    def forward(ctx: Any, x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, residual: Tensor | None) -> Tensor:
        hidden = _product(x, w1, b1)
        active = F.gelu(hidden)
        ctx.save_for_backward(x, hidden, active, w1, w2)
        return _product(active, w2, b2, residual)

    @staticmethod
    @once_differentiable
    @_as_forward
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        x, hidden, active, w1, w2 = ctx.saved_tensors
        d_w2, d_b2 = _weight_gradients(grad, active, *ctx.needs_input_grad[3:5])
        d_hidden = grad @ w2
        torch.ops.aten.gelu_backward.grad_input(d_hidden, hidden, grad_input=d_hidden)
        d_w1, d_b1 = _weight_gradients(d_hidden, x, *ctx.needs_input_grad[1:3])
        d_x = d_hidden @ w1 if ctx.needs_input_grad[0] else None
        return d_x, d_w1, d_b1, d_w2, d_b2, grad if ctx.needs_input_grad[5] else None


if torch.backends.mkldnn.is_available():

    @register_flop_formula(torch.ops.mkldnn._linear_pointwise)
    def _product_flops(x: torch.Size, *_: object, out_shape: torch.Size, **__: object) -> int:
        return 2 * x.numel() * out_shape[-1]


def _product(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None = None) -> Tensor:
    kernel = torch.ops.mkldnn._linear_pointwise  # what torch.compile makes of a linear layer
    if residual is None:
        plain: Tensor = kernel(x, weight, bias, "none", [], "")
        return plain
    added: Tensor = kernel.binary(x, residual, weight, bias, "add")
    return added


def _weight_gradients(grad: Tensor, x: Tensor, weight: bool, bias: bool) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of the weight and of the bias, those that are asked for."""
    rows, inputs = grad.flatten(0, -2), x.flatten(0, -2)
    d_weight = d_bias = None
    if weight:  # the wider side last, which is faster
        d_weight = (inputs.T @ rows).T if rows.shape[1] > inputs.shape[1] else rows.T @ inputs
    if bias:  # as a product: a sum over rows is slower
        d_bias = rows.T.mv(rows.new_ones(len(rows)))
    return d_weight, d_bias
