"""Write the central crop of every image in a folder, as evaluation images for studies.

``python studies/crops.py KODAK runs/kodak-256``. Coding the whole Kodak images would take longer
than a short training run.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

SIDE = 256


def main() -> None:
    """Write square crops of ``SIDE`` pixels as PNG files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    paths = sorted(args.images.glob("*.png"))
    if not paths:
        parser.error(f"{args.images}: holds no PNG files")
    args.out.mkdir(parents=True, exist_ok=True)
    for path in paths:
        with Image.open(path) as image:
            if min(image.size) < SIDE:
                parser.error(f"{path}: is smaller than {SIDE}x{SIDE} pixels")
            left, top = (image.width - SIDE) // 2, (image.height - SIDE) // 2
            image.crop((left, top, left + SIDE, top + SIDE)).save(args.out / path.name)


if __name__ == "__main__":
    main()
