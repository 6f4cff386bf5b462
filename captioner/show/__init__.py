"""Captions to look at: the colour scale, figures, and pages."""

FIGURE_PIXELS = 4400
"""Neither side of a figure that is written has more pixels, whatever the picture and the caption."""
