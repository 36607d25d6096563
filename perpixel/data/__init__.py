"""Where labelled pictures come from, and how batches are made of them."""
