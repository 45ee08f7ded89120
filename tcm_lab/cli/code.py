"""Commands that encode and decode images, and write checkpoints in other layouts."""

from __future__ import annotations

import io
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import tcm_lab
from tcm_lab._utils.files import check_suffix, is_file, keep_inputs, write_atomically
from tcm_lab.cli import options
from tcm_lab.cli.options import File, Flag
from tcm_lab.errors import LabError


def encode(
    image: File,
    out: File,
    /,
    *,
    checkpoint: Path,
    rate: float | None = None,
    portable: Flag = False,
) -> None:
    """Encode an image to a file.

    Args:
        image: Image in any format that Pillow reads.
        out: Coded file to write.
        checkpoint: Weights, or a trained codec's name (tcm-nano); decoding needs the same.
        rate: Rate level, which rate-conditioned models require; 0 gives the lowest rate.
        portable: Write a file that other devices, thread counts and library versions can decode.
    """
    from PIL import Image

    if not is_file(image):
        raise LabError(f"{image}: no such image")
    check_suffix(out, [".tcm"], "a coded file", Image.registered_extensions())
    keep_inputs(out, image, checkpoint)
    options.check_place(out, "")
    x = tcm_lab.data.open_images(image, "eval")[0]
    codec = tcm_lab.load_checkpoint(checkpoint)
    data = tcm_lab.codec.encode_image(codec, x.float().div(255), rate, portable=portable)
    write_atomically(out, data)
    height, width = x.shape[1:]
    header = tcm_lab.codec.read_header(data)
    decisions = header.decision_bytes
    kind = "" if decisions is None else f", portable, with {decisions} bytes of decisions"
    rates = [8 * n / (height * width) for n in (len(data), header.y_bytes + header.z_bytes)]
    print(f"{out}: {len(data)} bytes, {rates[0]:.4f} bpp (payload {rates[1]:.4f} bpp){kind}")


def decode(file: File, out: File, /, *, checkpoint: Path) -> None:
    """Decode a file to an image.

    Args:
        file: Coded file, as encode writes it.
        out: Image to write; its suffix chooses the format, and .png is lossless.
        checkpoint: Weights, or trained codec's name, that the image was encoded with.
    """
    from PIL import Image

    kinds = Image.registered_extensions()
    if kinds.get(out.suffix.lower()) not in Image.SAVE:
        raise LabError(f"{out}: cannot write images as '{out.suffix}'. Write .png.")
    keep_inputs(out, file, checkpoint)
    options.check_place(out, "")
    try:
        data = file.read_bytes()
    except OSError as error:
        raise LabError(f"{file}: cannot be read ({error.strerror or error}).") from None
    codec = tcm_lab.load_checkpoint(checkpoint)
    try:
        x_hat = tcm_lab.codec.decode_image(codec, data)
    except LabError as error:
        raise LabError(f"{file}: {error}") from None
    pixels = x_hat.mul(255).round().byte().permute(1, 2, 0).contiguous().numpy()
    write_atomically(out, _as_file(Image.fromarray(pixels), kinds[out.suffix.lower()], out))
    print(f"{out}: {pixels.shape[0]}x{pixels.shape[1]}")


def _as_file(image: Any, kind: str, out: Path) -> bytes:
    """Return an image in one of Pillow's formats.

    Raises:
        LabError: the format can't store an image of this size.
    """
    from PIL import Image

    file = io.BytesIO()
    try:
        image.save(file, format=kind)
        if kind in Image.OPEN:  # icons are scaled to the sizes that the format allows
            # Pillow refuses very large images as a possible attack; this one is our own.
            with suppress(Image.DecompressionBombError), warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                with Image.open(file) as written:
                    if written.size != image.size:
                        raise ValueError(f"it would be scaled to {written.height}x{written.width}")
    except Exception as error:  # Pillow's writers raise errors of any type
        size = f"{image.height}x{image.width}"
        raise LabError(
            f"{out}: cannot write an image of {size} as '{out.suffix}' ({error}). Write .png."
        ) from None
    return file.getvalue()


def export(checkpoint: File, out: File, /, *, layout: str = "lab", half: Flag = False) -> None:
    """Write a checkpoint to another file, at half the size or for the authors' code.

    Args:
        checkpoint: Weights in any known layout, or a trained codec's name.
        out: File to write.
        layout: lab (safetensors with the whole configuration), or the layout of the authors of
            TCM (lic_tcm), DCAE (dcae), HPCM (hpcm) or MLIC++ (mlicpp).
        half: Store float16. The rounded weights are a different codec, which cannot decode files
            that the original has encoded.
    """
    import torch

    keep_inputs(out, checkpoint)
    options.check_place(out, "")
    codec = tcm_lab.load_checkpoint(checkpoint)
    written = options.choice("--layout", layout, ("lab", *tcm_lab.codec.LAYOUTS))
    if written == "lab":
        extra, dtype = tcm_lab.codec.read_extra(checkpoint), torch.float16 if half else None
        tcm_lab.save_checkpoint(codec, out, extra, dtype=dtype)
    elif half:
        raise LabError(f"--half: the layout {layout} holds float32. Leave out one of the two.")
    else:
        tcm_lab.codec.export_checkpoint(codec, out, written)
    print(f"{out}: {out.stat().st_size} bytes")
