"""Range coding of integer symbols with the codec's two kinds of distribution.

ẑ has the learned distribution of each channel; round(y − μ), of a slice of y, a Gaussian of zero
mean whose σ is one of 64.  Both become integer tables (docs/format.md, section 4); what lies
outside a table is coded by an escape symbol and an Elias-gamma number.  The range coder is
constriction's."""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from constriction import stream
from numpy.typing import NDArray
from torch import Tensor

from sic.codec.density import EntropyBottleneck
from sic.errors import SicError, StreamError

Symbols = NDArray[np.int32]

#: The scale table: 64 values of σ from 0.11 to 256, evenly spaced in log σ.
SCALES = torch.exp(torch.linspace(math.log(0.11), math.log(256), 64, dtype=torch.float64))
#: σ between two of them goes to the nearer one in log σ.
_BORDERS = torch.sqrt(SCALES[1:] * SCALES[:-1])

#: Largest absolute symbol that a stream can hold.
LIMIT = 2**29

#: A Gaussian's table covers |q| ≤ r, the smallest r ≥ 2 whose two tails weigh at most this.
GAUSSIAN_TAILS = 2.0**-16
GAUSSIAN_TOTAL = 2**22
#: A learned table covers the integers about the median until each tail weighs at most this.
LEARNED_TAIL = 2.0**-15
LEARNED_TOTAL = 2**16
LEARNED_REACH = 512

#: BLAKE2b of the 64 integer tables.  They come from erfc, the one function here that may differ
#: between mathematical libraries; a platform where they differ must not write or read streams.
GAUSSIAN_DIGEST = "db3b6890af828c35"


@dataclass(frozen=True)
class Table:
    """Frequencies of the symbols ``low`` … ``high``, and last of the escape symbol."""

    low: int
    counts: NDArray[np.int64]
    model: stream.model.Categorical

    @classmethod
    def of(cls, low: int, mass: NDArray[np.float64], total: int) -> "Table":
        """Round probabilities to multiples of 1/total, at least one each; the rest escapes."""
        counts = np.maximum(np.rint(mass * total), 1)
        counts = np.append(counts, max(total - counts.sum(), 1)).astype(np.int64)
        # Integers below 2^53 are exact in float64, so constriction scales them alike everywhere.
        return cls(low, counts, stream.model.Categorical(counts.astype(np.float64), perfect=False))

    @property
    def escape(self) -> int:
        """Place of the escape symbol in the table."""
        return len(self.counts) - 1

    @property
    def high(self) -> int:
        """The last symbol."""
        return self.low + self.escape - 1


def scale_index(scale: Tensor) -> NDArray[np.uint8]:
    """Which of ``SCALES`` stands for each σ; σ below 0.11 or not a number takes an end."""
    index = torch.bucketize(scale.detach().cpu().double().flatten(), _BORDERS)
    return index.numpy().astype(np.uint8)


@lru_cache(maxsize=1)
def gaussian_tables() -> tuple[Table, ...]:
    """The 64 tables of the slices, one for each of ``SCALES``.  Raises SicError if this machine's
    mathematics give other tables than everyone else's."""
    tables = tuple(_gaussian_table(float(scale)) for scale in SCALES)
    if tables_digest(tables) != GAUSSIAN_DIGEST:
        raise SicError(
            "the coding tables come out differently on this platform, so that nobody else could "
            "read its streams; use another build of Python"
        )
    return tables


def _gaussian_table(scale: float) -> Table:
    def tails(r: int) -> float:
        return math.erfc((r + 0.5) / (scale * math.sqrt(2)))

    reach = 2
    while tails(reach) > GAUSSIAN_TAILS:
        reach += 1
    outside = np.array([1.0, *map(tails, range(reach + 1))])  # P(|q| ≥ 0), P(|q| > 0), …
    side = -np.diff(outside) / 2  # of one sign; the first entry is half of P(q = 0)
    mass = np.concatenate((side[:0:-1], [2 * side[0]], side[1:]))
    return Table.of(-reach, mass, GAUSSIAN_TOTAL)


def learned_tables(bottleneck: EntropyBottleneck) -> tuple[Table, ...]:
    """The table of each channel of ẑ from its learned cumulative distribution c.

    Symbol s stands for median + s, with probability c(median + s + ½) − c(median + s − ½).  The
    bottleneck must be in float64 on the CPU; of its quantiles only the medians need be trained.
    """
    with torch.no_grad():
        edges = torch.arange(-LEARNED_REACH, LEARNED_REACH + 2, dtype=torch.float64) - 0.5
        logits = bottleneck.logits(bottleneck.medians + edges)
    return tuple(_learned_table(channel) for channel in torch.sigmoid(logits).squeeze(1).numpy())


def _learned_table(below: NDArray[np.float64]) -> Table:
    """A table from c at the edges −reach − ½ … reach + ½ about the median."""
    first = max(int(np.searchsorted(below, LEARNED_TAIL, side="right")) - 1, 0)
    last = int(np.searchsorted(below[:-1], 1 - LEARNED_TAIL, side="left"))
    if last <= first:
        raise SicError("the distribution of z is degenerate; the weights are bad")
    return Table.of(first - LEARNED_REACH, np.diff(below[first : last + 1]), LEARNED_TOTAL)


