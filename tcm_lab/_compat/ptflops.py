"""ptflops imports torchvision and timm if it finds them, and fails if either is broken.

Source: ``ptflops/pytorch_ops.py`` (0.7.5), which catches ImportError alone; a torchvision built for
another torch raises RuntimeError, and so does a timm on top of it. Both take seconds to import and
serve two layers that no codec here has. Expires when ptflops asks for them lazily.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

_OPTIONAL = ("torchvision", "timm")


@contextmanager
def without_optional_imports() -> Iterator[None]:
    """Let imports of torchvision and timm inside the ``with`` block fail as if not installed.

    What is imported already stays, and nothing stays behind: a later import finds the real ones.
    """
    hidden = [name for name in _OPTIONAL if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: not to be found
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
