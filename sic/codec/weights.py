"""Checkpoints of the study, safetensors with settings, origin and a checksum, and the import of
published ones (`icm.pth.tar`, `ica.pth.tar`, LIC-TCM's own)."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise
from torch import Tensor

from sic.codec.fusion import AdditionalCodec, DifferenceCodec
from sic.codec.tcm import TCM, Widths
from sic.errors import SicError
from sic.files import need_weights, read_tensors, write_bytes

#: Kinds of codec by the name that stands in a checkpoint; the most general one first.
KINDS = {"tcm": TCM, "additional": AdditionalCodec, "difference": DifferenceCodec}

#: The entry of a safetensors file's metadata that makes it a checkpoint of ours.
METADATA = "sic"

#: Buffers that CompressAI fills when it makes its own coding tables; we never use them.
TABLES = re.compile(r"(^|\.)(_offset|_quantized_cdf|_cdf_length|scale_table)$")


def settings(codec: TCM) -> dict[str, Any]:
    """What :func:`build` needs to make an empty codec of the same kind and size."""
    kind = next(name for name, cls in reversed(KINDS.items()) if isinstance(codec, cls))
    sizes: dict[str, Any] = {"N": codec.N, "M": codec.M, "num_slices": codec.num_slices}
    if isinstance(codec, AdditionalCodec):
        sizes = {"m": codec.m, "N": codec.N, "M": codec.base_M, "num_slices": codec.base_slices}
        if codec.residual != "none":  # feature fusion's settings, and fingerprints, are older
            sizes |= {"residual": codec.residual, "condition": codec.condition}
    return {"kind": kind, **sizes, "widths": asdict(codec.widths)}


def label(codec: TCM) -> str:
    """What a codec is, for people, with its article."""
    kind = settings(codec)["kind"]
    return {"tcm": "a TCM", "additional": "an additional codec"}.get(kind, "a difference codec")


def build(settings: Mapping[str, Any]) -> TCM:
    """An untrained codec from :func:`settings`."""
    keys = ("m", "N", "M", "num_slices", "residual", "condition")
    sizes = {key: settings[key] for key in keys if key in settings}
    widths = settings["widths"].items()  # JSON has lists where Widths has tuples
    widths = {key: tuple(value) if isinstance(value, list) else value for key, value in widths}
    return KINDS[settings["kind"]](**sizes, widths=Widths(**widths))


def fingerprint(codec: TCM) -> str:
    """SHA-256 (hexadecimal) over a codec's settings and weights, whatever file they came from; two
    codecs with the same fingerprint read each other's streams."""
    digest = hashlib.sha256(json.dumps(settings(codec), sort_keys=True).encode())
    for key, tensor in sorted(_tensors(codec).items()):
        array = tensor.numpy()
        digest.update(f"{key} {array.dtype.str} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def save(path: Path, codec: TCM, origin: Mapping[str, Any]) -> None:
    """Write a checkpoint, whole or not at all; ``origin`` (stage, λ, seed, … or the imported file)
    is anything JSON holds.  Tensors whose values float16 holds exactly are stored so, which halves
    the files of weights that were rounded for shipping; all others are float32."""
    about = {"settings": settings(codec), "origin": dict(origin), "fingerprint": fingerprint(codec)}
    # One entry: safetensors writes several in an order that changes from run to run.
    metadata = {METADATA: json.dumps(about, sort_keys=True)}
    tensors = _tensors(codec)
    halves = {key: tensor.half() for key, tensor in tensors.items()}
    exact = {key: half for key, half in halves.items() if torch.equal(half.float(), tensors[key])}
    write_bytes(path, serialise(tensors | exact, metadata))


def metadata(path: Path) -> dict[str, Any]:
    """Settings, origin and fingerprint of a checkpoint, without its weights.  Raises SicError if
    the file is missing, or is not a checkpoint of ours."""
    need_weights(path)
    try:
        with safe_open(path, framework="pt") as file:
            found = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise SicError(f"{path} is not a whole safetensors file ({error}); make it again") from None
    if METADATA not in found:
        raise SicError(
            f"{path} is not a checkpoint of this study; import others with "
            "`python -m sic import-weights`"
        )
    return json.loads(found[METADATA])


def is_from(path: Path, origin: Mapping[str, Any]) -> bool:
    """Whether a file is a checkpoint of ours with just this origin."""
    try:
        return bool(metadata(path)["origin"] == origin)
    except SicError:
        return False


def load(path: Path, device: str | torch.device = "cpu") -> TCM:
    """A codec of the checkpoint's kind, in eval mode.  Raises SicError if the file is missing,
    damaged, or its weights are not those it was saved with."""
    path = Path(path)
    about = metadata(path)
    with safe_open(path, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    codec = build(about["settings"]).eval()
    fill(codec, tensors, path)
    if fingerprint(codec) != about["fingerprint"]:
        raise SicError(f"{path} is damaged: its weights do not match its checksum; make it again")
    return codec.to(device)


def import_published(path: Path, codec: TCM) -> None:
    """Load a published checkpoint into a codec of the same size.

    Accepts a bare state dict or one under ``state_dict``, keys with or without ``module.``, and
    CompressAI's entropy-bottleneck keys of before and after version 1.2.  Raises SicError as
    :func:`sic.files.read_tensors` and :func:`fill` do.
    """
    tensors = {published_key(key): tensor for key, tensor in read_tensors(path).items()}
    fill(codec, tensors, path)


def published_key(key: str) -> str:
    """Our name of a published key: no ``module.``, entropy-bottleneck lists instead of numbers."""
    plural = {"matrix": "matrices", "bias": "biases", "factor": "factors"}
    return re.sub(
        r"^entropy_bottleneck\._(matrix|bias|factor)(\d+)$",
        lambda found: f"entropy_bottleneck.{plural[found[1]]}.{found[2]}",
        key.removeprefix("module."),
    )


def _tensors(codec: TCM) -> dict[str, Tensor]:
    """A codec's state in float32, without CompressAI's coding tables, which we do not use."""
    return {
        key: tensor.detach().cpu().float().contiguous()
        for key, tensor in codec.state_dict().items()
        if not TABLES.search(key)
    }


def fill(codec: TCM, tensors: Mapping[str, Tensor], path: Path | str) -> None:
    """Copy a state dict, by our keys (:func:`published_key`), into a codec of its size.

    CompressAI's coding tables are passed over.  Raises SicError before anything is copied if a key
    or shape does not fit, naming ``path``, the key, both shapes and the likely cause.
    """
    given = {key: tensor for key, tensor in tensors.items() if not TABLES.search(key)}
    sizes = ", ".join(f"{k}={v}" for k, v in settings(codec).items() if k not in ("widths", "kind"))
    whose = f"the file is not of {label(codec)} with {sizes}"
    own = {key: tuple(tensor.shape) for key, tensor in _tensors(codec).items()}
    theirs = {key: tuple(tensor.shape) for key, tensor in given.items()}
    for key in own | theirs:
        if key not in theirs:
            problem = f"key {key} {own[key]} is missing; {whose}"
        elif key not in own:
            problem = f"unexpected key {key}; {whose}"
        elif theirs[key] != own[key]:
            problem = f"key {key} has shape {theirs[key]}, expected {own[key]} for {sizes}"
        else:
            continue
        raise SicError(f"{path}: {problem}{_cause(codec, given)}")
    codec.load_state_dict(given, strict=False)


def slices_in(state: Mapping[str, Tensor]) -> int:
    """How many slices the codec of a state dict codes: each has networks of its own."""
    return len({key.split(".")[1] for key in state if key.startswith("cc_mean_transforms.")})


def _cause(codec: TCM, given: Mapping[str, Tensor]) -> str:
    """What the sizes in a state dict say about the codec it belongs to."""
    first, last = given.get("g_a.0.conv1.weight"), given.get("g_a.9.weight")
    fused = given.get("g_s.0.subpel_conv.0.weight")
    if first is None or last is None or fused is None:
        return "; it is not a checkpoint of TCM at all"
    slices = slices_in(given)
    causes = []
    if first.shape[0] != 2 * codec.N:
        causes.append(f"N={first.shape[0] // 2}")
    if fused.shape[1] != last.shape[0]:
        if not isinstance(codec, AdditionalCodec) or slices != codec.m:
            causes.append(f"an additional codec with m={slices}")
    elif last.shape[0] != codec.M or slices != codec.num_slices:
        causes.append(f"M={last.shape[0]}, num_slices={slices}")
    return f"; it seems to be of {' and '.join(causes)}" if causes else ""
