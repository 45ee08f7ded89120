"""Write the files that every later version must decode; they are written once and never again.

A large margin makes the encoder list far more decisions than necessary, so no list is empty.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from portable_codecs import SMALL, image, small_codec

from tcm_lab.codec import decode_image, encode_image, portable

if __name__ == "__main__":
    portable.MARGIN = 2.0**-7
    folder = Path(__file__).parent / "files"
    folder.mkdir(exist_ok=True)
    images = {}
    for name in SMALL:
        codec = small_codec(name)
        rate = 1.5 if codec.config.rate_levels else None
        data = encode_image(codec, image(40, 30), rate, portable=True)
        (folder / f"{name}.tcm").write_bytes(data)
        images[name] = decode_image(codec, data).mul(255).round().byte().numpy()
    np.savez_compressed(folder / "images.npz", **images)
