"""Published data sets, the user's own, and synthetic streets."""
