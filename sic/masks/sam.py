"""Segment Anything's automatic mask generator: ViT-H, ViT-L, ViT-B, and MobileSAM."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sic import work
from sic.errors import SicError
from sic.files import fetch, read_tensors
from sic.images import Pixels
from sic.masks.records import Record, record
from sic.params import Machine, Segment

if TYPE_CHECKING:  # torch takes seconds to import; checking the settings does not need it
    import torch
    from segment_anything.modeling import Sam

# `segment.checkpoint` that is no file of the user's: markers, so that DVC always has one to watch.
NONE = "data/weights/none"
DOWNLOAD = "data/weights/download"


class Published(NamedTuple):
    """A published checkpoint: where it is, and its SHA-256."""

    url: str
    sha256: str


_META = "https://dl.fbaipublicfiles.com/segment_anything"
# The publishers give addresses only; the checksums are those that several projects recorded.
WEIGHTS = {
    "sam_vit_h": Published(
        f"{_META}/sam_vit_h_4b8939.pth",
        "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
    ),
    "sam_vit_l": Published(
        f"{_META}/sam_vit_l_0b3195.pth",
        "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
    ),
    "sam_vit_b": Published(
        f"{_META}/sam_vit_b_01ec64.pth",
        "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
    ),
    "mobile_sam": Published(
        "https://raw.githubusercontent.com/ChaoningZhang/MobileSAM/master/weights/mobile_sam.pt",
        "6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f",
    ),
}


def checkpoint(settings: Segment, folder: Path) -> Path:
    """The file with the model's weights; a download goes into the folder.  Raises SicError, which
    says where to get it, if none is given or there, or a download failed."""
    weights = WEIGHTS[settings.segmenter]
    source = f"get {weights.url} (SHA-256 {weights.sha256}) and name the file there"
    if settings.checkpoint == NONE:
        need = f"{settings.segmenter} needs its weights: {source}"
        raise SicError(f"segment.checkpoint: {need}, or write {DOWNLOAD}")
    if settings.checkpoint == DOWNLOAD:
        return fetch(weights.url, folder / Path(weights.url).name, weights.sha256)
    path = Path(settings.checkpoint)
    if not path.is_file():
        raise SicError(f"segment.checkpoint: there is no file {path}; {source}")
    return path


def build(name: str) -> "Sam":
    """A model by its name, with random weights."""
    if name == "mobile_sam":
        from sic.masks import mobile_sam

        return mobile_sam.build()
    from segment_anything import sam_model_registry

    return sam_model_registry[name.removeprefix("sam_")]().eval()


def load(name: str, path: Path) -> "Sam":
    """A model with the weights in a published checkpoint, of which only tensors are read: a pickle
    with code in it is refused.  Raises SicError if it is no checkpoint, or one of another model,
    which is named."""
    state = read_tensors(path)
    found = _whose(state)
    if found != name:
        raise SicError(
            f"{path} holds {found or 'no Segment Anything model'}, not {name};"
            " set segment.segmenter to what it holds, or give the other file"
        )
    if name == "mobile_sam":
        from sic.masks import mobile_sam

        state = mobile_sam.state(state)
    model = build(name)
    own = model.state_dict()
    for key in sorted(own.keys() | state.keys()):
        ours, theirs = (tuple(s[key].shape) if key in s else "nothing" for s in (own, state))
        if ours != theirs:
            raise SicError(f"{path} is not {name}: {key} is {theirs}, not {ours}")
    model.load_state_dict(state)
    return model


def _whose(state: Mapping[str, "torch.Tensor"]) -> str | None:
    """The model that a checkpoint is of: the width of the image encoder shows it."""
    if "image_encoder.patch_embed.seq.0.c.weight" in state:
        return "mobile_sam"
    position = state.get("image_encoder.pos_embed")
    width = position.shape[-1] if position is not None and position.ndim else 0
    return {1280: "sam_vit_h", 1024: "sam_vit_l", 768: "sam_vit_b"}.get(width)


def segmenter(settings: Segment, machine: Machine, path: Path) -> Callable[[Pixels], list[Record]]:
    """The automatic mask generator with the weights in ``path``: uint8 (H, W, 3) → records, none
    for a picture so narrow that nothing of it is left at the model's resolution.  Raises SicError
    as :func:`load`, without such a device, or for crops without a point to ask at."""
    import torch
    from segment_anything import SamAutomaticMaskGenerator
    from segment_anything.utils.amg import MaskData

    sam = settings.sam
    if sam.points_per_side < sam.crop_n_points_downscale_factor**sam.crop_n_layers:
        raise SicError(
            f"segment.sam.points_per_side: {sam.points_per_side} leaves no point in the smallest "
            f"crops (crop_n_points_downscale_factor {sam.crop_n_points_downscale_factor}, "
            f"crop_n_layers {sam.crop_n_layers}); raise it, or lower one of these"
        )
    device = work.device(machine.device)
    model = load(settings.segmenter, path).to(device).requires_grad_(False)
    _in_precision(model, device, settings.precision)
    side = model.image_encoder.img_size

    class Generator(SamAutomaticMaskGenerator):
        """The package's, for crops of any size, and for those in which nothing is found, too."""

        def _process_crop(self, image: Pixels, crop_box: list[int], *where: Any) -> MaskData:
            x0, y0, x1, y1 = crop_box
            if _vanishes(y1 - y0, x1 - x0, side):
                return MaskData()
            data = super()._process_crop(image, crop_box, *where)
            data["crop_boxes"] = data["crop_boxes"].reshape(-1, 4)
            return data

    options = {"output_mode": "coco_rle", "points_per_batch": machine.points_per_batch}
    generator = Generator(model, **options, **sam.model_dump())

    @torch.inference_mode()
    def generate(pixels: Pixels) -> list[Record]:
        height, width, _ = pixels.shape
        if _vanishes(height, width, side):
            return []
        return [
            record(one["segmentation"], one["predicted_iou"], one["stability_score"])
            for one in generator.generate(pixels)
        ]

    return generate


def _vanishes(height: int, width: int, side: int) -> bool:
    """Whether a crop has no pixel left when its long side is scaled to the model's."""
    return 2 * side * min(height, width) < max(height, width, 1)


def _in_precision(model: "Sam", device: "torch.device", precision: str) -> None:
    """Run the encoder and the decoder in 16 bits; what follows, thresholds and the suppression of
    duplicates, gets float32."""
    import torch

    if precision == "auto":
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported()
        precision = "bfloat16" if fast else "float32"
    if precision == "float32":
        return
    dtype = getattr(torch, precision)

    def wrapped(forward: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            with torch.autocast(device.type, dtype):
                out = forward(*args, **kwargs)
            return tuple(o.float() for o in out) if isinstance(out, tuple) else out.float()

        return run

    for module in (model.image_encoder, model.mask_decoder):
        module.forward = wrapped(module.forward)
