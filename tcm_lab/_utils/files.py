"""Files that are written completely or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Collection, Sequence
from pathlib import Path

from tcm_lab.errors import FileError, LabError

_NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)
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
"""Suffixes that tell readers and programs a file's format."""


def is_file(path: str | Path) -> bool:
    """Return whether a path is a file; False, too, for a name that no file can have."""
    return os.path.isfile(path)  # noqa: PTH113 - Path.is_file raises for names that are too long


def is_folder(path: str | Path) -> bool:
    """Return whether a path is a folder; False, too, for a name that no folder can have."""
    return os.path.isdir(path)  # noqa: PTH112 - as above


def as_text(name: str) -> str:
    r"""Return a file name or command-line argument as text that can be encoded.

    Python keeps bytes that it cannot decode as lone surrogates; in a locale without UTF-8, those of
    every non-ASCII letter. Here they are decoded as UTF-8, and bytes that are not UTF-8 become
    escapes such as ``\xe9``.
    """
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def check_suffix(path: Path, own: Sequence[str], what: str, others: Collection[str] = ()) -> None:
    """Refuse an output file whose suffix is that of another format.

    Args:
        path: the output file.
        own: suffixes of the format that is written, the usual one first.
        what: that format as messages call it, such as ``"torch's format"``.
        others: suffixes of further formats.

    Raises:
        LabError: the suffix is that of another format.
    """
    suffix = path.suffix.lower()
    if suffix not in own and (suffix in _FORMATS or suffix in others):
        raise LabError(f"{path}: the output is {what}; call it {path.stem}{own[0]}")


def keep_inputs(out: Path, *inputs: Path) -> None:
    """Refuse to overwrite an input, also under another name or through a link.

    Raises:
        LabError: ``out`` is one of the ``inputs``.
    """
    for path in inputs:
        if is_file(out) and is_file(path) and out.samefile(path):
            raise LabError(f"{out}: is the same file as the input {path}; name another output")


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write ``content`` to ``path`` so that a reader sees the old file or the whole new one.

    Missing folders are created. Text is written as UTF-8, file names in it by `as_text`. A link is
    kept and its target replaced; an existing file keeps its mode; a pipe or device is written to
    directly.

    Raises:
        FileError: the folder can't be written or the disk is full; the old file is untouched.
    """
    try:
        data = as_text(content).encode() if isinstance(content, str) else content
        mode = _mode(path)
        if mode is None or stat.S_ISREG(mode):
            _replace(Path(os.path.realpath(path)), data, mode)
        else:
            path.write_bytes(data)
    except (OSError, ValueError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or error
        advice = "Free some space, or name another folder."
        if isinstance(error, OSError) and error.errno in _NOT_ALLOWED:
            advice = "Name another folder."
        raise FileError(f"{path}: cannot be written ({reason}). {advice}") from error


def _mode(path: Path) -> int | None:
    """Return the type and permissions of an existing file; None without one."""
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        return None


def _replace(path: Path, data: bytes, mode: int | None) -> None:
    """Replace ``path`` with a file of this mode; None: a new file's, as the umask has it."""
    temporary = path.with_name(f".writing-{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            if mode is not None:
                temporary.chmod(stat.S_IMODE(mode))
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
