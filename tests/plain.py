"""The plain path: the codec as the published implementation computes it, to compare speed and
results with.  To read what a codec is, read :mod:`sic.codec.layers` and :mod:`sic.codec.tcm`.

The relative index and the mask of shifted windows are built in each call, attention is explicit
matrices, symbols go through Python lists one by one into CompressAI's range coder, and the frozen
base of the additional codec keeps gradients and runs its decoder.  It shares parameters with our
modules, and none of our forward code.
"""

import copy
import math
from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from compressai import ans, entropy_models
from compressai.ops import quantize_ste
from torch import Tensor, nn

from sic.codec.convolutions import (
    GDN,
    Conv3x3,
    PixelShuffle,
    ResidualBlock,
    ResidualBlockUpsample,
    ResidualBlockWithStride,
    ResidualUnit,
)
from sic.codec.fusion import AdditionalCodec
from sic.codec.layers import ConvTransBlock, SWAtten, TransformerBlock, WindowAttention
from sic.codec.loss import Loss, rate_distortion
from sic.codec.tcm import TCM, CodecOutput, Likelihoods

SCALES = torch.exp(torch.linspace(math.log(0.11), math.log(256), 64)).tolist()


# ---- layers ----------------------------------------------------------------------------------


def attention(layer: WindowAttention, x: Tensor) -> Tensor:
    """W- or SW-MSA on (B, H, W, C), by explicit matrices."""
    p, c = layer.window, layer.head_dim
    batch, height, width, dim = x.shape
    rows, cols, heads = height // p, width // p, dim // c
    if layer.shift:
        x = x.roll((-layer.shift, -layer.shift), dims=(1, 2))
    x = x.reshape(batch, rows, p, cols, p, dim).permute(0, 1, 3, 2, 4, 5)
    qkv = layer.embedding_layer(x.reshape(batch, rows * cols, p * p, dim))
    qkv = qkv.reshape(batch, rows * cols, p * p, 3 * heads, c).permute(3, 0, 1, 2, 4)
    q, k, v = qkv.chunk(3)
    sim = torch.einsum("hbwpc,hbwqc->hbwpq", q, k) * c**-0.5
    sim = sim + relative_bias(layer)[:, None, None]
    if layer.shift:
        sim = sim.masked_fill_(shift_mask(rows, cols, p, layer.shift), float("-inf"))
    x = torch.einsum("hbwij,hbwjc->hbwic", sim.softmax(-1), v)
    x = layer.linear(x.permute(1, 2, 3, 0, 4).reshape(batch, rows * cols, p * p, dim))
    x = x.reshape(batch, rows, cols, p, p, dim).permute(0, 1, 3, 2, 4, 5)
    x = x.reshape(batch, height, width, dim)
    return x.roll((layer.shift, layer.shift), dims=(1, 2)) if layer.shift else x


def relative_bias(layer: WindowAttention) -> Tensor:
    """(heads, window², window²)."""
    p = layer.window
    place = torch.tensor([[i, j] for i in range(p) for j in range(p)])
    relation = place[:, None] - place[None, :] + p - 1
    return layer.relative_position_params[:, relation[..., 0], relation[..., 1]]


def shift_mask(rows: int, cols: int, p: int, shift: int) -> Tensor:
    """(windows, window², window²), True where attention is forbidden."""
    mask = torch.zeros(rows, cols, p, p, p, p, dtype=torch.bool)
    s = p - shift
    mask[-1, :, :s, :, s:, :] = True
    mask[-1, :, s:, :, :s, :] = True
    mask[:, -1, :, :s, :, s:] = True
    mask[:, -1, :, s:, :, :s] = True
    return mask.reshape(rows * cols, p * p, p * p)


def transformer(block: TransformerBlock, x: Tensor) -> Tensor:
    """Pre-norm block on (B, H, W, C)."""
    x = x + attention(block.msa, block.ln1(x))
    return x + block.mlp(block.ln2(x))


