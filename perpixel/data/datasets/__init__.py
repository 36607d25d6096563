"""Published data sets, folders described by a dataset.toml, and synthetic streets."""
