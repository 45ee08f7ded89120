"""What every room stands on: the error type, frozen models, files, the environment. No science."""

from tcm_lab._foundation.errors import ConfigError, LabError, near, one_of
from tcm_lab._foundation.models import Frozen

__all__ = ["ConfigError", "Frozen", "LabError", "near", "one_of"]
