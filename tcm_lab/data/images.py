"""Named images, listed once and decoded on access; skipped files are reported once."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Literal, NamedTuple, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from tcm_lab._utils.files import as_text, is_file, is_folder
from tcm_lab.errors import FileError

logger = logging.getLogger(__name__)

Purpose = Literal["train", "eval"]

# The colour photographs in every scikit-image wheel since 0.19. The two motorcycle images show one
# scene, so they stay together. The evaluation images are ordinary photographs that were never JPEG
# files, since those would flatter the JPEG anchor.
EMBEDDED: dict[Purpose, tuple[str, ...]] = {
    "train": (
        "hubble_deep_field.jpg",
        "ihc.png",
        "motorcycle_left.png",
        "motorcycle_right.png",
        "retina.jpg",
        "rocket.jpg",
    ),
    "eval": ("astronaut.png", "chelsea.png", "coffee.png"),
}

_WANTED = "Name a PNG, JPEG or WebP image, or a folder of them."
_HEAD_BYTES = 4096
#: Formats whose first frame is the image; the others are its previews or layers.
_ONE_FIRST = ("MPO", "PSD")
_WIDTH, _HEIGHT, _BITS, _PHOTOMETRIC = 256, 257, 258, 262  # TIFF tags
_BLACK_IS_ZERO = 1  # a value of the last


class _Entry(NamedTuple):
    """One usable file."""

    name: str
    path: Path
    size: tuple[int, int]
    digest: str


class ImageSet(Sequence[Tensor]):
    """Images in the order of their names, each decoded on access to uint8 (3, H, W).

    Attributes:
        names: path of each image below the folder, with forward slashes.
        sizes: (height, width) of each image.
        skipped: ``"name: reason"`` for each file that was skipped.
        embedded: whether these are the photographs of the scikit-image wheel.
    """

    def __init__(
        self, entries: Sequence[_Entry], skipped: Sequence[str], *, embedded: bool, origin: str
    ) -> None:
        self._entries = tuple(entries)
        self.names = tuple(entry.name for entry in entries)
        self.sizes = tuple(entry.size for entry in entries)
        self.skipped = tuple(skipped)
        self.embedded = embedded
        self.origin = origin
        self._reported: set[int] = set()  # sides below which images were left out

    def __len__(self) -> int:
        return len(self._entries)

    @overload
    def __getitem__(self, index: int) -> Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> ImageSet: ...
    def __getitem__(self, index: int | slice) -> Tensor | ImageSet:
        if isinstance(index, slice):
            return self._with(self._entries[index], self.skipped)
        return torch.from_numpy(self.decode(index).transpose(2, 0, 1).copy())

    def decode(self, index: int) -> NDArray[np.uint8]:
        """Decode image ``index`` to (H, W, 3).

        Raises:
            FileError: the file can no longer be read, or is truncated.
        """
        entry = self._entries[index]
        try:
            return _decode(entry.path)
        except Exception as error:  # Pillow's decoders raise whatever they run into
            raise FileError(
                f"{entry.path}: the image cannot be decoded ({error}). "
                "Remove it from the folder or repair it."
            ) from error

    @property
    def fingerprint(self) -> str:
        """Sixteen hex digits over names, file sizes and file heads; equal for equal sets."""
        digest = hashlib.sha256()
        for entry in self._entries:
            digest.update(f"{entry.name}\0{entry.digest}\0".encode())
        return digest.hexdigest()[:16]

    def at_least(self, side: int) -> ImageSet:
        """Return the images without those that have a side below ``side`` pixels.

        These are reported once.

        Raises:
            FileError: no image remains.
        """
        large = [entry for entry in self._entries if min(entry.size) >= side]
        small = [entry for entry in self._entries if min(entry.size) < side]
        reasons = [f"{e.name}: {e.size[0]}x{e.size[1]} is below {side}x{side}" for e in small]
        if not large:
            raise FileError(
                f"{self.origin}: every image is smaller than the crop of {side}x{side}. "
                "Use a smaller crop or larger images."
            )
        if side not in self._reported:
            self._reported.add(side)
            _report(self.origin, reasons)
        return self._with(large, (*self.skipped, *reasons))

    def _with(self, entries: Sequence[_Entry], skipped: Sequence[str]) -> ImageSet:
        return ImageSet(entries, skipped, embedded=self.embedded, origin=self.origin)


def open_images(path: str | Path | None, purpose: Purpose) -> ImageSet:
    """Find the images below ``path``, or the embedded ones for ``None``.

    The search covers nested and linked folders and every format that Pillow reads. It ignores files
    and folders whose names begin with a dot, such as previews. An image that Pillow can't open,
    turn upright or convert to 8-bit RGB without guessing is skipped and reported once. Evaluation
    images are decoded completely here, so that a broken one is found before hours of work; of
    training images only the headers are read. The path may also be a single image.

    Raises:
        FileError: the folder is missing, or holds no usable image.
    """
    if path is None:
        return _open_embedded(purpose)
    path = Path(path).expanduser()
    if not (is_file(path) or is_folder(path)):
        raise FileError(f"{path}: no such folder. Name a folder that holds images.")
    known = Image.registered_extensions()
    files, skipped = ([path], []) if is_file(path) else _files_below(path)
    root = path.parent if is_file(path) else path
    entries: list[_Entry] = []
    for file in files:
        if file.name.startswith(".") or file.suffix.lower() not in known:
            continue
        name = as_text(file.relative_to(root).as_posix())
        try:
            entries.append(_entry(name, file, whole=purpose == "eval"))
        except Exception as error:  # Pillow's readers raise whatever they run into
            reason = str(error) or type(error).__name__
            if root != path:
                advice = f" {_WANTED}" if isinstance(error, UnidentifiedImageError) else ""
                raise FileError(f"{path}: cannot be used ({reason}).{advice}") from None
            skipped.append(f"{name}: {reason}")
    _report(str(path), skipped)
    if not entries and root != path:
        raise FileError(f"{path}: is not an image. {_WANTED}")
    if not entries:
        problem = f"none of its {len(skipped)} images can be read" if skipped else "no image"
        raise FileError(f"{path}: {problem}. Put PNG, JPEG or WebP images there, or name another.")
    return ImageSet(entries, skipped, embedded=False, origin=str(path))


def _files_below(root: Path) -> tuple[list[Path], list[str]]:
    """Return the sorted files below a folder, and the folders skipped with their reasons.

    Every folder is searched once: under its own path if that is below ``root``, else under the
    first link to it.

    Raises:
        FileError: the folder itself can't be read.
    """
    files: list[Path] = []
    skipped: list[str] = []
    seen: set[Path] = set()

    def refuse(error: OSError) -> None:
        if Path(error.filename) == root:
            raise FileError(f"{root}: cannot be read ({error.strerror}). Name another folder.")
        name = as_text(Path(error.filename).relative_to(root).as_posix())
        skipped.append(f"{name}: {error.strerror}")

    starts = [root]
    for start in starts:  # grows by the links that are found
        for name, below, names in os.walk(start, onerror=refuse):
            folder = Path(name)
            if (real := folder.resolve()) in seen:
                below.clear()
                continue
            seen.add(real)
            below[:] = sorted(entry for entry in below if not entry.startswith("."))
            starts += [folder / link for link in below if (folder / link).is_symlink()]
            files += [path for entry in names if (path := folder / entry).is_file()]
    return sorted(files), skipped


def _open_embedded(purpose: Purpose) -> ImageSet:
    folder = Path(str(resources.files("skimage") / "data"))
    missing = [name for name in EMBEDDED[purpose] if not (folder / name).is_file()]
    if missing:
        raise FileError(
            f"{folder}: this scikit-image lacks {', '.join(missing)}. "
            "Install a wheel of scikit-image >= 0.24 from PyPI, or give a folder of images."
        )
    entries = [_entry(name, folder / name, whole=False) for name in EMBEDDED[purpose]]
    return ImageSet(entries, (), embedded=True, origin="embedded photographs")


def _entry(name: str, path: Path, *, whole: bool) -> _Entry:
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    digest = hashlib.sha256(head + str(path.stat().st_size).encode()).hexdigest()
    if whole:
        height, width, _ = _decode(path).shape
    else:
        with Image.open(path) as image:
            _refuse_guesses(image)
            width, height = image.size
            tags = getattr(image, "tag_v2", {})  # recent versions of Pillow swap a TIFF's sides
            is_swapped = (tags.get(_WIDTH, width), tags.get(_HEIGHT, height)) != image.size
            exif = Image.Image.getexif(image)  # PNG's own decodes the image to look behind it
            if exif.get(0x0112) in (5, 6, 7, 8) and not is_swapped:  # these swap the sides
                width, height = height, width
    return _Entry(name, path, (height, width), digest)


def _decode(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        _refuse_guesses(image)
        if image.format == "TIFF":  # Pillow maps a named file to memory with its sides swapped
            image.filename = ""
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I"):  # 16-bit grey, which Pillow would clip instead of scale
            grey = (np.asarray(upright, dtype=np.int64) >> 8).clip(0, 255).astype(np.uint8)
            return np.repeat(grey[:, :, None], 3, axis=2)
        _refuse_transparency(upright)
        return np.asarray(upright.convert("RGB"), dtype=np.uint8)


def _refuse_guesses(image: Image.Image) -> None:
    """Raise for several images in one file, and for pixels of unknown range.

    The latter are floats, and integers of sizes other than 8 and 16 bits.
    """
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format not in _ONE_FIRST:
        raise ValueError(f"holds {frames} frames or pages; save the intended one on its own")
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range; save them as 8 or 16 bits")
    if image.mode == "LAB":
        raise ValueError("LAB has no known white point; save it as RGB")
    if not image.mode.startswith("I") or image.format in ("PNG", "PPM", "JPEG2000"):
        return  # Pillow reads 16-bit PNG and PPM as "I", too, scaled to 0 to 65535
    tags = getattr(image, "tag_v2", {})  # a TIFF's pixels may be wider or narrower
    if image.mode == "I" or tags.get(_BITS) != (16,) or tags.get(_PHOTOMETRIC) != _BLACK_IS_ZERO:
        raise ValueError(
            "grey integers other than 8 or 16 bits from black up have no known range; save them "
            "as 8 or 16 bits"
        )


def _refuse_transparency(image: Image.Image) -> None:
    """Raise for an image whose look depends on a background."""
    if image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema()[0] != 255:
        raise ValueError("parts are transparent, over an unknown background; save it as RGB")


def _report(origin: str, reasons: Sequence[str]) -> None:
    if reasons:
        shown = "; ".join(reasons[:3]) + ("; …" if len(reasons) > 3 else "")
        noun = "image" if len(reasons) == 1 else "images"
        logger.warning("%s: %d %s left out (%s)", origin, len(reasons), noun, shown)
