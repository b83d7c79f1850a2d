"""What the numbers say, in sentences that the report opens with."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

#: A difference in PSNR below this is called equal: the spread of small training runs.
EQUAL_DB = 0.1


def mean_gain(
    ours: pd.DataFrame, theirs: pd.DataFrame, our_rate: str, their_rate: str
) -> float | None:
    """Mean PSNR gain in dB of one curve over another, over the rates that both cover.

    Linear between points, even weight on log rate.  Three points a curve are too few for a
    Bjøntegaard delta, which fits a polynomial.

    Args:
        ours, theirs: rows of :func:`sic.evaluate.means` of one codec each.
        our_rate, their_rate: the columns that count as rate.

    Returns:
        The gain, or None where no rate is covered by both.
    """
    a = ours.sort_values(our_rate)[[our_rate, "psnr"]].to_numpy(dtype=float)
    b = theirs.sort_values(their_rate)[[their_rate, "psnr"]].to_numpy(dtype=float)
    low, high = max(a[0, 0], b[0, 0]), min(a[-1, 0], b[-1, 0])
    if low >= high:
        return None
    rates = np.geomspace(low, high, 101)
    gain = np.interp(rates, *a.T) - np.interp(rates, *b.T)
    return float(gain.mean())


def sentences(means: pd.DataFrame, m: int) -> Iterator[str]:
    """The findings, one sentence each.

    Args:
        means: as :func:`sic.evaluate.means` returns them.
        m: slices of the fusion codec that stands for the proposed method.
    """
    of = {str(name): rows for name, rows in means.groupby("codec")}
    base, lic, difference = of["SA-ICM"].iloc[0], of["LIC"], of["difference"]
    fusion = of["fusion"][of["fusion"].m == m]
    nothing = of["mean colour"].iloc[0].psnr
    weakest = min(lic.psnr.min(), fusion.psnr.min(), difference.psnr.min())
    yield (
        f"The base takes {base.bpp:.3f} bpp; its picture for machines, x̂_t, has "
        f"{base.psnr_machine:.2f} dB. The human LIC takes {lic.bpp.min():.3f} to "
        f"{lic.bpp.max():.3f} bpp for {lic.psnr.min():.2f} to {lic.psnr.max():.2f} dB."
    )
    verdict = "beats" if weakest > nothing else "does NOT beat"
    yield (
        f"Each trained codec {verdict} sending nothing: the weakest picture for people has "
        f"{weakest:.2f} dB, the mean colour alone {nothing:.2f} dB (means over the photos)."
    )
    yield _compare("feature fusion", fusion, "bpp_additional", "the DC model", difference)
    yield _compare("feature fusion", fusion, "bpp_additional", "the human LIC", lic, "bpp")
    yield _compare("feature fusion", fusion, "bpp", "the DC model", difference, "bpp")
    yield _compare("feature fusion", fusion, "bpp", "the human LIC", lic, "bpp")
    for name in ("JPEG", "WebP"):
        yield _compare("the human LIC", lic, "bpp", name, of[name], "bpp")
    spread = of["fusion"].groupby("lmbda").psnr.agg(np.ptp).max()
    yield (
        f"Between m = {of['fusion'].m.min()} and m = {of['fusion'].m.max()}, PSNR at one λ "
        f"differs by {spread:.2f} dB at most."
    )


def _compare(
    our_name: str,
    ours: pd.DataFrame,
    our_rate: str,
    their_name: str,
    theirs: pd.DataFrame,
    their_rate: str | None = None,
) -> str:
    """A sentence on who is better, where rates overlap."""
    their_rate = their_rate or our_rate
    counted = "additional bits" if our_rate == "bpp_additional" else "all bits"
    gain = mean_gain(ours, theirs, our_rate, their_rate)
    head = f"Counting {counted}, {our_name}"
    if gain is None:
        spans = (
            f"{ours[our_rate].min():.3f}–{ours[our_rate].max():.3f} against "
            f"{theirs[their_rate].min():.3f}–{theirs[their_rate].max():.3f} bpp"
        )
        return f"{head} and {their_name} have no rate in common ({spans})."
    if abs(gain) < EQUAL_DB:
        return f"{head} and {their_name} are equal ({gain:+.2f} dB on average at equal rate)."
    verdict = "better" if gain > 0 else "worse"
    return f"{head} is {abs(gain):.2f} dB {verdict} than {their_name} on average at equal rate."
