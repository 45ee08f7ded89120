"""Files that are either wholly written or not there at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tcm_lab.errors import FileError, LabError

_FORMATS = frozenset(
    f".{name}"
    for names in (
        "safetensors pth pt ckpt bin pkl onnx npy npz h5 db zip tar gz",
        "tcm png jpg jpeg webp tif tiff bmp gif avif ppm svg pdf eps",
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


def check_suffix(path: Path, own: Sequence[str], what: str) -> None:
    """Refuse the name of a file to write if it says another format than the file will have.

    Args:
        path: the name.
        own: suffixes of the format that is written, the usual one first.
        what: names that format for a message, such as ``"torch's format"``.

    Raises:
        LabError: the suffix is that of another format.
    """
    suffix = path.suffix.lower()
    if suffix in _FORMATS and suffix not in own:
        raise LabError(f"{path}: what is written is {what}; call it {path.stem}{own[0]}")


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write ``content`` to ``path`` so that a reader sees the old file or the whole new one.

    Missing folders are made; text is written as UTF-8.

    Raises:
        FileError: the folder can't be written or the disk is full; the old file is untouched.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".writing-", delete=False) as file:
            temporary = Path(file.name)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        raise FileError(
            f"{path}: cannot be written ({error.strerror or error}). "
            "Free some space or name another folder."
        ) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
