"""params.yaml as validated, typed settings: the only place where numbers of the study come from.

Every section has the name of the stage it steers.  Unknown keys, wrong types and values out of
range end in one line that names the file, the key and what is allowed.
"""

from pathlib import Path, PurePath
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from sic.errors import SicError
from sic.measuring import Compare, Detect, Evaluate
from sic.schema import (
    Above0,
    Device,
    Natural,
    PointName,
    Points,
    Positive,
    Section,
    Share,
    Split,
    Unit,
    describe,
)

PARAMS = Path("params.yaml")
#: How the name of an additional codec begins, by its method.
PREFIXES = {"fusion": "", "FR": "fr-", "conditional FR": "cfr-"}


class Data(Section):
    """Which images, and which of them train, validate and test."""

    source: Literal["sample", "folder", "coco"]
    root: str | None
    url: str | None
    annotations: str
    train: Split
    validation: Split
    test: Split


class GraphSegmenter(Section):
    """Felzenszwalb's graph-based segmentation, the stand-in for Segment Anything."""

    scale: Above0
    sigma: Annotated[float, Field(ge=0)]
    min_size: Positive


class SamSegmenter(Section):
    """Knobs of Segment Anything's automatic mask generator, by its own names."""

    points_per_side: Positive
    pred_iou_thresh: Unit
    stability_score_thresh: Unit
    stability_score_offset: Above0
    box_nms_thresh: Unit
    crop_n_layers: Natural
    crop_nms_thresh: Unit
    crop_overlap_ratio: Annotated[float, Field(ge=0, lt=1)]
    crop_n_points_downscale_factor: Positive
    min_mask_region_area: Natural


class Segment(Section):
    """Which segmenter draws the segments, and its settings."""

    segmenter: Literal["graph", "sam_vit_h", "sam_vit_l", "sam_vit_b", "mobile_sam", "annotations"]
    checkpoint: str
    precision: Literal["auto", "float32", "float16", "bfloat16"]
    outlines: Literal["instances", "panoptic"]
    unlisted: Literal["error", "empty"]
    shard: Positive
    graph: GraphSegmenter
    sam: SamSegmenter


class Edges(Section):
    """From segments to the edge mask m_x."""

    alpha: Unit
    canny_low: Annotated[float, Field(ge=0)]
    canny_high: Above0
    thickness: Positive
    long_side: Positive | None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.canny_low > self.canny_high:
            raise ValueError("canny_low must not be above canny_high")
        if self.thickness % 2 == 0:
            raise ValueError("thickness must be odd, so that an edge stays centred")
        return self


class Codec(Section):
    """Widths of the codec, the same for base, additional, human and difference codec."""

    N: Positive
    M: Positive
    num_slices: Positive
    hyper: Positive
    # YAML has lists only; strict mode would refuse them as tuples.
    context: Annotated[tuple[Positive, Positive], Field(strict=False)]
    attention: Annotated[int, Field(ge=2)]  # some of its convolutions have half as many channels
    head_dims: Annotated[tuple[Positive, Positive, Positive], Field(strict=False)]
    hyper_head_dim: Positive
    attention_head_dim: Positive

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.M % self.num_slices:
            raise ValueError(f"num_slices={self.num_slices} must divide M={self.M}")
        head_dims = [("head_dims", head_dim, self.N) for head_dim in self.head_dims]
        head_dims += [("hyper_head_dim", self.hyper_head_dim, self.N)]
        head_dims += [("attention_head_dim", self.attention_head_dim, self.attention)]
        for name, head_dim, width in head_dims:
            if width % head_dim:
                raise ValueError(f"{name}: {head_dim} must divide {width}")
        return self


class Train(Section):
    """What the training of all codecs has in common."""

    crop: Annotated[int, Field(ge=128, multiple_of=128)]
    batch: Positive
    accumulate: Positive
    precision: Literal["float32", "bf16-mixed"]
    learning_rate: Above0
    aux_learning_rate: Above0
    clip: Above0
    schedule: Literal["multistep", "cosine"]
    milestones: list[Share]
    linear_rate: Unit
    half: bool
    warmup: Natural
    ema: Share | None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.batch % self.accumulate:
            raise ValueError(f"accumulate={self.accumulate} must divide batch={self.batch}")
        return self


class Point(Section):
    """A rate point: λ of the loss, times 255² · MSE."""

    lmbda: Above0


class Training(Section):
    """Where one kind of codec starts and how long it trains."""

    steps: Positive
    init: str
    train: bool

    @property
    def budget(self) -> int:
        """Steps to train; 0 where the codec is taken as it is."""
        return self.steps if self.train else 0

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.train and PurePath(self.init).name in ("scratch", "principal"):
            raise ValueError("train: false takes the codec from `init`, which must name a file")
        return self


class Sweep(Training):
    """A codec trained once at each of these rate points."""

    quality: Points


class SaIcm(Sweep):
    """The base, and the rate point of the one on which the second layers stand."""

    base: PointName

    @model_validator(mode="after")
    def _named(self) -> Self:
        if self.base not in self.quality:
            there = ", ".join(self.quality)
            raise ValueError(f"base names {self.base}, which is not trained: quality has {there}")
        return self


