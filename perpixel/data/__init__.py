"""Data sets: opening, checking, caching, augmenting and batching labeled images."""
