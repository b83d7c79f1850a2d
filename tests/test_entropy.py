"""Range coding: exact for any integers, and as short as the likelihoods say."""

import math

import numpy as np
import pytest
import torch
from compressai.entropy_models import GaussianConditional
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_weights import fill
from scipy.stats import norm
from small import SIZES

from sic.codec.density import EntropyBottleneck
from sic.codec.tcm import TCM
from sic.errors import StreamError
from sic.stream import entropy
from sic.stream.entropy import LIMIT, SCALES, SymbolDecoder, SymbolEncoder, gaussian_tables


def write(symbols, index, tables) -> bytes:
    encoder = SymbolEncoder()
    encoder.encode(np.asarray(symbols), np.asarray(index), tables)
    return encoder.finish()


def read(part: bytes, index, tables) -> list[int]:
    decoder = SymbolDecoder(part)
    symbols = decoder.decode(np.asarray(index), tables)
    decoder.finish()
    return symbols.tolist()


@pytest.fixture(scope="module")
def bottleneck() -> EntropyBottleneck:
    return fill(TCM(**SIZES), "icm").entropy_bottleneck.double().eval()


# ---- tables ---------------------------------------------------------------------------------


def test_the_scale_table_is_the_64_levels_of_tcm():
    assert len(SCALES) == 64
    assert SCALES[0].item() == pytest.approx(0.11)
    assert SCALES[-1].item() == pytest.approx(256)
    steps = SCALES[1:] / SCALES[:-1]
    torch.testing.assert_close(steps, steps[:1].expand(63))


def test_gaussian_tables_hold_the_gaussian_probabilities():
    for scale, table in zip(SCALES.tolist(), gaussian_tables(), strict=True):
        q = np.arange(table.low, table.low + table.escape)
        exact = norm.cdf((q + 0.5) / scale) - norm.cdf((q - 0.5) / scale)
        counted = table.counts[:-1] / entropy.GAUSSIAN_TOTAL
        np.testing.assert_allclose(counted, exact, atol=1 / entropy.GAUSSIAN_TOTAL)
        assert table.low == -q[-1]  # symmetric
        assert abs(table.counts.sum() - entropy.GAUSSIAN_TOTAL) <= len(q)


def test_gaussian_tables_are_those_that_every_stream_is_written_with():
    """The format depends on them: another digest is another format."""
    assert entropy.tables_digest(gaussian_tables()) == "db3b6890af828c35"


def test_a_platform_with_other_tables_is_refused(monkeypatch):
    monkeypatch.setattr(math, "erfc", lambda x: 0.999 * torch.erfc(torch.tensor(x)).item())
    entropy.gaussian_tables.cache_clear()
    try:
        with pytest.raises(entropy.SicError, match="coding tables come out differently"):
            gaussian_tables()
    finally:
        entropy.gaussian_tables.cache_clear()


def test_learned_tables_hold_the_likelihoods_of_compressai(bottleneck):
    tables = entropy.learned_tables(bottleneck)
    medians = bottleneck.medians.detach()
    for channel, table in enumerate(tables):
        q = torch.arange(table.low, table.low + table.escape, dtype=torch.float64)
        z = (medians[channel, 0, 0] + q).reshape(1, 1, 1, -1)
        z = z.expand(1, len(tables), 1, -1).contiguous()
        likelihood = bottleneck(z)[0, channel, 0].detach().numpy()
        counted = table.counts[:-1] / entropy.LEARNED_TOTAL
        np.testing.assert_allclose(counted, likelihood, atol=1 / entropy.LEARNED_TOTAL)


def test_sigma_goes_to_the_nearest_scale_in_log_sigma():
    scale = torch.from_numpy(np.geomspace(0.12, 250, 5000))
    nearest = (scale.log()[:, None] - SCALES.log()).abs().argmin(dim=1)
    np.testing.assert_array_equal(entropy.scale_index(scale), nearest)


def test_sigma_out_of_range_goes_to_the_ends():
    odd = torch.tensor([-3.0, 0.0, 1e-9, 0.11, 256.0, 1e9, math.inf])
    assert entropy.scale_index(odd).tolist() == [0, 0, 0, 0, 63, 63, 63]
    assert entropy.scale_index(torch.tensor([math.nan]))[0] < 64


# ---- round trips ----------------------------------------------------------------------------

any_symbol = st.one_of(
    st.integers(-3, 3),
    st.integers(-2000, 2000),
    st.sampled_from([10**5, -(10**5), LIMIT, -LIMIT]),
    st.integers(-LIMIT, LIMIT),
)


@given(st.lists(st.tuples(any_symbol, st.integers(0, 63)), max_size=80))
def test_any_symbols_under_any_sigma_come_back(pairs):
    symbols, index = [s for s, _ in pairs], np.array([i for _, i in pairs], dtype=np.uint8)
    assert read(write(symbols, index, gaussian_tables()), index, gaussian_tables()) == symbols


