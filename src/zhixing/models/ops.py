"""The arithmetic of the layers, written for few passes over memory: matrix products, norms, rotations, activations.

Each operation is a plain formula with a hand-written gradient that keeps less and moves less than automatic
differentiation would. On a CPU the products go through whichever library is measured to be faster (`select_matmul`).
Under `torch.compile` the plain formulas are used instead, because the compiler fuses those by itself.
What is not here: modules with weights (`models.layers`) and attention (`models.attention`).
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from zhixing.models.row_kernels import RowKernels, row_kernels

Matmul = Literal["torch", "onednn", "mixed", "forward"]
"""PyTorch's default library, oneDNN, oneDNN for all products but the gradients of weights, or for the forward pass."""

FEW_ROWS = 8
"""Up to so many rows a product is bound by memory, and the default library is as good."""

SMALLEST = 1 << 22
"""Multiply-adds from which a product is given to oneDNN, which keeps half a megabyte of code for each shape of it."""

MATMUL_SIZE = 1024
"""Side of the square matrices on which the machine's rate is measured."""

Linear = tuple[Tensor, Tensor | None]
"""The weight and the bias of a map."""

_matmul: Matmul = "torch"


def matmul_backend() -> Matmul:
    """Returns the library that `linear` uses for float32 products on a CPU."""
    return _matmul


def set_matmul(backend: Matmul) -> None:
    """Chooses the library that `linear` uses for float32 products on a CPU."""
    global _matmul
    _matmul = backend


def _onednn(rows: Tensor, weight: Tensor) -> Tensor:
    """Computes rows @ weight.T through oneDNN; rows (n, k), weight (m, k), any strides."""
    result: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, None, "none", [], "")
    return result


def least_seconds(*works: Callable[[], object]) -> list[float]:
    """Returns the least time of each piece of work, taken in turn so that a busy machine disturbs them alike."""
    times: list[list[float]] = [[] for _ in works]
    for _ in range(8):
        for work, measured in zip(works, times, strict=True):
            start = time.perf_counter()
            work()
            measured.append(time.perf_counter() - start)
    return [min(measured) for measured in times]


PROBES = ((512, 576, 1536), (1024, 384, 768), (1024, 768, 384))
"""Rows, inputs and outputs of the products on which the libraries are compared."""


GAIN = 1.05
"""Another library than the default one must be faster by this factor."""


def select_matmul(training: bool = False) -> Matmul:
    """Measures both libraries on products of a model's size, keeps the faster, and returns its name.

    The default BLAS of PyTorch (MKL) does not reach the peak of processors that are not Intel's, on some by half;
    oneDNN does, but often not for gradients, where one or both sides are transposed. Takes 0.1 to 0.3 s.

    Args:
        training: Also compare those gradients; without them the answer is never "mixed" nor "forward".
    """
    probes = [(torch.randn(rows, inner), torch.randn(outer, inner)) for rows, inner, outer in PROBES]
    try:
        usable = all(torch.allclose(_onednn(rows, weight), rows @ weight.t(), atol=1e-3) for rows, weight in probes)
    except (AttributeError, RuntimeError):  # a build of PyTorch without oneDNN
        usable = False
    set_matmul("torch")
    if not usable:
        return _matmul
    grads = [torch.randn(len(rows), len(weight)) for rows, weight in probes]
    if _gain(_onednn, lambda rows, weight: rows @ weight.t(), probes) > GAIN:
        set_matmul("onednn")
        if (
            training
            and _gain(_onednn, _default_gradient, [(g, w.t()) for g, (_, w) in zip(grads, probes, strict=True)]) < 1
        ):
            set_matmul("forward")
        elif training:
            turned = [(grad, rows) for grad, (rows, _) in zip(grads, probes, strict=True)]
            if _gain(_onednn_gradient, lambda grad, rows: grad.t() @ rows, turned) < 1 / GAIN:
                set_matmul("mixed")
    return _matmul


