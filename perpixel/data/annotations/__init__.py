"""Readers of annotations that are no masks of all classes: one file per format."""
