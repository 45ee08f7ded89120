"""Files that are either wholly written or not there at all."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path

from tcm_lab.errors import FileError, LabError

_FORMATS = frozenset(
    f".{name}"
    for names in (
        "safetensors pth pt ckpt bin pkl onnx npy npz h5 db zip tar gz",
        "tcm png jpg jpeg jfif jp2 j2k jxl webp tif tiff bmp gif avif heic heif",
        "pgm ppm pbm pnm ico icns tga svg pdf eps",
        "json jsonl yaml yml csv tsv xlsx md txt rst tex html htm py ipynb",
    )
    for name in names.split()
)
"""Suffixes that tell a reader, and programs, what a file holds."""


def is_file(path: str | Path) -> bool:
    """Say whether there is such a file; also of names that no file can have."""
    return os.path.isfile(path)  # noqa: PTH113 - Path.is_file raises for names that are too long


def is_folder(path: str | Path) -> bool:
    """Say whether there is such a folder; also of names that no folder can have."""
    return os.path.isdir(path)  # noqa: PTH112 - as above


def as_text(name: str) -> str:
    r"""Return a file's name, or a word of a command line, as text that can be written.

    Python keeps bytes that the system's encoding does not hold as lone surrogates, in a locale
    without UTF-8 those of every other letter than ASCII's. They are read as UTF-8; what is none is
    spelled ``\xe9``.
    """
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def check_suffix(path: Path, own: Sequence[str], what: str, others: Collection[str] = ()) -> None:
    """Refuse the name of a file to write if it says another format than the file will have.

    Args:
        path: the name.
        own: suffixes of the format that is written, the usual one first.
        what: names that format for a message, such as ``"torch's format"``.
        others: suffixes of further formats.

    Raises:
        LabError: the suffix is that of another format.
    """
    suffix = path.suffix.lower()
    if suffix not in own and (suffix in _FORMATS or suffix in others):
        raise LabError(f"{path}: what is written is {what}; call it {path.stem}{own[0]}")


def keep_inputs(out: Path, *inputs: Path) -> None:
    """Refuse to write to a file that is read for it, also under another name or by a link.

    Raises:
        LabError: ``out`` is one of the ``inputs``.
    """
    for path in inputs:
        if is_file(out) and is_file(path) and out.samefile(path):
            raise LabError(
                f"{out}: is the same file as {path}, which is read; name another to write"
            )


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write ``content`` to ``path`` so that a reader sees the old file or the whole new one.

    Missing folders are made; text is written as UTF-8, names of files in it `as_text`. A link
    stays one, and the file that it leads to is written; a file keeps its mode; a pipe or device is
    written to as it is.

    Raises:
        FileError: the folder can't be written or the disk is full; the old file is untouched.
    """
    try:
        data = as_text(content).encode() if isinstance(content, str) else content
        mode = _mode(path)
        if stat.S_ISREG(mode):
            _replace(Path(os.path.realpath(path)), data, stat.S_IMODE(mode))
        else:
            path.write_bytes(data)
    except (OSError, ValueError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or error
        raise FileError(
            f"{path}: cannot be written ({reason}). Free some space or name another folder."
        ) from error


def _mode(path: Path) -> int:
    """Return the kind and the permissions of what is there, or those of a new file."""
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        return stat.S_IFREG | 0o644


def _replace(path: Path, data: bytes, mode: int) -> None:
    """Put a new file in the place of ``path``."""
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".writing-", delete=False) as file:
            temporary = Path(file.name)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(mode)
        temporary.replace(path)
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
