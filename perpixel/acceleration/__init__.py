"""Ways to run a finished model faster or in less memory, with the same numbers."""
