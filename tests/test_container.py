"""The bytes of a .sic file: what is written is read; anything else is one kind of error."""

import dataclasses
import re
import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sic.errors import SicError, StreamError
from sic.sizes import MAX_PIXELS
from sic.stream import container
from sic.stream.container import (
    HEADER_BYTES,
    NOTHING,
    Kind,
    Layer,
    Platform,
    read_layer,
    read_layers,
)

HERE = Platform(1, 1, 2, 8, 2, 6, 1, 11)
BASE = Layer(Kind.BASE, 5, 300, 400, HERE, b"weightsB", b"symbolsB", NOTHING, b"zzz", b"yyyyyy")
FINER = dataclasses.replace(BASE, step=0.75)
ABOVE = Layer(Kind.FUSION, 3, 300, 400, HERE, b"weightsE", b"symbolsE", b"symbolsB", b"", b"y")

layers = st.builds(
    Layer,
    kind=st.just(Kind.BASE),
    slices=st.integers(1, 255),
    height=st.integers(1, 500),
    width=st.integers(1, 65535),
    platform=st.binary(min_size=8, max_size=8).map(lambda content: Platform(*content)),
    weights=st.binary(min_size=8, max_size=8),
    symbols=st.binary(min_size=8, max_size=8),
    below=st.just(NOTHING),
    z=st.binary(max_size=40),
    y=st.binary(max_size=40),
    step=st.integers(64, 16384).map(lambda grid: grid / 1024),
)


def sealed(record: bytes) -> bytes:
    """A record with its checksum made right again."""
    header, payload = record[: HEADER_BYTES - 4], record[HEADER_BYTES:]
    return header + struct.pack("<I", zlib.crc32(header + payload)) + payload


# ---- the format -----------------------------------------------------------------------------


def test_every_byte_stands_where_the_specification_says():
    record = ABOVE.pack()
    assert record[0:3] == b"SIC"
    assert record[3] == 1  # version
    assert record[4] == 1  # kind: fusion
    assert record[5] == 0  # mode: RGB, 8 bits
    assert record[6] == 3  # slices
    assert record[7] == 0  # reserved
    assert struct.unpack("<HH", record[8:12]) == (300, 400)  # height, width
    assert record[12:20] == bytes([1, 1, 2, 8, 2, 6, 1, 11])  # platform
    assert record[20:28] == b"weightsE"
    assert record[28:36] == b"symbolsE"
    assert record[36:44] == b"symbolsB"  # of the layer below
    assert struct.unpack("<II", record[44:52]) == (0, 1)  # z and y
    assert struct.unpack("<I", record[52:56]) == (zlib.crc32(record[:52] + record[56:]),)
    assert record[56:] == b"y"


def test_a_step_other_than_1_is_version_2():
    record, plain = FINER.pack(), BASE.pack()
    assert record[3] == 2
    assert record[5] == plain[6] == 5  # slices
    assert struct.unpack("<H", record[6:8]) == (768,)  # 0.75 · 1024
    assert (record[:3], record[4], record[8:52]) == (plain[:3], plain[4], plain[8:52])
    assert read_layers(record + ABOVE.pack()) == [FINER, ABOVE]


@pytest.mark.parametrize("grid", [0, 63, 1024, 16385, 65535])
def test_a_step_that_no_writer_has_is_refused(grid):
    record = bytearray(FINER.pack())
    record[6:8] = struct.pack("<H", grid)
    with pytest.raises(StreamError, match=f"step {grid / 1024:g}, which version 2 does not have"):
        read_layers(sealed(bytes(record)))


@pytest.mark.parametrize("step", [0, 1 / 17, 1.0001, 16.5, float("nan"), float("inf")])
def test_a_writer_takes_only_steps_of_the_grid(step):
    with pytest.raises(ValueError, match="no multiple of 1/1024"):
        dataclasses.replace(BASE, step=step).pack()


def test_the_nearest_step_is_on_the_grid():
    assert container.nearest_step(1 / 16) == 1 / 16
    assert container.nearest_step(1.3) == 1331 / 1024
    assert container.nearest_step(1.0001) == 1
    for step in (0.06, 16.01, -1, float("nan")):
        with pytest.raises(SicError, match=r"is not from 0\.0625 to 16"):
            container.nearest_step(step)


