"""Files that are either wholly written or not there at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from tcm_lab.errors import FileError


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