@given(st.data())
def test_any_hyper_symbols_come_back(bottleneck, data):
    tables = entropy.learned_tables(bottleneck)
    symbols = data.draw(st.lists(any_symbol, min_size=len(tables), max_size=len(tables)))
    index = np.arange(len(tables))
    assert read(write(symbols, index, tables), index, tables) == symbols


def test_both_signs_of_every_distance_from_the_table_come_back():
    around = np.concatenate([2**k + np.arange(-3, 4) for k in range(2, 29)])
    symbols = np.concatenate([-around, around])
    for level in (0, 30, 63):
        index = np.full(len(symbols), level)
        part = write(symbols, index, gaussian_tables())
        assert read(part, index, gaussian_tables()) == symbols.tolist()


def test_calls_share_one_part():
    """Slices are coded one after the other into the same part."""
    index = np.zeros(5, dtype=np.uint8)
    encoder = SymbolEncoder()
    for k in range(4):
        encoder.encode(np.full(5, k), index + 20 * k, gaussian_tables())
    decoder = SymbolDecoder(encoder.finish())
    for k in range(4):
        assert decoder.decode(index + 20 * k, gaussian_tables()).tolist() == [k] * 5
    decoder.finish()


def test_nothing_takes_no_bytes():
    assert write([], np.array([], dtype=int), gaussian_tables()) == b""
    assert read(b"", np.array([], dtype=int), gaussian_tables()) == []


def test_a_symbol_beyond_the_limit_is_refused():
    with pytest.raises(ValueError, match="exceeds"):
        write([LIMIT + 1], [0], gaussian_tables())


def test_the_bytes_are_those_of_the_format():
    """Streams written by earlier releases must stay readable, whatever constriction does."""
    symbols = [0, 1, -1, 7, -300, 100_000, 2, 0]
    index = [0, 5, 20, 20, 63, 40, 1, 63]
    assert write(symbols, index, gaussian_tables()).hex() == "ffffc3fa27c9f1a9fefffe494c3b2fc5"


# ---- rates ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("low", "high"), [(0.11, 0.5), (0.2, 1), (0.11, 8), (1, 200)])
def test_gaussian_rate_is_within_one_percent_of_the_likelihoods(low, high):
    rng = np.random.default_rng(0)
    scale = np.geomspace(low, high, 200_000)
    symbols = np.rint(rng.normal(0, scale)).astype(np.int64)
    model = GaussianConditional(None).double().eval()
    likelihood = model(torch.from_numpy(symbols).double(), torch.from_numpy(scale))[1]
    estimated = -torch.log2(likelihood).sum().item()
    part = write(symbols, entropy.scale_index(torch.from_numpy(scale)), gaussian_tables())
    assert 8 * len(part) == pytest.approx(estimated, rel=0.01)


def test_hyper_rate_is_within_one_percent_of_the_likelihoods(bottleneck):
    rng = np.random.default_rng(0)
    tables = entropy.learned_tables(bottleneck)
    count = 2000
    symbols = np.stack(
        [
            table.low + rng.choice(len(table.counts) - 1, count, p=table.counts[:-1] / total)
            for table in tables
            for total in [table.counts[:-1].sum()]
        ]
    )
    z = torch.from_numpy(symbols).double().unsqueeze(0).unsqueeze(2)
    z = z + bottleneck.medians.detach().reshape(1, -1, 1, 1)
    estimated = -torch.log2(bottleneck(z)).sum().item()
    part = write(symbols.flatten(), np.repeat(np.arange(len(tables)), count), tables)
    assert 8 * len(part) == pytest.approx(estimated, rel=0.01)


def test_an_exceptional_symbol_costs_tens_of_bits_not_thousands():
    index = np.zeros(1000, dtype=np.uint8)
    symbols = np.zeros(1000, dtype=int)
    plain = len(write(symbols, index, gaussian_tables()))
    symbols[500] = 100_000
    assert 8 * (len(write(symbols, index, gaussian_tables())) - plain) < 17 + 2 * 18 + 32


# ---- bad parts ------------------------------------------------------------------------------


@settings(max_examples=200)
@given(st.binary(max_size=64), st.lists(st.integers(0, 63), min_size=1, max_size=200))
def test_random_bytes_give_symbols_or_a_stream_error(part, index):
    try:
        symbols = read(part, np.array(index, dtype=np.uint8), gaussian_tables())
    except StreamError:
        return
    assert max(map(abs, symbols)) <= LIMIT


def test_bytes_left_over_are_noticed():
    index = np.full(100, 30)
    part = write(np.arange(100) % 7 - 3, index, gaussian_tables())
    with pytest.raises(StreamError, match="left"):
        read(part + b"\1\2\3\4\5\6\7\x08", index, gaussian_tables())
