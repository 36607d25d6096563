"""ResNets an eighth as wide, for tests of all that goes on around a model.

`python narrow.py train ...` is `perpixel train ...` with them.
"""

from pathlib import Path

WIDTHS = (8, 16, 32, 64)
CODE = f"""import sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from perpixel.models import resnet
resnet.WIDTHS = {WIDTHS}
"""
"""What a script begins with that has them, too: this checkout's, wherever it runs."""

if __name__ == "__main__":
    exec(CODE)
    from perpixel.cli.main import main

    main()
