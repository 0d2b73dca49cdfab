"""Measures of the embedded model: `python -m lssgen eval-embedded`."""

PARTS = ("alignment", "latents", "spectrum")
