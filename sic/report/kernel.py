"""The process that runs the cells of a stage's notebook."""

import os
from pathlib import Path
from typing import Any

from jupyter_client.manager import AsyncKernelManager

from sic.progress import SCREEN


class Kernel(AsyncKernelManager):
    """A kernel that draws progress on this process's stderr, and says the rest to a file."""

    #: What it says of itself: of its ports, of being stopped, and why it died.
    noise: Path

    async def start_kernel(self, **options: Any) -> None:  # type: ignore[override]
        """Start it with a copy of this process's stderr to draw on.

        What cells write to stderr comes as messages, late, and is kept in the notebook.
        """
        screen = os.dup(2)
        options |= {"env": os.environ | {SCREEN: str(screen)}, "pass_fds": (screen,)}
        try:
            with self.noise.open("wb") as noise:
                await super().start_kernel(stderr=noise, **options)
        finally:
            os.close(screen)