def _default_gradient(grad: Tensor, turned: Tensor) -> Tensor:
    return grad @ turned.t()


def _gain(
    new: Callable[[Tensor, Tensor], object],
    default: Callable[[Tensor, Tensor], object],
    operands: Sequence[tuple[Tensor, Tensor]],
) -> float:
    """Returns how many times as fast one way to multiply is as another."""
    times = [least_seconds(functools.partial(new, *pair), functools.partial(default, *pair)) for pair in operands]
    return sum(slow for _, slow in times) / sum(fast for fast, _ in times)


def _lies_whole(weight: Tensor) -> bool:
    """Whether a matrix fills its memory, by rows or by columns: oneDNN takes a hundred times as long for others."""
    return weight.is_contiguous() or weight.stride() == (1, len(weight))


def _floats(rows: Tensor) -> bool:
    """Whether oneDNN takes them, under autocast too; what is being compiled is left to the compiler."""
    return rows.dtype == torch.float32 and not rows.is_cuda and not torch.compiler.is_compiling()


def product(rows: Tensor, weight: Tensor) -> Tensor:
    """Computes rows @ weight.T for two-dimensional tensors, without gradient: (n, k), (m, k) -> (n, m)."""
    chosen = _matmul != "torch" and (_matmul != "forward" or weight.is_contiguous())  # gradients see weights transposed
    if chosen and _floats(rows) and _lies_whole(weight) and rows.numel() * len(weight) >= SMALLEST:
        return _onednn(rows, weight)
    return rows @ weight.t()


def apply(function: type[torch.autograd.Function], *arguments: Any) -> Tensor:
    """Calls an operation with a hand-written gradient; its one result is a tensor."""
    return cast(Tensor, function.apply(*arguments))  # type: ignore[no-untyped-call]


def weight_gradient(grad: Tensor, rows: Tensor) -> Tensor:
    """Computes grad.T @ rows, the gradient of a weight: (n, out), (n, in) -> (out, in)."""
    if _matmul == "onednn" and _floats(rows) and grad.numel() * rows.shape[1] >= SMALLEST:
        return _onednn_gradient(grad, rows)
    return grad.t() @ rows


def _onednn_gradient(grad: Tensor, rows: Tensor) -> Tensor:
    if grad.shape[1] > rows.shape[1]:
        # oneDNN is faster with the smaller side first; the result is (in, out), seen the other way round.
        return _onednn(rows.t(), grad.t()).t()
    return _onednn(grad.t(), rows.t())


def _product_relu(rows: Tensor, weight: Tensor) -> Tensor:
    """Computes max(rows @ weight.T, 0), in one pass where the library can."""
    if _matmul != "torch" and rows.dtype == torch.float32 and not rows.is_cuda:
        result: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, None, "relu", [], "")
        return result
    return (rows @ weight.t()).clamp_min_(0)


def _plain(x: Tensor) -> bool:
    """Whether a chosen library may compute with a tensor: float32 on a CPU, not being compiled."""
    plain = x.dtype == torch.float32 and x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
    return plain and not torch.compiler.is_compiling()


def _hand_written(x: Tensor) -> bool:
    """Whether the operations with a hand-written gradient apply: training in float32 on a CPU, not being compiled."""
    return _plain(x) and torch.is_grad_enabled()


