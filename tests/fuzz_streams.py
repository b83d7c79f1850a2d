"""Damaged .sic files by the ten thousand: each must end in the right picture or in StreamError.

    python tests/fuzz_streams.py                      # 20,000 files through parser and decoder
    python tests/fuzz_streams.py --files 500 --seed 7
    python tests/fuzz_streams.py --atheris -runs=1000000   # coverage-guided, the parser alone

The second needs `pip install atheris`.  Of the damaged files every eighth gets a right checksum
again, so that it is the range decoder and the networks that see the damage.
"""

import argparse
import collections
import random
import re
import resource
import shutil
import struct
import sys
import tempfile
import time
import zlib
from pathlib import Path

HEADER = 56


def sealed(stream: bytes) -> bytes:
    """The stream with a right checksum over its first record, as far as that can be told."""
    if len(stream) < HEADER:
        return stream
    z_bytes, y_bytes = struct.unpack_from("<2I", stream, 44)
    end = HEADER + z_bytes + y_bytes
    header, payload = stream[: HEADER - 4], stream[HEADER:end]
    checksum = struct.pack("<I", zlib.crc32(payload, zlib.crc32(header)))
    return header + checksum + stream[HEADER:]


def truncated(rng: random.Random, streams: list[bytes]) -> bytes:
    stream = rng.choice(streams)
    return stream[: rng.randrange(len(stream))]


def flipped(rng: random.Random, streams: list[bytes]) -> bytes:
    stream = bytearray(rng.choice(streams))
    for _ in range(rng.choice((1, 1, 2, 8))):
        stream[rng.randrange(len(stream))] ^= 1 << rng.randrange(8)
    return bytes(stream)


def flipped_header(rng: random.Random, streams: list[bytes]) -> bytes:
    stream = bytearray(rng.choice(streams))
    stream[rng.randrange(HEADER)] = rng.randrange(256)
    return bytes(stream)


def spliced(rng: random.Random, streams: list[bytes]) -> bytes:
    first, second = rng.choice(streams), rng.choice(streams)
    return first[: rng.randrange(len(first))] + second[rng.randrange(len(second)) :]


def rewritten(rng: random.Random, streams: list[bytes]) -> bytes:
    """A whole stretch replaced by zeros, ones or noise; the length may change."""
    stream = rng.choice(streams)
    start = rng.randrange(len(stream))
    count = rng.randrange(1, 200)
    fill = rng.choice((bytes(count), b"\xff" * count, rng.randbytes(count)))
    return stream[:start] + fill + stream[start + rng.choice((0, count)) :]


def noise(rng: random.Random, streams: list[bytes]) -> bytes:
    return rng.choice((b"", b"SIC", b"SIC\1", b"SIC\2")) + rng.randbytes(rng.randrange(300))


def restepped(rng: random.Random, streams: list[bytes]) -> bytes:
    """Another step, or none, under a right checksum; of version 1 it is damage like any other."""
    stream = rng.choice(streams)
    step = rng.choice((rng.randrange(2**16), 1024, struct.unpack_from("<H", stream, 6)[0] + 1))
    return sealed(stream[:6] + struct.pack("<H", step) + stream[8:])


DAMAGES = (truncated, flipped, flipped_header, spliced, rewritten, noise, restepped)


def damaged(rng: random.Random, streams: list[bytes]) -> tuple[str, bytes]:
    """One file: what was done to it, and its bytes."""
    damage = rng.choice(DAMAGES)
    stream = damage(rng, streams)
    name = damage.__name__
    if rng.randrange(8) == 0:
        stream, name = sealed(stream), f"{name}, sealed"
    if len(stream) >= HEADER:
        # Pictures of at most 512 × 512 keep the run short; the limit itself has its own test.
        height, width = struct.unpack_from("<2H", stream, 8)
        if height * width > 2**18:
            height, width = min(height, 512), min(width, 512)
            stream = stream[:8] + struct.pack("<2H", height, width) + stream[12:]
            stream = sealed(stream) if name.endswith("sealed") else stream
    return name, stream


def decode_all(files: int, seed: int) -> None:
    """Parser and decoder on ``files`` damaged streams; prints what became of them."""
    import numpy as np
    from skimage import data
    from test_bitstream import base, enhancement

    from sic.errors import StreamError
    from sic.stream.scalable import ScalableCodec

    codecs = {
        name: ScalableCodec(base(), enhancement(name))
        for name in ("fusion", "difference", "residual", "conditional_residual")
    }
    pictures = [data.astronaut()[:60, 100:190], data.coffee()[:1, :1], data.chelsea()[:90, :150]]
    steps = [(1.5, 0.75), (4.0, 1.0), (0.25, 16.0)]  # version 2, but for one base
    right: dict[str, list[np.ndarray]] = {"machine": [], "human": []}
    streams: dict[str, list[bytes]] = {name: [] for name in codecs}
    for name, codec in codecs.items():
        for picture, pair in zip(pictures, steps, strict=True):
            encoding = codec.encode_layers(picture, *pair)
            streams[name] += [encoding.stream, encoding.base.stream]
            for layer in right:
                right[layer].append(codec.decode(encoding.stream, layer))

    rng = random.Random(seed)
    outcomes: collections.Counter[tuple[str, str]] = collections.Counter()
    slowest, start = 0.0, time.monotonic()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(files):
        name = rng.choice(list(codecs))
        layer = rng.choice(("machine", "human"))
        damage, stream = damaged(rng, streams[name])
        began = time.monotonic()
        try:
            picture = codecs[name].decode(stream, layer)
        except StreamError as error:
            outcome = re.split(r"[(:;,]|\d", str(error))[0]
        else:
            # Another size that was sealed shows more or less of the same padded picture.
            rows, cols = picture.shape[:2]
            same = any(
                np.array_equal(picture[: known.shape[0], : known.shape[1]], known[:rows, :cols])
                and (picture.shape == known.shape or damage.endswith("sealed"))
                for known in right[layer]
            )
            assert same, f"file {number} of seed {seed} became another picture: {damage}"
            outcome = "the right picture"
        outcomes[damage, outcome] += 1
        slowest = max(slowest, time.monotonic() - began)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) / 1024
    for (damage, outcome), count in sorted(outcomes.items()):
        print(f"{count:7}  {damage:24} {outcome}")
    print(
        f"{files} files in {time.monotonic() - start:.0f} s, slowest {slowest:.2f} s, "
        f"memory grew by {grown:.0f} MiB"
    )


def guided(arguments: list[str]) -> None:
    """Atheris on the parser: any bytes give layers that pack to the same bytes, or StreamError."""
    import atheris

    with atheris.instrument_imports(include=["sic"]):
        from sic.errors import StreamError
        from sic.stream import container

    def one(content: bytes) -> None:
        for candidate in (content, sealed(content)):
            try:
                layers = container.read_layers(candidate)
            except StreamError:
                continue
            assert b"".join(layer.pack() for layer in layers) == candidate
            container.info(layers)

    # libFuzzer starts from good streams, and adds what it finds to this copy of them.
    with tempfile.TemporaryDirectory() as corpus:
        shutil.copytree(Path(__file__).parent / "streams", corpus, dirs_exist_ok=True)
        atheris.Setup([sys.argv[0], corpus, *arguments], one)
        atheris.Fuzz()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, add_help=True)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--atheris", action="store_true", help="further words go to libFuzzer")
    chosen, rest = parser.parse_known_args()
    if chosen.atheris:
        guided(rest)
    else:
        decode_all(chosen.files, chosen.seed)
