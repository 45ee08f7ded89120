"""Commands that code images to files and back, and bring weights into other files."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Literal

from tcm_lab._commands.options import File, Flag
from tcm_lab._utils.files import write_atomically
from tcm_lab.errors import LabError


def encode(image: File, out: File, /, *, checkpoint: Path, rate: float | None = None) -> int:
    """Code an image to a file.

    Args:
        image: in any format that Pillow reads.
        out: the coded file.
        checkpoint: weights; decoding needs the same.
        rate: level of a rate-conditioned model, 0 the cheapest.
    """
    from tcm_lab.codec import encode_image, load_checkpoint
    from tcm_lab.data import open_images

    if not image.is_file():
        raise LabError(f"{image}: there is no such image.")
    x = open_images(image, "eval")[0]
    data = encode_image(load_checkpoint(checkpoint), x.float().div(255), rate)
    write_atomically(out, data)
    height, width = x.shape[1:]
    print(f"{out}: {len(data)} bytes, {8 * len(data) / (height * width):.4f} bpp")
    return 0


def decode(file: File, out: File, /, *, checkpoint: Path) -> int:
    """Decode a file to an image.

    Args:
        file: what ``tcm-lab encode`` wrote.
        out: the image; its ending says in which format, .png keeps it whole.
        checkpoint: the weights that it was coded with.
    """
    from PIL import Image

    from tcm_lab.codec import decode_image, load_checkpoint

    kinds = Image.registered_extensions()
    if kinds.get(out.suffix.lower()) not in Image.SAVE:
        raise LabError(f"{out}: no image can be written as '{out.suffix}'. Write .png.")
    try:
        data = file.read_bytes()
    except OSError as error:
        raise LabError(f"{file}: cannot be read ({error.strerror or error}).") from None
    levels = decode_image(load_checkpoint(checkpoint), data).mul(255).round().byte()
    image = io.BytesIO()
    pixels = levels.permute(1, 2, 0).contiguous().numpy()
    Image.fromarray(pixels).save(image, format=kinds[out.suffix.lower()])
    write_atomically(out, image.getvalue())
    print(f"{out}: {pixels.shape[0]}x{pixels.shape[1]}")
    return 0


def export(
    checkpoint: File,
    out: File,
    /,
    *,
    layout: Literal["lab", "lic_tcm"] = "lab",
    half: Flag = False,
) -> int:
    """Write a checkpoint's weights to another file, half as large or for the authors' code.

    Args:
        checkpoint: weights in any layout that can be read.
        out: the file.
        layout: lab for safetensors with the whole configuration; lic_tcm for the layout of the TCM
            authors' code.
        half: store float16. The rounded weights are a codec of their own: what the original coded
            needs the original.
    """
    import torch

    from tcm_lab.codec import export_checkpoint, load_checkpoint, read_extra, save_checkpoint

    codec = load_checkpoint(checkpoint)
    if layout != "lab":
        if half:
            raise LabError(f"--half: the layout {layout} holds float32. Leave out one of the two.")
        export_checkpoint(codec, out, layout)
    else:
        save_checkpoint(codec, out, read_extra(checkpoint), dtype=torch.float16 if half else None)
    print(f"{out}: {out.stat().st_size} bytes")
    return 0
