"""A start for the additional codec: what a human LIC would send, less what the base sends.

g_human decodes ŷ + ŷa.  Were this sum the latent y of a human LIC, the LIC's own g_s would decode
it from the first step on.  So the encoder should start with y − ŷ.  It sees x and not ŷ, but the
last layer of g_a is a convolution, linear in the features h before it: what they tell of ŷ is the
least-squares prediction W h, and

    y − W h = (W_LIC − W) h

is again such a layer.  All else is the LIC's: g_a before it, the entropy model, and g_s as g_human.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from sic.crops import Crops, Photo
from sic.errors import SicError
from sic.scalable import AdditionalCodec
from sic.tcm import TCM
from sic.weights import settings

#: Latent pixels for each unknown of the prediction.
ROWS = 32
#: Of the mean square of the features, added to each: features that hardly vary predict nothing.
RIDGE = 1e-3


def complement(
    lic: TCM, base: TCM, photos: Sequence[Photo], crop: int, seed: int
) -> AdditionalCodec:
    """The additional codec of all n slices that sends y of the LIC less what it can tell of ŷ.

    Args:
        lic: a human LIC.
        base: the base, of the same size.
        photos: to train on; some crops of them are looked at.
        crop: their side in pixels.
        seed: what they follow from.

    Raises:
        SicError: if the two codecs have different sizes.
    """
    if settings(lic) != settings(base):
        raise SicError(
            f"the LIC has the sizes {settings(lic)}, but the base {settings(base)}; both must be "
            "trained with the same `codec` of params.yaml"
        )
    N, M, n = lic.N, lic.M, lic.num_slices
    codec = AdditionalCodec(n, N, M, n, lic.widths)
    codec.load_state_dict(lic.state_dict())
    last = codec.g_a[-1]
    assert isinstance(last, nn.Conv2d)
    assert last.bias is not None
    rows = ROWS * (last.weight[0].numel() + 1)
    crops = Crops(photos, crop, -(-rows * 16**2 // crop**2), seed)
    weight, bias = _prediction(codec.g_a[:-1], last, base, crops)
    with torch.no_grad():
        last.weight -= weight
        last.bias -= bias
    return codec


@torch.inference_mode()
def _prediction(
    features: nn.Module, last: nn.Conv2d, base: TCM, crops: Crops
) -> tuple[Tensor, Tensor]:
    """Weight and bias of the layer, of the shape of ``last``, that predicts ŷ of the base best."""
    base = base.eval()
    unknowns = last.weight[0].numel() + 1
    hh = torch.zeros(unknowns, unknowns, dtype=torch.float64)
    hy = torch.zeros(unknowns, base.M, dtype=torch.float64)
    for i in tqdm(range(len(crops)), desc="least squares", unit="crop"):
        x = crops[i][0][None]
        h = _patches(features(x), last)
        y_hat, _ = base.code_latent(base.g_a(x))
        hh += h @ h.mT
        hy += h @ y_hat[0].flatten(1).mT.double()
    hh.diagonal().add_(RIDGE * hh.diagonal().mean())
    solved = torch.linalg.solve(hh, hy).mT.float().clone()
    return solved[:, :-1].reshape(last.weight.shape), solved[:, -1]


def _patches(h: Tensor, layer: nn.Conv2d) -> Tensor:
    """What ``layer`` multiplies its weights with at each of its outputs, and a 1 for its bias.

    (1, C, H, W) → (C·k² + 1, outputs), float64.
    """
    assert isinstance(layer.padding, tuple)
    patches = F.unfold(h, layer.kernel_size, padding=layer.padding, stride=layer.stride)[0]
    return torch.cat((patches, torch.ones_like(patches[:1]))).double()
