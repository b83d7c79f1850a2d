"""Deterministic weights by key name: with them the published implementation gave the numbers
that the tests carry, so that ours can be compared without a checkpoint.

For a parameter with state-dict key K of a model called P (``icm``, ``ica2``, ``ica4``), g is
standard normal noise from ``default_rng(crc32("P.K"))``; what is made of it depends on its kind.
"""

import zlib
from typing import TypeVar

import numpy as np
import torch
from torch import nn

AnyModule = TypeVar("AnyModule", bound=nn.Module)


def value(model: str, key: str, shape: tuple[int, ...]) -> np.ndarray:
    g = np.random.default_rng(zlib.crc32(f"{model}.{key}".encode())).standard_normal(shape)
    part, kind = key.split(".")[0], key.rsplit(".", 1)[-1]
    if part == "entropy_bottleneck":
        return bottleneck_value(key.split(".")[1], g, shape)
    if kind == "relative_position_params":
        return 0.5 * g
    if kind == "beta":
        return 1 + 0.1 * np.abs(g)
    if kind == "gamma":
        return 0.3 * np.eye(shape[0]) + 0.02 * np.abs(g)
    if kind == "weight" and len(shape) == 1:
        return 1 + 0.1 * g
    if kind == "weight":
        slice_network = part in ("cc_mean_transforms", "cc_scale_transforms", "lrp_transforms")
        latent = key in ("g_a.9.weight", "h_a.3.weight")
        gain = 8.0 if latent else 1.5 if slice_network else 0.5
        return gain * g / np.sqrt(np.prod(shape[1:]))
    assert kind == "bias", key
    scale = part == "cc_scale_transforms" and key.endswith(".4.bias")
    offset = 2.0 if scale else 0.5 if key == "g_s.9.0.bias" else 0.0
    return offset + 0.05 * g


def bottleneck_value(name: str, g: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if name == "quantiles":
        return np.stack(
            (np.full(g.shape[:-1], -10.0), 0.3 * g[..., 1], np.full(g.shape[:-1], 10.0)), -1
        )
    if name == "matrices":
        return np.log(np.expm1(10 ** (-1 / 5) / shape[1])) + 0.1 * g
    return 0.2 * g


def fill(net: AnyModule, model: str) -> AnyModule:
    """Give every parameter its value, cast to the parameter's dtype; buffers stay as made."""
    with torch.no_grad():
        for key, parameter in net.named_parameters():
            filled = value(model, key, tuple(parameter.shape))
            parameter.copy_(torch.from_numpy(np.ascontiguousarray(filled)))
    return net
