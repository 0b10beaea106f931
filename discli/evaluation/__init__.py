"""Scores of image sets: image sets, feature networks, references, metrics."""
