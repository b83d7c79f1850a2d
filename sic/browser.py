"""The picture browser: original, x̂_t and x̂ of one scene under a slider, in a page of the report.

The pictures lie beside the page, without loss; what a reader sees is what the codec gave.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from sic import images
from sic.bitstream import ScalableCodec
from sic.files import replacing
from sic.images import Pixels

_STATIC = Path(__file__).with_name("static")


@dataclass(frozen=True)
class Picture:
    """One picture of a scene.

    Args:
        label: what it is, with its rate and quality.
        pixels: uint8 (H, W, 3) RGB.
    """

    label: str
    pixels: Pixels


@dataclass(frozen=True)
class Scene:
    """All pictures of one photo, the original first.

    Args:
        name: of the photo.
        pictures: of one size, and with as many in every scene.
    """

    name: str
    pictures: Sequence[Picture]


def scene(name: str, x: Pixels, codecs: Mapping[str, ScalableCodec]) -> Scene:
    """A photo and what each codec makes of it, with real rates and PSNR in the labels.

    Args:
        name: of the photo.
        x: uint8 (H, W, 3) RGB.
        codecs: by label; those of one layer show the base's picture, others x̂.

    Raises:
        SicError: as :meth:`sic.bitstream.ScalableCodec.encode` and `decode`.
    """
    pictures = [Picture("original", x)]
    for label, codec in codecs.items():
        stream = codec.encode(x)
        x_hat = codec.decode(stream, "human" if codec.enhancement else "machine")
        bpp = 8 * len(stream) / (x.shape[0] * x.shape[1])
        numbers = f"{bpp:.3f} bpp, {images.psnr(x, x_hat):.2f} dB"
        pictures.append(Picture(f"{label}: {numbers}", x_hat))
    return Scene(name, pictures)


def browser(scenes: Sequence[Scene], folder: Path) -> str:
    """Write the pictures of all scenes as lossless WebP, and give the HTML that shows them.

    Args:
        scenes: at least one.
        folder: of the page; picture j of scene i goes into ``folder/i-j.webp``, since names of
            photos may hold what addresses may not.

    Returns:
        HTML with its own style and script, for a page in ``folder``.
    """
    written = [_write(scene, folder, number) for number, scene in enumerate(scenes)]
    # "</" would end the script element.
    content = json.dumps(written, ensure_ascii=False).replace("</", "<\\/")
    return f"""<style>
{(_STATIC / "browser.css").read_text()}
</style>
<div class="browser" id="browser">
<div class="choices">
<label>photo <select data-part="scene"></select></label>
<label>left <select data-part="left"></select></label>
<label>right <select data-part="right"></select></label>
<label>size <select data-part="zoom">
<option value="fit">fit</option><option value="1">1:1</option>
<option value="2">2:1</option><option value="4">4:1</option>
</select></label>
</div>
<label>left picture ↔ right picture
<input type="range" min="0" max="100" value="50" data-part="slider"></label>
<div class="window" tabindex="0" role="region" aria-label="pictures">
<div class="stage" data-part="stage">
<img data-part="under"><img data-part="over"><div class="edge" data-part="edge"></div>
</div>
</div>
</div>
<script>
{(_STATIC / "browser.js").read_text()}
browse(document.getElementById("browser"), {content});
</script>"""


def _write(scene: Scene, folder: Path, number: int) -> dict[str, object]:
    pictures = []
    for place, picture in enumerate(scene.pictures):
        file = f"{number}-{place}.webp"
        with replacing(folder / file) as temporary:
            Image.fromarray(picture.pixels).save(temporary, "WEBP", lossless=True)
        pictures.append({"label": picture.label, "file": file})
    height, width = scene.pictures[0].pixels.shape[:2]
    return {"name": scene.name, "width": width, "height": height, "pictures": pictures}
