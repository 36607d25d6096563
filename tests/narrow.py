"""ResNets an eighth as wide, for tests of all that goes on around a network.

`python narrow.py train ...` is `perpixel train ...` with them.
"""

WIDTHS = (8, 16, 32, 64)
CODE = f"from perpixel.models import resnet\nresnet.WIDTHS = {WIDTHS}\n"
"""What a script begins with that has them, too."""

if __name__ == "__main__":
    exec(CODE)
    from perpixel.cli.main import main

    main()