class FusionCodec(Section):
    """One additional codec: how many slices it sends, its rate point, and whether it codes the
    feature residual, with the base's latent as condition or without."""

    m: Positive
    quality: PointName
    residual: Literal["none", "feature"] = "none"
    condition: bool = False

    @property
    def name(self) -> str:
        """``m5-q2``, ``fr-m5-q2`` with feature residual, ``cfr-m5-q2`` with a condition, too."""
        return f"{PREFIXES[self.method]}m{self.m}-{self.quality}"

    @property
    def method(self) -> str:
        """How tables call it: fusion, FR or conditional FR."""
        if self.residual == "none":
            return "fusion"
        return "conditional FR" if self.condition else "FR"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.condition and self.residual == "none":
            raise ValueError("condition: true needs residual: feature")
        return self


class Fusion(Training):
    """The additional codecs, each under its :attr:`FusionCodec.name`."""

    codecs: Annotated[dict[str, FusionCodec], Field(min_length=1)]

    @property
    def items(self) -> list[tuple[int, str]]:
        """(m, rate point) of the codecs of the paper, which have no feature residual."""
        paper = [codec for codec in self.codecs.values() if codec.residual == "none"]
        return [(codec.m, codec.quality) for codec in paper]

    @property
    def largest_m(self) -> int:
        """The most slices that any of them sends."""
        return max(m for m, _ in self.items)

    @model_validator(mode="after")
    def _named(self) -> Self:
        for name, codec in self.codecs.items():
            if name != codec.name:
                what = f"{codec.method} with m {codec.m} and {codec.quality}"
                raise ValueError(f"codecs.{name} is {what}: name it {codec.name}")
        if not self.items:
            raise ValueError("codecs needs one without residual: feature, the paper's")
        return self


class Machine(Section):
    """How this machine does the work.  No result depends on it."""

    device: Device
    coding_device: Device
    cluster: Annotated[str, Field(pattern=r"^\w+://.+:\d+$")] | None
    workers: Natural
    recompute: bool
    points_per_batch: Positive
    validate_every: Positive
    checkpoint_every: Above0


class Params(Section):
    """The whole of params.yaml."""

    seed: Annotated[int, Field(ge=0, lt=2**64)]  # as PyTorch takes them
    data: Data
    segment: Segment
    edges: Edges
    codec: Codec
    train: Train
    quality: dict[PointName, Point]
    sa_icm: SaIcm
    lic: Sweep
    fusion: Fusion
    difference: Sweep
    evaluate: Evaluate
    compare: Compare
    detect: Detect
    machine: Machine

    @property
    def base(self) -> str:
        """The base on which the second layers stand, by its name in :attr:`codecs`."""
        return f"sa_icm/{self.sa_icm.base}"

    @property
    def codecs(self) -> list[str]:
        """Every codec that is trained, by its folder below ``artifacts`` and below ``reports``."""
        return [
            *(f"sa_icm/{q}" for q in self.sa_icm.quality),
            *(f"lic/{q}" for q in self.lic.quality),
            *(f"fusion/{name}" for name in self.fusion.codecs),
            *(f"difference/{q}" for q in self.difference.quality),
        ]

    @model_validator(mode="after")
    def _check(self) -> Self:
        fusion = self.fusion.codecs.items()
        named = [("sa_icm.quality", point) for point in self.sa_icm.quality]
        named += [("lic.quality", point) for point in self.lic.quality]
        named += [("difference.quality", point) for point in self.difference.quality]
        named += [(f"fusion.codecs.{key}", codec.quality) for key, codec in fusion]
        for key, point in named:
            if point not in self.quality:
                raise ValueError(f"{key} names {point}, which `quality` does not have")
        for stage in ("sa_icm", "fusion", "difference"):
            if PurePath(getattr(self, stage).init).name == "principal":
                raise ValueError(f"{stage}.init: principal components are a start for lic alone")
        for key, codec in fusion:
            if codec.m > (n := self.codec.num_slices):
                raise ValueError(f"fusion.codecs.{key}: {codec.m} is above codec.num_slices={n}")
        return self


def load(path: Path = PARAMS) -> Params:
    """Read and check params.yaml.  Raises SicError with the file, the key and what is allowed."""
    try:
        # YAML 1.1 reads 1e-4 as a string; ruamel's 1.2 default reads it as a number.
        content = YAML(typ="safe", pure=True).load(Path(path).read_text())
    except OSError as error:
        problem = f"cannot read {path}: {error.strerror}"
        raise SicError(f"{problem}; run from the study's folder") from None
    except (YAMLError, ValueError) as error:  # the latter of bytes, and of 2024-02-30
        raise SicError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise SicError(f"{path} must be a mapping of sections, as in the committed params.yaml")
    try:
        return Params.model_validate(content)
    except ValidationError as error:
        raise SicError(f"{path}: {describe(error, Params)}") from None