def test_the_specification_says_the_same():
    """Sizes and offsets of docs/format.md, so that text and code do not part."""
    text = (Path(__file__).parents[1] / "docs" / "format.md").read_text()
    rows = re.findall(r"^\| (\d+) \| (\d+) \| `(\w+)`", text, flags=re.MULTILINE)
    first, last = rows[:15], rows[15:]  # version 1; what version 2 has instead of bytes 5 to 7
    for offset, end, table in ((0, HEADER_BYTES, first), (5, 8, last)):
        for start, size, _ in table:
            assert int(start) == offset
            offset += int(size)
        assert offset == end
    assert [name for _, _, name in rows] == [
        *("magic", "version", "kind", "mode", "slices", "reserved", "height", "width"),
        *("platform", "weights", "symbols", "below", "z_bytes", "y_bytes", "checksum"),
        *("slices", "step"),
    ]


def test_a_layer_costs_at_most_64_bytes_with_what_two_range_coders_round_up():
    assert HEADER_BYTES + 2 * 4 <= 64


@given(layers)
def test_what_is_written_is_read(layer):
    assert read_layers(layer.pack()) == [layer]
    assert len(layer.pack()) == layer.size


def test_base_and_enhancement_join_to_one_file():
    assert read_layers(BASE.pack() + ABOVE.pack()) == [BASE, ABOVE]
    assert read_layers(ABOVE.pack()) == [ABOVE]


def test_the_base_is_read_from_any_beginning_that_holds_it():
    whole = BASE.pack() + ABOVE.pack()
    for end in range(BASE.size, len(whole) + 1):
        assert read_layer(whole[:end]) == BASE


def test_info_accounts_for_every_bit():
    parts = container.info([BASE, ABOVE])
    assert sum(part.bits for part in parts) == 8 * len(BASE.pack() + ABOVE.pack())
    assert [(p.layer, p.part) for p in parts[:3]] == [
        ("base", "header"),
        ("base", "z"),
        ("base", "y"),
    ]
    assert parts[2].bpp == pytest.approx(48 / (300 * 400))


# ---- damage ---------------------------------------------------------------------------------


def test_every_truncation_is_noticed():
    whole = BASE.pack() + ABOVE.pack()
    for end in range(len(whole)):
        if end != BASE.size:  # the base alone is a file
            with pytest.raises(StreamError):
                read_layers(whole[:end])


@pytest.mark.parametrize("layer", [BASE, FINER])
def test_every_flipped_bit_is_noticed(layer):
    record = layer.pack()
    for place in range(8 * len(record)):
        damaged = bytearray(record)
        damaged[place // 8] ^= 1 << place % 8
        with pytest.raises(StreamError):
            read_layers(bytes(damaged))


@given(st.binary(max_size=200))
def test_random_bytes_are_refused(content):
    with pytest.raises(StreamError):
        read_layers(content)


def test_bytes_after_the_layers_are_refused():
    for rest in (b"\0", BASE.pack(), ABOVE.pack(), b"x" * 100):
        with pytest.raises(StreamError):
            read_layers(BASE.pack() + ABOVE.pack() + rest)


@pytest.mark.parametrize("change", [{"below": b"symbolsX"}, {"height": 299}, {"width": 1}])
def test_an_enhancement_of_another_picture_is_refused(change):
    other = dataclasses.replace(ABOVE, **change)
    with pytest.raises(StreamError, match="belongs to another base"):
        read_layers(BASE.pack() + other.pack())


def test_two_layers_of_one_kind_are_refused():
    for first, second in ((BASE, BASE), (ABOVE, ABOVE), (ABOVE, BASE)):
        with pytest.raises(StreamError, match="a file is one base layer"):
            read_layers(first.pack() + second.pack())


@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [
        (3, b"\3", "version 3"),
        (4, b"\7", "kind 7"),
        (5, b"\1", "mode 1"),
        (6, b"\0", "0 slices"),
        (7, b"\1", "other program"),
        (8, b"\0\0", "0×400 pixels"),
        (8, b"\xff\xff\xff\xff", f"limit of {MAX_PIXELS}"),
        (36, b"x", "builds on"),
        (44, b"\xff\xff\xff\xff", "cut off"),
    ],
)
def test_a_well_sealed_header_with_impossible_values_is_refused(offset, value, message):
    record = bytearray(BASE.pack())
    record[offset : offset + len(value)] = value
    with pytest.raises(StreamError, match=message):
        read_layers(sealed(bytes(record)))


def test_a_writer_refuses_what_no_reader_takes():
    with pytest.raises(ValueError, match="limit"):
        dataclasses.replace(BASE, height=60_000, width=60_000).pack()
    with pytest.raises(ValueError, match="limit"):
        dataclasses.replace(BASE, height=1, width=70_000).pack()


def test_errors_are_one_line():
    with pytest.raises(StreamError) as error:
        read_layers(b"\n\n\n" * 40)
    assert "\n" not in str(error.value)
