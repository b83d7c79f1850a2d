"""Our codecs among CompressAI's: :func:`register` makes its registry and its zoo know them.

Nothing here imports CompressAI, which takes seconds, before that.  ``python -m sic.stream.zoo …``
is ``python -m compressai.utils.eval_model …`` with our codecs registered.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sic import images
from sic.codec import fusion, weights
from sic.codec.tcm import TCM, Widths
from sic.errors import SicError
from sic.stream.scalable import ScalableCodec

#: The name of :class:`CompressTCM` where CompressAI asks for an architecture.
NAME = "sic-tcm"
SHIPPED = Path("data/weights/lic")


class CompressTCM(TCM):
    """A TCM as CompressAI's tools use a model; its strings are whole `.sic` streams."""

    _stream: ScalableCodec | None = None

    @classmethod
    def from_state_dict(cls, state_dict: Mapping[str, Tensor]) -> "CompressTCM":
        """The codec whose sizes and weights are those of a state dict, ours or a published one.
        Raises SicError if keys or shapes are not those of a TCM."""
        state = {weights.published_key(key): tensor for key, tensor in state_dict.items()}
        codec = cls(**_sizes(state))
        weights.fill(codec, state, "the state dict")
        return codec.eval()

    def update(self, scale_table: Tensor | None = None, force: bool = False) -> bool:
        """Make the writer and reader of streams, as CompressAI makes its tables; with ``force``
        even if they are there.  Returns whether it made them.  ``scale_table`` is not used: the
        tables of a stream are fixed."""
        if self._stream is not None and not force:
            return False
        plain = TCM(self.N, self.M, self.num_slices, self.widths)
        plain.load_state_dict(self.state_dict())
        self._stream = ScalableCodec(plain.to(next(self.parameters()).device))
        return True

    def compress(self, x: Tensor) -> dict[str, Any]:
        """Code pictures (B, 3, H, W) in [0, 1], rounded to 8 bits; returns `strings`, a list with
        the list of B streams, and `shape`, the (H, W) of x."""
        self.update()
        assert self._stream is not None
        streams = [self._stream.encode(images.to_uint8(one)) for one in x.split(1)]
        return {"strings": [streams], "shape": tuple(x.shape[2:])}

    def decompress(self, strings: list[list[bytes]], shape: tuple[int, int]) -> dict[str, Tensor]:
        """Decode what :meth:`compress` returned: `x_hat` (B, 3, H, W) in [0, 1], of 8 bits."""
        self.update()
        assert self._stream is not None
        pictures = [images.to_tensor(self._stream.decode(stream)) for stream in strings[0]]
        return {"x_hat": torch.cat(pictures).to(next(self.parameters()).device)}


def _sizes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """N, M, n and the widths of a TCM, from the shapes of its parameters."""

    def channels(key: str) -> int:
        return state[f"{key}.weight"].shape[0]

    def head_dim(key: str, dim: int) -> int:
        return dim // state[f"{key}.msa.relative_position_params"].shape[0]

    try:
        N, attention = channels("g_a.0.conv1") // 2, channels("atten_mean.0.0.in_conv")
        widths = Widths(
            hyper=channels("h_a.3"),
            context=(channels("cc_mean_transforms.0.0"), channels("cc_mean_transforms.0.2")),
            attention=attention,
            head_dims=(
                head_dim("g_a.1.trans_block", N),
                head_dim("g_a.4.trans_block", N),
                head_dim("g_a.7.trans_block", N),
            ),
            hyper_head_dim=head_dim("h_a.1.trans_block", N),
            attention_head_dim=head_dim("atten_mean.0.0.non_local_block.block_1", attention),
        )
        slices = weights.slices_in(state)
        return {"N": N, "M": channels("g_a.9"), "num_slices": slices, "widths": widths}
    except KeyError as error:
        raise SicError(f"the state dict is of no TCM: it lacks {error}") from None


def shipped(quality: int, metric: str = "mse", pretrained: bool = True, **_: Any) -> CompressTCM:
    """CompressAI's way to a trained model: the LIC that the study ships for rate point q0, q1, …"""
    return CompressTCM.from_state_dict(
        weights.load(SHIPPED / f"q{quality}.safetensors").state_dict()
    )


def register() -> None:
    """Name our codecs in CompressAI's registry, and the TCM in its zoo, as :data:`NAME`."""
    from compressai import zoo
    from compressai.registry import register_model
    from compressai.zoo import image

    register_model(NAME)(CompressTCM)
    register_model("sic-additional")(fusion.AdditionalCodec)
    register_model("sic-difference")(fusion.DifferenceCodec)
    image.model_architectures[NAME] = CompressTCM
    zoo.image_models[NAME] = shipped


if __name__ == "__main__":
    register()
    from compressai.utils.eval_model.__main__ import main

    main(sys.argv[1:])
