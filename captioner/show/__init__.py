"""Captions to look at: the colour scale, figures, and pages. Importing it registers what draws the results."""

import captioner.show.drawings  # noqa: F401  (which registers)
from captioner.results import Answer, Caption

__all__ = ["FIGURE_PIXELS", "Answer", "Caption"]

FIGURE_PIXELS = 4400
"""Neither side of a figure that is written has more pixels, whatever the picture and the caption."""
