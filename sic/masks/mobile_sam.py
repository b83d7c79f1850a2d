"""MobileSAM: Segment Anything with TinyViT as its image encoder, for those without a GPU."""

import re
from collections.abc import Mapping
from typing import Any

from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from segment_anything.modeling.common import LayerNorm2d
from timm.models.tiny_vit import TinyVit
from torch import Tensor, nn


class TinyVitEncoder(nn.Module):
    """MobileSAM's image encoder: timm's TinyViT with its last halving left out, and a neck.
    Normalised x (B, 3, 1024, 1024) → embedding (B, 256, 64, 64)."""

    img_size = 1024

    def __init__(self) -> None:
        super().__init__()
        trunk: Any = TinyVit(
            embed_dims=(64, 128, 160, 320),
            depths=(2, 2, 6, 2),
            num_heads=(2, 4, 5, 10),
            window_sizes=(7, 7, 14, 7),
            num_classes=0,
        )
        trunk.head = nn.Identity()  # the classifier's norm, which MobileSAM does not use
        trunk.stages[3].downsample.conv2.conv.stride = (1, 1)
        self.trunk = trunk
        self.neck = nn.Sequential(
            nn.Conv2d(320, 256, 1, bias=False),
            LayerNorm2d(256),
            nn.Conv2d(256, 256, 3, padding=1, bias=False),
            LayerNorm2d(256),
        )

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return self.neck(self.trunk.forward_features(x))


def build() -> Sam:
    """MobileSAM with random weights; prompt encoder and mask decoder are Segment Anything's."""
    sam = Sam(
        image_encoder=TinyVitEncoder(),
        prompt_encoder=PromptEncoder(
            256, image_embedding_size=(64, 64), input_image_size=(1024, 1024), mask_in_chans=16
        ),
        mask_decoder=MaskDecoder(
            transformer_dim=256,
            transformer=TwoWayTransformer(depth=2, embedding_dim=256, num_heads=8, mlp_dim=2048),
        ),
    )
    return sam.eval()


# MobileSAM's names of the encoder's parts, and timm's.
_NAMES = (
    (r"^layers\.(\d+)\.downsample", lambda m: f"trunk.stages.{int(m[1]) + 1}.downsample"),
    (r"^layers\.(\d+)\.blocks", r"trunk.stages.\1.blocks"),
    (r"^patch_embed\.seq\.0", "trunk.patch_embed.conv1"),
    (r"^patch_embed\.seq\.2", "trunk.patch_embed.conv2"),
    (r"\.c\.weight$", ".conv.weight"),
)
_UNUSED = re.compile(r"^(norm_head|head)\.|\.attention_bias_idxs$")


def state(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The published state dict by our names, without the encoder's unused classifier."""
    ours = {}
    for key, value in published.items():
        part, dot, name = key.partition(".")
        if part == "image_encoder":
            if _UNUSED.search(name):
                continue
            for pattern, our_name in _NAMES:
                name = re.sub(pattern, our_name, name)
        ours[part + dot + name] = value
    return ours
