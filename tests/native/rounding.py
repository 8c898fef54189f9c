"""What the formats of the core's cache make of keys and values, in PyTorch: an oracle that knows no page."""

import torch


def exactly(values):
    return values


def halved(values):
    return values.half().float()


def in_bytes(values):
    """Eight bits, a scale for every 32 numbers of a head and position: values (..., head_dim)."""
    parts = [part / scale_of(part).clamp_min(1e-30) for part in values.split(32, dim=-1)]
    scales = [scale_of(part).expand_as(part) for part in values.split(32, dim=-1)]
    return torch.cat(parts, -1).round() * torch.cat(scales, -1)


def scale_of(part):
    return part.abs().amax(-1, keepdim=True) / 127


ROUNDINGS = {"f32": exactly, "f16": halved, "q8": in_bytes}
