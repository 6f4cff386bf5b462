"""Captions for people: figures and pages. This module holds what the help of commands states, and imports nothing."""

FIGURE_PIXELS = 4400
"""Neither side of a figure that is written has more pixels, whatever the picture and the caption."""
