"""The learning rate over the steps: a warm-up, then drops by 10 or half a cosine."""

import math

from sic.params import Train


def factor(step: int, steps: int, settings: Train) -> float:
    """What the learning rate is multiplied by at a step.

    Args:
        step: from 0.
        steps: steps of the whole run.
        settings: `train` of params.yaml: `schedule`, `milestones` and `warmup`.

    Returns:
        In [0, 1]: rises linearly over the warm-up; with `multistep` it drops by 10 after each
        share of the steps in `milestones` (TCM's recipe: 45/50 and 48/50), with `cosine` it
        falls to 0 over the steps after the warm-up.
    """
    warm = min((step + 1) / (settings.warmup + 1), 1.0)
    if settings.schedule == "multistep":
        passed = sum(step >= round(share * steps) for share in settings.milestones)
        return warm * 0.1**passed
    share = max(step - settings.warmup, 0) / max(steps - settings.warmup, 1)
    return warm * (1 + math.cos(math.pi * min(share, 1.0))) / 2
