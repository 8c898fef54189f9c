"""What the formats of the core's cache make of keys and values, in PyTorch: an oracle that knows no page."""

import torch


def exactly(values):
    return values


def halved(values):
    return values.half().float()


def in_bytes(values):
    """Eight bits, a scale for each head and position: values (..., head_dim)."""
    scale = values.abs().amax(-1, keepdim=True) / 127
    return torch.where(scale > 0, (values / scale).round() * scale, 0.0)


ROUNDINGS = {"f32": exactly, "f16": halved, "q8": in_bytes}
