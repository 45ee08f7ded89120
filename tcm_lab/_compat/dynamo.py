"""Lets torch's tracer run compiled functions as they were written.

`torch.jit.trace`, which fvcore counts by, refuses a model that calls a compiled function ("Detected
that you are using FX to torch.jit.trace a dynamo-optimized function", torch 2.0 to 2.13), while an
FX trace may pass through it (`torch._dynamo.config.error_on_nested_fx_trace`). Expires when the
tracer gets a setting of its own, or fvcore another mechanism.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch


@contextmanager
def traced_as_written() -> Iterator[None]:
    """Let traces inside the ``with`` block pass through compiled functions, uncompiled."""
    import torch._dynamo

    with (
        torch._dynamo.config.patch(error_on_nested_fx_trace=False),
        patch.object(torch.fx._symbolic_trace, "_is_fx_tracing_flag", True),
    ):
        yield
