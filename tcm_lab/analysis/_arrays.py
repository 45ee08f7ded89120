"""Arrays in frozen records: read-only, comparable, and compact in JSON."""

from __future__ import annotations

import base64
import zlib
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import PlainSerializer, PlainValidator
from torch import Tensor

from tcm_lab._utils import Frozen


def _read(value: Any) -> NDArray[np.float32]:
    if isinstance(value, dict):
        raw = zlib.decompress(base64.b64decode(value["zlib_float32"]))
        value = np.frombuffer(raw, dtype="<f4").reshape(value["shape"])
    array = np.array(value, dtype=np.float32)
    array.flags.writeable = False
    return array


def _write(array: NDArray[np.float32]) -> dict[str, Any]:
    raw = zlib.compress(np.ascontiguousarray(array, dtype="<f4").tobytes(), 6)
    return {"shape": list(array.shape), "zlib_float32": base64.b64encode(raw).decode()}


Array = Annotated[
    NDArray[np.float32], PlainValidator(_read), PlainSerializer(_write, return_type=dict[str, Any])
]
"""A float32 array; in JSON its shape and its little-endian bytes, compressed, in base 64."""


def as_array(values: Tensor) -> NDArray[np.float32]:
    """Return the values of a tensor of any floating-point type, on any device."""
    array: NDArray[np.float32] = values.float().cpu().numpy()
    return array


class ArrayRecord(Frozen):
    """A record that may hold arrays; records are equal if their JSON is."""

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self) or not isinstance(other, ArrayRecord):
            return False
        return self.model_dump_json() == other.model_dump_json()

    def __hash__(self) -> int:
        return hash(self.model_dump_json())