class _Linear(torch.autograd.Function):
    """y = x W^T through `product`, in both directions."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])  # (tokens, in)
        ctx.save_for_backward(rows if ctx.needs_input_grad[1] else None, weight)
        ctx.shape = x.shape
        return product(rows, weight).view(*x.shape[:-1], weight.shape[0])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        rows, weight = ctx.saved_tensors
        grad_rows = grad.reshape(-1, grad.shape[-1])  # (tokens, out)
        grad_x = product(grad_rows, weight.t()).view(ctx.shape) if ctx.needs_input_grad[0] else None
        return grad_x, weight_gradient(grad_rows, rows) if rows is not None else None


def _is_large(x: Tensor, weight: Tensor) -> bool:
    """Whether a product is large enough for oneDNN, and not bound by the memory that the weight is in."""
    return x.numel() > x.shape[-1] * FEW_ROWS and x.numel() * len(weight) >= SMALLEST


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Computes x W^T + b: (..., in), (out, in), (out) -> (..., out)."""
    if _matmul != "torch" and _plain(x) and _is_large(x, weight) and _lies_whole(weight):
        if not torch.is_grad_enabled():
            return _pointwise(x, weight, bias, "none", "")
        y = apply(_Linear, x, weight)
        return y if bias is None else y + bias
    return F.linear(x, weight, bias)


def _pointwise(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str, algorithm: str) -> Tensor:
    """Computes activation(x W^T + b) in one pass through oneDNN, without gradient."""
    rows = x.reshape(-1, x.shape[-1])
    result: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, activation, [], algorithm)
    return result.view(*x.shape[:-1], weight.shape[0])


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor | None, *, tanh: bool = False) -> Tensor:
    """Computes gelu(x W^T + b) (Hendrycks & Gimpel 2016), with the product and the activation in one where possible."""
    if _matmul != "torch" and _plain(x) and not torch.is_grad_enabled() and _is_large(x, weight):
        return _pointwise(x, weight, bias, "gelu", "tanh" if tanh else "none")
    return F.gelu(linear(x, weight, bias), approximate="tanh" if tanh else "none")


def linear_silu_gated(x: Tensor, gate: Linear, up: Linear) -> Tensor:
    """Computes silu(x G^T + b) * (x U^T + c) (Shazeer 2020), activation and product inside oneDNN where possible.

    Args:
        x: (..., in).
        gate: Weight (hidden, in) and bias (hidden) or None.
        up: The same.

    Returns:
        (..., hidden).
    """
    packed = any(type(weight) not in (Tensor, nn.Parameter) for weight, _ in (gate, up))
    if not packed and not torch.is_grad_enabled() and not _lies_whole(gate[0]):  # by columns, in one matrix
        biases = [bias for _, bias in (gate, up) if bias is not None]
        whole = joined_rows([gate[0], up[0]])
        return gated(linear(x, whole, torch.cat(biases) if biases else None), "silu")
    if _matmul == "torch" or packed or torch.is_grad_enabled() or not _plain(x) or not _is_large(x, gate[0]):
        opened, by = linear(x, *gate), linear(x, *up)
        kernels = None if x.numel() <= x.shape[-1] * FEW_ROWS or torch.is_grad_enabled() else row_kernels(opened)
        if kernels is None or not (opened.is_contiguous() and by.is_contiguous()):
            return F.silu(opened) * by
        # Not as halves of one product: its rows would often be a multiple of 4 KB apart, in the same places of a cache.
        kernels.gate_by(opened, by)
        return opened
    rows = x.reshape(-1, x.shape[-1])
    opened = torch.ops.mkldnn._linear_pointwise(rows, gate[0], gate[1], "swish", [], "")
    result: Tensor = torch.ops.mkldnn._linear_pointwise.binary(rows, opened, up[0], up[1], "mul")
    return result.view(*x.shape[:-1], len(up[0]))


def adjacent(weights: Sequence[Tensor]) -> Tensor | None:
    """Returns the matrix that these lie in, one behind the other, by rows or by columns; None if they do not."""
    first, rows = weights[0], sum(len(weight) for weight in weights)
    by_columns = not first.is_contiguous()
    stride = (1, rows) if by_columns else (first.shape[1], 1)
    expected = first.storage_offset()
    for weight in weights:
        same = weight.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        if not same or weight.storage_offset() != expected or weight.stride() != stride:
            return None
        expected += len(weight) if by_columns else weight.numel()
    return first.as_strided((rows, first.shape[1]), stride)