def tables_digest(tables: Sequence[Table]) -> str:
    """BLAKE2b-64 (hexadecimal) of integer tables."""
    rows = [np.append(table.low, table.counts).astype("<i8").tobytes() for table in tables]
    return hashlib.blake2b(b"".join(rows), digest_size=8).hexdigest()


#: ⌊log₂⌋ of an Elias-gamma number from 1 to 2^31 − 1 is geometric; its other bits are uniform.
_LENGTHS = stream.model.Categorical(2.0 ** -np.arange(1.0, 32.0), perfect=False)
_BITS = stream.model.Uniform()


class SymbolEncoder:
    """Writes one part of a stream: call :meth:`encode` as often as needed, then :meth:`finish`."""

    def __init__(self) -> None:
        self._coder = stream.queue.RangeEncoder()

    def encode(
        self, symbols: NDArray[np.integer], index: NDArray[np.integer], tables: Sequence[Table]
    ) -> None:
        """Append symbols (count,), at most ±``LIMIT``, each by the table that ``index`` names."""
        values = symbols.astype(np.int64)
        if values.size and np.abs(values).max() > LIMIT:
            raise ValueError(f"a symbol exceeds ±{LIMIT}")
        order, groups = _by_table(index, tables)
        values, kinds = values[order], index[order]
        place = values - np.array([table.low for table in tables])[kinds]
        escape = np.array([table.escape for table in tables])[kinds]
        escaped = (place < 0) | (place >= escape)
        place = np.where(escaped, escape, place).astype(np.int32)
        for table, group in groups:
            self._coder.encode(place[group], table.model)
            if escaped[group].any():
                self._escape(values[group][escaped[group]], table)

    def _escape(self, symbols: NDArray[np.int64], table: Table) -> None:
        """Sign and distance from the table, as Elias-gamma numbers."""
        above = symbols >= table.low
        distance = np.where(above, symbols - table.high, table.low - symbols)  # at least 1
        number = 2 * distance - above  # the sign is its lowest bit
        length = np.frexp(number.astype(np.float64))[1].astype(np.int64) - 1
        self._coder.encode(length.astype(np.int32), _LENGTHS)
        for shift, size, coded in _fields(length):
            value = (number >> shift) % size
            self._coder.encode(value[coded].astype(np.int32), _BITS, size[coded].astype(np.int32))

    def finish(self) -> bytes:
        """The part: big-endian words of 32 bits without the zeros at the end."""
        return self._coder.get_compressed().astype(">u4").tobytes().rstrip(b"\0")


class SymbolDecoder:
    """Reads the bytes that :meth:`SymbolEncoder.finish` gave: the same calls in the same order."""

    def __init__(self, part: bytes) -> None:
        words = np.frombuffer(part + bytes(-len(part) % 4), dtype=">u4")
        self._coder = stream.queue.RangeDecoder(words.astype(np.uint32))

    def decode(self, index: NDArray[np.integer], tables: Sequence[Table]) -> Symbols:
        """Read ``len(index)`` symbols, each coded with its table.  Raises StreamError if the bytes
        are not what an encoder with these tables writes."""
        order, groups = _by_table(index, tables)
        values = np.empty(len(index), dtype=np.int64)
        try:
            for table, group in groups:
                place = self._coder.decode(table.model, group.stop - group.start)
                value = place.astype(np.int64) + table.low
                escaped = place == table.escape
                if escaped.any():
                    value[escaped] = self._escape(int(escaped.sum()), table)
                values[group] = value
        except AssertionError:  # constriction: no encoder writes such bytes
            raise StreamError("the coded symbols do not fit their distributions") from None
        symbols = np.empty(len(index), dtype=np.int32)
        symbols[order] = values
        return symbols

    def _escape(self, count: int, table: Table) -> NDArray[np.int64]:
        length = self._coder.decode(_LENGTHS, count).astype(np.int64)
        number = np.int64(1) << length
        for shift, size, coded in _fields(length):
            value = self._coder.decode(_BITS, size[coded].astype(np.int32))
            number[coded] += value.astype(np.int64) << shift
        distance = (number + 1) // 2
        value = np.where(number % 2 == 1, table.high + distance, table.low - distance)
        if np.abs(value).max() > LIMIT:
            raise StreamError(f"a coded symbol exceeds ±{LIMIT}")
        return value

    def finish(self) -> None:
        """Check that the part ends here; if bytes are left over, that is a StreamError."""
        if not self._coder.maybe_exhausted():
            raise StreamError("bytes are left after the last coded symbol")


def _by_table(
    index: NDArray[np.integer], tables: Sequence[Table]
) -> tuple[NDArray[np.intp], list[tuple[Table, slice]]]:
    """An order that puts the symbols of a table together, tables ascending and places too, and the
    tables in use, each with its part of that order."""
    order = np.argsort(index, kind="stable")
    ends = np.bincount(index, minlength=len(tables)).cumsum().tolist()
    bounds = zip(tables, [0, *ends], ends, strict=False)
    return order, [(table, slice(first, last)) for table, first, last in bounds if first < last]


def _fields(
    length: NDArray[np.int64],
) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.bool_]]]:
    """The bits below the leading one, in a high and a low field of at most 16 bits each: place of
    the field, number of its values for each symbol, and which symbols have it."""
    for shift, bits in ((16, np.maximum(length - 16, 0)), (0, np.minimum(length, 16))):
        size = np.int64(1) << bits
        coded = bits > 0
        if coded.any():
            yield shift, size, coded
