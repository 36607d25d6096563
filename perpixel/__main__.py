"""`python -m perpixel` is `perpixel`."""

from perpixel.cli.main import main

main()