def conv_trans(block: ConvTransBlock, x: Tensor) -> Tensor:
    """TCM block on (B, 2N, H, W)."""
    conv_x, trans_x = block.conv1_1(x).chunk(2, dim=1)
    conv_x = residual(block.conv_block, conv_x) + conv_x
    trans_x = transformer(block.trans_block, trans_x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    return x + block.conv1_2(torch.cat((conv_x, trans_x), dim=1))


def swatten(block: SWAtten, x: Tensor) -> Tensor:
    """Gated attention of the slice networks on (B, C, H, W)."""
    x = block.in_conv(x)
    pair = block.non_local_block
    z = transformer(pair.block_2, transformer(pair.block_1, x.permute(0, 2, 3, 1)))
    gate = torch.sigmoid(through(block.conv_b, z.permute(0, 3, 1, 2)))
    return block.out_conv(x + through(block.conv_a, x) * gate)


def conv(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """3×3 convolution."""
    return F.conv2d(x, layer.weight, layer.bias, layer.stride, layer.padding)


def residual(block: ResidualBlock, x: Tensor) -> Tensor:
    """Two convolutions and a skip."""
    return F.leaky_relu(conv(block.conv2, F.leaky_relu(conv(block.conv1, x)))) + x


def down(block: ResidualBlockWithStride, x: Tensor) -> Tensor:
    """Half of height and width."""
    out = conv(block.conv2, F.leaky_relu(conv(block.conv1, x)))
    return normalise(block.gdn, out) + block.skip(x)


def up(block: ResidualBlockUpsample, x: Tensor) -> Tensor:
    """Twice height and width."""
    out = conv(block.conv, F.leaky_relu(through(block.subpel_conv, x)))
    return normalise(block.igdn, out) + through(block.upsample, x)


def unit(block: ResidualUnit, x: Tensor) -> Tensor:
    """Bottleneck of the slice networks' attention."""
    return F.relu(through(block.conv, x) + x)


def normalise(layer: GDN, x: Tensor) -> Tensor:
    """GDN or its inverse."""
    norm = torch.einsum("ij,bjhw->bihw", layer.gamma_reparam(layer.gamma), x**2)
    norm = torch.sqrt(norm + layer.beta_reparam(layer.beta)[:, None, None])
    return x * norm if layer.inverse else x / norm


STEPS: dict[type, Callable] = {
    ConvTransBlock: conv_trans,
    SWAtten: swatten,
    Conv3x3: conv,
    ResidualBlockWithStride: down,
    ResidualBlockUpsample: up,
    ResidualUnit: unit,
    PixelShuffle: lambda layer, x: F.pixel_shuffle(x, layer.upscale_factor),
}


def through(parts: Iterable[nn.Module], x: Tensor) -> Tensor:
    """One module after the other; what is not written out here is PyTorch's."""
    for part in parts:
        if isinstance(part, nn.Sequential):
            x = through(part, x)
        else:
            x = STEPS[type(part)](part, x) if type(part) in STEPS else part(x)
    return x


# ---- codecs ----------------------------------------------------------------------------------


def slice_parameters(
    codec: TCM, k: int, means: Tensor, scales: Tensor, y_hat: list[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """μ_k, σ_k and the features of LRP_k."""
    mean_support = through(codec.atten_mean[k], torch.cat([means, *y_hat], dim=1))
    scale_support = through(codec.atten_scale[k], torch.cat([scales, *y_hat], dim=1))
    mu = through(codec.cc_mean_transforms[k], mean_support)
    return mu, through(codec.cc_scale_transforms[k], scale_support), mean_support


def with_residual(codec: TCM, k: int, support: Tensor, y_hat_k: Tensor) -> Tensor:
    """ŷ_k + LRP_k."""
    lrp = through(codec.lrp_transforms[k], torch.cat([support, y_hat_k], dim=1))
    return y_hat_k + 0.5 * torch.tanh(lrp)


def code_latent(codec: TCM, y: Tensor) -> tuple[Tensor, Likelihoods]:
    """ŷ and the likelihoods."""
    z = through(codec.h_a, y)
    z_likelihoods = codec.entropy_bottleneck(z)
    medians = codec.entropy_bottleneck.medians.reshape(1, -1, 1, 1)
    z_hat = quantize_ste(z - medians) + medians
    means, scales = through(codec.h_mean_s, z_hat), through(codec.h_scale_s, z_hat)
    y_hat: list[Tensor] = []
    y_likelihoods = []
    for k, y_k in enumerate(y.chunk(codec.num_slices, dim=1)):
        mu, scale, support = slice_parameters(codec, k, means, scales, y_hat)
        y_likelihoods.append(codec.gaussian_conditional(y_k, scale, mu))
        y_hat.append(with_residual(codec, k, support, quantize_ste(y_k - mu) + mu))
    likelihoods = Likelihoods(y=torch.cat(y_likelihoods, dim=1), z=z_likelihoods)
    return torch.cat(y_hat, dim=1), likelihoods


def forward(codec: TCM, x: Tensor) -> CodecOutput:
    """A TCM's forward."""
    y_hat, likelihoods = code_latent(codec, through(codec.g_a, x))
    return CodecOutput(x_hat=through(codec.g_s, y_hat), y_hat=y_hat, likelihoods=likelihoods)


def forward_additional(codec: AdditionalCodec, x: Tensor, y_hat_base: Tensor) -> CodecOutput:
    """The additional codec's forward, (6)–(8)."""
    ya_hat, likelihoods = code_latent(codec, through(codec.g_a, x))
    parts = list(y_hat_base.chunk(codec.base_slices, dim=1))
    for k, ya_hat_k in enumerate(ya_hat.chunk(codec.num_slices, dim=1)):
        parts[k] = parts[k] + ya_hat_k
    y_hat = torch.cat(parts, dim=1)
    x_hat = through(codec.g_s, y_hat)
    return CodecOutput(x_hat=x_hat, y_hat=y_hat, likelihoods=likelihoods, ya_hat=ya_hat)


def base_loss(codec: TCM, x: Tensor, lmbda: float) -> Loss:
    """(1), of the plain forward."""
    return rate_distortion(forward(codec, x), x, lmbda)


def additional_loss(codec: AdditionalCodec, base: TCM, x: Tensor, lmbda: float) -> Loss:
    """(3), with the whole base inside the graph."""
    y_hat_base = forward(base, x)["y_hat"]
    return rate_distortion(forward_additional(codec, x, y_hat_base), x, lmbda)


def compressai_models(
    codec: TCM,
) -> tuple[entropy_models.EntropyBottleneck, entropy_models.GaussianConditional]:
    """CompressAI's entropy models with a codec's weights."""
    bottleneck = entropy_models.EntropyBottleneck(codec.widths.hyper)
    bottleneck.load_state_dict(codec.entropy_bottleneck.state_dict())
    gaussian = entropy_models.GaussianConditional(None)
    gaussian.load_state_dict(codec.gaussian_conditional.state_dict())
    like = next(codec.parameters())
    return bottleneck.to(like).eval(), gaussian.to(like).eval()


class PlainStream:
    """Writes and reads one layer as the published `compress` and `decompress` do.

    Args:
        codec: a TCM; copied, because its coding tables are filled in.
    """

    def __init__(self, codec: TCM) -> None:
        self.codec = copy.deepcopy(codec).eval()
        self.codec.entropy_bottleneck, self.codec.gaussian_conditional = compressai_models(codec)
        self.codec.entropy_bottleneck.update(force=True)
        self.codec.gaussian_conditional.update_scale_table(SCALES, force=True)
        gaussian = self.codec.gaussian_conditional
        tables = (gaussian.quantized_cdf, gaussian.cdf_length.reshape(-1), gaussian.offset)
        self.tables = [table.int().tolist() for table in tables]

    @torch.no_grad()
    def compress(self, x: Tensor) -> tuple[bytes, bytes, tuple[int, int]]:
        """The parts y and z, and the size of z."""
        codec = self.codec
        y = through(codec.g_a, x)
        z = through(codec.h_a, y)
        (z_part,) = codec.entropy_bottleneck.compress(z)
        size = (z.shape[-2], z.shape[-1])
        z_hat = codec.entropy_bottleneck.decompress([z_part], size)
        means, scales = through(codec.h_mean_s, z_hat), through(codec.h_scale_s, z_hat)
        y_hat: list[Tensor] = []
        symbols: list[int] = []
        indexes: list[int] = []
        for k, y_k in enumerate(y.chunk(codec.num_slices, dim=1)):
            mu, scale, support = slice_parameters(codec, k, means, scales, y_hat)
            q = codec.gaussian_conditional.quantize(y_k, "symbols", mu)
            symbols.extend(q.reshape(-1).tolist())
            indexes.extend(codec.gaussian_conditional.build_indexes(scale).reshape(-1).tolist())
            y_hat.append(with_residual(codec, k, support, q + mu))
        encoder = ans.BufferedRansEncoder()
        encoder.encode_with_indexes(symbols, indexes, *self.tables)
        return encoder.flush(), z_part, size

    @torch.no_grad()
    def decompress(self, y_part: bytes, z_part: bytes, size: tuple[int, int]) -> Tensor:
        """x̂ (1, 3, H, W), clamped."""
        codec = self.codec
        z_hat = codec.entropy_bottleneck.decompress([z_part], size)
        means, scales = through(codec.h_mean_s, z_hat), through(codec.h_scale_s, z_hat)
        decoder = ans.RansDecoder()
        decoder.set_stream(y_part)
        y_hat: list[Tensor] = []
        for k in range(codec.num_slices):
            mu, scale, support = slice_parameters(codec, k, means, scales, y_hat)
            index = codec.gaussian_conditional.build_indexes(scale)
            q = torch.tensor(decoder.decode_stream(index.reshape(-1).tolist(), *self.tables))
            y_hat.append(with_residual(codec, k, support, q.reshape(mu.shape) + mu))
        return through(codec.g_s, torch.cat(y_hat, dim=1)).clamp(0, 1)
