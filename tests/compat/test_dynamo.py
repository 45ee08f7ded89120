"""Compiled functions under torch's tracer."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tcm_lab._compat.dynamo import traced_as_written


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_a_trace_passes_through_a_compiled_function_only_with_our_help() -> None:
    def double(x: Tensor) -> Tensor:
        return 2 * x

    compiled, x = torch.compile(double, backend="eager"), torch.ones(3)
    with pytest.raises(RuntimeError, match="not supported at the moment"):
        torch.jit.trace(compiled, x)
    with traced_as_written():
        assert torch.equal(torch.jit.trace(compiled, x)(x), double(x))
