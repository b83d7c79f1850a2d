"""The sections of params.yaml on what is measured: ``evaluate``, ``compare`` and ``detect``."""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from sic.schema import Number, Once, Positive, Qps, Qualities, Section


def _apart(steps: Sequence[float]) -> Sequence[float]:
    for step in steps:
        if sum(abs(step - other) < 0.01 for other in steps) > 1:
            raise ValueError(f"{step} stands there more than once, or another within 0.01 of it")
    return steps


Apart = AfterValidator(_apart)  # for quantisation steps, which a stream rounds


class Libvvenc(Section):
    """VVC by libvvenc: its effort, and the points to code at."""

    preset: Literal["faster", "fast", "medium", "slow", "slower"]
    qp: Qps


class Vvc(Libvvenc):
    """VVC as an anchor: by VTM if its folder is given, else by libvvenc."""

    vtm: str | None


class Hevc(Section):
    """HEVC by x265."""

    preset: Literal[
        "ultrafast", "superfast", "veryfast", "faster", "fast",
        "medium", "slow", "slower", "veryslow", "placebo",
    ]  # fmt: skip
    qp: Annotated[list[Annotated[int, Field(ge=0, le=51)]], Once]


class Avif(Section):
    """AVIF by libavif's default encoder."""

    speed: Annotated[int, Field(ge=0, le=10)]
    quality: Qualities


class JpegXl(Section):
    """Lossy JPEG XL by libjxl; its distance is in just noticeable differences."""

    effort: Annotated[int, Field(ge=1, le=9)]
    distance: Annotated[list[Annotated[float, Field(gt=0, le=15)]], Once]


class Evaluate(Section):
    """The measures, the quantisation steps, and the classical codecs' settings."""

    lpips: str | None
    steps: Annotated[list[Annotated[float, Field(ge=1 / 16, le=16)]], Apart]  # as a stream has them
    vvc: Vvc
    vvc_m: Libvvenc
    hevc: Hevc
    avif: Avif
    jpeg_xl: JpegXl
    webp: Qualities
    jpeg: Qualities


class Compare(Section):
    """How curves are compared."""

    bootstrap: Positive


class Detect(Section):
    """The detector that stands for the machine, and the annotated pictures it looks at."""

    detector: Literal[
        "none",
        "yolox",
        "fasterrcnn_resnet50_fpn",
        "fasterrcnn_resnet50_fpn_v2",
        "maskrcnn_resnet50_fpn",
        "retinanet_resnet50_fpn_v2",
        "ssdlite320_mobilenet_v3_large",
    ]
    weights: str
    root: str | None
    annotations: str
    images: Number
    # Not a list: settings are keys of a cache.
    lic_steps: Annotated[
        tuple[Annotated[float, Field(ge=1.01, le=16)], ...], Field(strict=False), Apart
    ]
    score_threshold: Annotated[float, Field(ge=0, lt=1)]
