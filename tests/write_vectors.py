"""`python tests/write_vectors.py`: make the test vectors of the format anew, data/streams.

Only a new version or kind needs this: later programs must read what lies there.  Weights follow
tests/reference_weights.py, rounded to multiples of 1/64, which float16 holds.
"""

import io
import json
import zipfile
from pathlib import Path

import torch
from reference_weights import fill
from skimage import data

from sic import images
from sic.codec import weights
from sic.codec.fusion import AdditionalCodec, DifferenceCodec
from sic.codec.tcm import TCM, Widths
from sic.stream import vectors
from sic.stream.scalable import ScalableCodec

WIDTHS = Widths(
    hyper=4,
    context=(2, 2),
    attention=2,
    head_dims=(1, 1, 1),
    hyper_head_dim=1,
    attention_head_dim=1,
)
SIZES = {"N": 2, "M": 6, "num_slices": 3, "widths": WIDTHS}
PHOTO = data.astronaut()[20:60, 190:238]
#: Stream: its second layer, and the steps of the two.
STREAMS = {
    "fusion": ("fusion", 1.0, 1.0),
    "difference": ("difference", 1.0, 1.0),
    "residual": ("residual", 1.0, 1.0),
    "conditional_residual": ("conditional_residual", 1.0, 1.0),
    "steps": ("fusion", 2.5, 0.375),
    "step_of_the_second": ("conditional_residual", 1.0, 1.75),
}


def codecs() -> dict[str, TCM]:
    made = {
        "base": TCM(**SIZES),
        "fusion": AdditionalCodec(2, **SIZES),
        "difference": DifferenceCodec(**SIZES),
        "residual": AdditionalCodec(1, **SIZES, residual="feature"),
        "conditional_residual": AdditionalCodec(3, **SIZES, residual="feature", condition=True),
    }
    for name, codec in made.items():
        fill(codec, f"vectors {name}")
        with torch.no_grad():
            for parameter in codec.parameters():
                parameter.copy_((parameter * 64).round() / 64)
    with torch.no_grad():  # σ of the last slice far too small, so that symbols leave their tables
        made["difference"].cc_scale_transforms[2][4].bias -= 4
    return made


def write(path: Path, folder: Path) -> None:
    """The zip, and beside it nothing; ``folder`` is for the files on their way."""
    base = folder / "base.safetensors"
    files = {}
    for name, codec in codecs().items():
        origin = {} if name == "base" else {"base": weights.metadata(base)["fingerprint"]}
        weights.save(folder / f"{name}.safetensors", codec, origin)
        files[f"{name}.safetensors"] = (folder / f"{name}.safetensors").read_bytes()
    about = {}
    for name, (second, base_step, step) in STREAMS.items():
        codec = ScalableCodec.load(base, folder / f"{second}.safetensors")
        stream = codec.encode(PHOTO, step, base_step)
        found = vectors.trace(codec, stream)
        assert not found.error
        files[f"{name}.sic"] = stream
        for reader, picture in found.pictures.items():
            images.write_png(folder / "picture.png", picture)
            files[f"{name}.{reader}.png"] = (folder / "picture.png").read_bytes()
        about[f"{name}.sic"] = {
            "base": "base.safetensors",
            "enhancement": f"{second}.safetensors",
            "stages": found.stages,
        }
    files[vectors.LIST] = json.dumps(about, indent=1, ensure_ascii=False).encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in sorted(files.items()):
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, content)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(buffer.getvalue())


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as temporary:
        write(vectors.VECTORS, Path(temporary))