def joined_rows(weights: Sequence[Tensor]) -> Tensor:
    """Stacks matrices, without a copy where they lie behind one another (`adjacent`) or are packed."""
    if len(weights) == 1:
        return weights[0]
    plain = all(type(weight) in (Tensor, nn.Parameter) for weight in weights)  # packed ones join without a copy
    whole = adjacent(weights) if plain else None
    return torch.cat(list(weights)) if whole is None else whole


class _JoinedLinear(torch.autograd.Function):
    """y = x [W1; W2; ...]^T: several maps of one input as one product, in both directions."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *weights: Tensor) -> Tensor:
        rows, weight = x.reshape(-1, x.shape[-1]), joined_rows(weights)  # (tokens, in), (sum of outs, in)
        frozen = not any(ctx.needs_input_grad[1:])
        ctx.save_for_backward(None if frozen else rows, weight)
        ctx.shape, ctx.sizes = x.shape, [len(part) for part in weights]
        return product(rows, weight).view(*x.shape[:-1], len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight = ctx.saved_tensors
        grad_rows = grad.reshape(-1, grad.shape[-1])
        grad_x = product(grad_rows, weight.t()).view(ctx.shape) if ctx.needs_input_grad[0] else None
        if rows is None:
            return grad_x, *([None] * len(ctx.sizes))
        return grad_x, *torch.split(weight_gradient(grad_rows, rows), ctx.sizes)


def joined_linear(x: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """Computes the outputs of several maps without bias, side by side: (..., in) -> (..., sum of outs)."""
    if _hand_written(x):
        return apply(_JoinedLinear, x, *weights)
    if not torch.is_grad_enabled():
        return linear(x, joined_rows(weights))
    return torch.cat([linear(x, weight) for weight in weights], dim=-1)


class _Gated(torch.autograd.Function):
    """y = act(g) * u of x = [g, u]; keeps x and computes act(g) again for the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, activation: str) -> Tensor:
        ctx.save_for_backward(x)
        ctx.activation = activation
        kernels = _gate_kernels(x, activation)
        if kernels is not None:
            return kernels.gate(x)
        gate, up = x.chunk(2, dim=-1)
        return GATES[activation][0](gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        kernels = _gate_kernels(x, ctx.activation)
        if kernels is not None:
            return kernels.gate_gradient(grad.contiguous(), x), None
        forward, backward = GATES[ctx.activation]
        gate, up = x.chunk(2, dim=-1)
        result = torch.empty_like(x)
        grad_gate, grad_up = result.chunk(2, dim=-1)
        torch.mul(grad, forward(gate), out=grad_up)
        grad_gate.copy_(backward(grad * up, gate))
        return result, None


GATES: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]] = {
    "silu": (F.silu, torch.ops.aten.silu_backward),
    "gelu": (F.gelu, torch.ops.aten.gelu_backward),
    "gelu_tanh": (
        functools.partial(F.gelu, approximate="tanh"),
        functools.partial(torch.ops.aten.gelu_backward, approximate="tanh"),
    ),
    "relu": (F.relu, lambda grad, gate: grad * (gate > 0)),
}
"""Non-linearities of gates, and their gradients from the gradient and the input."""


def _gate_kernels(x: Tensor, activation: str) -> RowKernels | None:
    return row_kernels(x) if activation == "silu" and x.is_contiguous() else None


def gated(x: Tensor, activation: str) -> Tensor:
    """Computes act(g) * u where x = [g, u] (Shazeer 2020): (..., 2 * hidden) -> (..., hidden)."""
    if _hand_written(x):
        return apply(_Gated, x, activation)
    kernels = None if torch.is_grad_enabled() else _gate_kernels(x, activation)
    if kernels is not None:
        return kernels.gate(x)
    gate, up = x.chunk(2, dim=-1)
    return GATES[activation][0](gate) * up


