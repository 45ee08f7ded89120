"""Writes the middle of every image of a folder, for studies to be evaluated on.

``python studies/crops.py KODAK runs/kodak-256``. To code the whole of Kodak would take longer than
a short training itself.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

SIDE = 256


def main() -> None:
    """Write crops of ``SIDE`` pixels as PNG."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    for path in sorted(given.images.glob("*.png")):
        with Image.open(path) as image:
            left, top = (image.width - SIDE) // 2, (image.height - SIDE) // 2
            image.crop((left, top, left + SIDE, top + SIDE)).save(given.out / path.name)


if __name__ == "__main__":
    main()
