"""Training curves, as the training notebooks show them while they run."""

import pandas as pd
from matplotlib.figure import Figure

PANELS = {"loss": "loss L", "bpp": "rate (bits per pixel)", "psnr": "PSNR (dB)"}
STYLES = {"train": "-", "validation": "--o"}


def curves(history: pd.DataFrame, title: str) -> Figure:
    """Loss, rate and PSNR over the steps.

    Args:
        history: as :func:`sic.train.train` returns it.
        title: what was trained.
    """
    figure = Figure(figsize=(11, 3), layout="constrained")
    figure.suptitle(title)
    for axes, (column, label) in zip(figure.subplots(1, 3), PANELS.items(), strict=True):
        for split, style in STYLES.items():
            rows = history[history.split == split]
            axes.plot(rows.step, rows[column], style, label=split, markersize=3)
        axes.set(xlabel="step", ylabel=label, yscale="log" if column == "loss" else "linear")
        axes.grid(alpha=0.3)
    axes.legend()
    return figure