class _SquaredReLUFeedForward(torch.autograd.Function):
    """y = max(x U^T, 0)^2 D^T. Keeps max(x U^T, 0) and squares it again for the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, up: Tensor, down: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])  # (tokens, width)
        kernels = row_kernels(x) if _matmul == "torch" else None  # oneDNN does the first half of the pass
        if kernels is not None:
            positive = rows @ up.t()
            squared = kernels.square_positive(positive)
        else:
            positive = _product_relu(rows, up)  # (tokens, hidden)
            squared = positive * positive
        ctx.save_for_backward(rows, up, down, positive)
        ctx.shape = x.shape
        return product(squared, down).view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        rows, up, down, positive = ctx.saved_tensors
        grad_rows = grad.reshape(-1, grad.shape[-1])
        grad_hidden = product(grad_rows, down.t())
        kernels = row_kernels(positive)
        if kernels is not None:
            squared = kernels.square_positive_gradient(grad_hidden, positive)
        else:
            grad_hidden, squared = grad_hidden.mul_(positive), positive.square()
        # What goes on is half of the gradient before the activation.
        grad_down = weight_gradient(grad_rows, squared)
        grad_up = weight_gradient(grad_hidden, rows).mul_(2)
        grad_x = product(grad_hidden, up.t()).mul_(2).view(ctx.shape) if ctx.needs_input_grad[0] else None
        return grad_x, grad_up, grad_down


def squared_relu_feed_forward(x: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """Computes max(x U^T, 0)^2 D^T: (..., width), (hidden, width), (width, hidden) -> (..., width)."""
    if _hand_written(x) and up.requires_grad and down.requires_grad:
        return apply(_SquaredReLUFeedForward, x, up, down)
    return linear(squared_relu(linear(x, up)), down)


class _RMSNorm(torch.autograd.Function):
    """y = x / rms(x). Keeps y and 1/rms; dx = (dy - y * mean(dy * y)) / rms."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> Tensor:
        kernels = row_kernels(x) if x.is_contiguous() else None
        if kernels is not None:
            y, scale = kernels.norm(x, eps)
        else:
            scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True)  # (..., 1)
            scale = scale.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
            y = x * scale
        ctx.save_for_backward(y, scale)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        y, scale = ctx.saved_tensors
        kernels = row_kernels(y) if y.is_contiguous() else None
        if kernels is not None:
            return kernels.norm_gradient(grad.contiguous(), y, scale), None
        mean = torch.linalg.vecdot(grad, y).div_(y.shape[-1]).unsqueeze(-1)  # (..., 1)
        return torch.addcmul(grad, y, mean, value=-1).mul_(scale), None


class _ScaledRMSNorm(torch.autograd.Function):
    """y = w * x / rms(x) by the core, keeping x and 1/rms; dx of w * dy as in `_RMSNorm`, dw = sum(dy * x / rms)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, kernels: RowKernels) -> Tensor:
        x, weight = x.contiguous(), weight.contiguous()
        y, scale = kernels.scaled_norm(x, weight, eps)
        ctx.save_for_backward(x, weight, scale)
        ctx.kernels = kernels
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, weight, scale = ctx.saved_tensors
        grad, grad_x, grad_weight = grad.contiguous(), None, None
        if ctx.needs_input_grad[0]:
            grad_x = ctx.kernels.scaled_norm_gradient(grad, x, weight, scale)
        if ctx.needs_input_grad[1]:
            grad_weight = (grad * x).view(-1, len(weight)).t() @ scale.flatten()
        return grad_x, grad_weight, None, None


def _fits(weight: Tensor, x: Tensor) -> bool:
    return weight.shape == x.shape[-1:] and weight.dtype == x.dtype and weight.device == x.device


def rms_norm(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """Divides by the root mean square over the last dimension (Zhang & Sennrich 2019, equation 4)."""
    if x.dtype != torch.float32 or torch.compiler.is_compiling():
        y = x.float()
        y = (y * torch.rsqrt(y.square().mean(-1, keepdim=True) + eps)).to(x.dtype)
    elif weight is not None and _fits(weight, x) and (kernels := row_kernels(x)) is not None:
        return apply(_ScaledRMSNorm, x, weight, eps, kernels)
    else:
        y = apply(_RMSNorm, x, eps)
    return y if weight is None else y * weight


class _SquaredReLU(torch.autograd.Function):
    """y = max(x, 0)^2 and dx = 2 max(x, 0) dy."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        positive = x.clamp_min(0)
        ctx.save_for_backward(positive)
        return positive * positive

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (positive,) = ctx.saved_tensors
        grad_x: Tensor = (grad * positive).mul_(2)
        return grad_x


