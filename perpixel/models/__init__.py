"""Models: normalized images in, logits out."""
