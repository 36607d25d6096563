"""From a picture to a class map."""