def squared_relu(x: Tensor) -> Tensor:
    """Computes max(x, 0)^2 (So et al. 2021)."""
    if torch.compiler.is_compiling():
        return F.relu(x).square()
    return apply(_SquaredReLU, x)


class _Placed(torch.autograd.Function):
    """y[places] = x, zero elsewhere; dx = dy[places]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, places: Tensor, count: int) -> Tensor:
        ctx.save_for_backward(places)
        return x.new_zeros(count, *x.shape[1:]).index_copy_(0, places, x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (places,) = ctx.saved_tensors
        return grad.index_select(0, places), None, None


class _Taken(torch.autograd.Function):
    """y = x[places]; dx[places] = dy, zero elsewhere."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(places)
        ctx.count = len(x)
        return x.index_select(0, places)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (places,) = ctx.saved_tensors
        return grad.new_zeros(ctx.count, *grad.shape[1:]).index_copy_(0, places, grad), None


def placed(x: Tensor, places: Tensor, count: int) -> Tensor:
    """Puts rows, (n, ...), at different places, (n), among `count` rows of zeros: (count, ...)."""
    return apply(_Placed, x, places, count)


def taken(x: Tensor, places: Tensor) -> Tensor:
    """Takes the rows at different places: (count, ...), (n) -> (n, ...)."""
    return apply(_Taken, x, places)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates the pairs (x[i], x[i + half]): x (..., heads, dim); cos and sin broadcast to (..., 1, half)."""
    half = x.shape[-1] // 2
    low, high = x[..., :half], x[..., half:]
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    torch.mul(low, cos, out=y[..., :half]).addcmul_(high, sin, value=-1)
    torch.mul(high, cos, out=y[..., half:]).addcmul_(low, sin)
    return y


class _Rotary(torch.autograd.Function):
    """A rotation; its gradient is the rotation by the opposite angle."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotate(x, cos, sin)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _rotate(grad, cos, -sin), None, None


def rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Applies rotary positions (Su et al. 2021, equation 34), halves paired as in Llama.

    Args:
        x: (batch, time, heads, head_dim).
        cos: Cosines, (time, 1, head_dim / 2) or (batch, time, 1, head_dim / 2).
        sin: Sines of the same shape.
    """
    if torch.compiler.is_compiling():
        low, high = x.chunk(2, dim=-1)
        return torch.cat([low * cos - high * sin, high * cos + low * sin], dim=-1)
    return apply(_Rotary, x, cos, sin)


def matmul_peak() -> float:
    """Returns the highest rate of float32 matrix products that this machine shows now, in GFLOP/s.

    The better of both libraries on a square product; about 0.1 s. This is the roof that shares are given of.
    """
    left, right = torch.randn(MATMUL_SIZE, MATMUL_SIZE), torch.randn(MATMUL_SIZE, MATMUL_SIZE)
    works: list[Callable[[], object]] = [functools.partial(torch.mm, left, right)]
    if _matmul == "onednn":
        works.append(functools.partial(_onednn, left, right))
    return 2 * MATMUL_SIZE**3 / min(least_seconds(*works)) / 1e9
