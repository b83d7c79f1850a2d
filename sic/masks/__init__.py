"""From photos to the edge mask m_x: segments with a confidence (`segment`, by `sam`, `mobile_sam`,
a graph-based stand-in or people's `annotations`), how they lie on disk (`records`), and their
contours (`edges`)."""
