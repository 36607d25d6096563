"""A trained model behind HTTP: a page for people, an interface for programs."""
