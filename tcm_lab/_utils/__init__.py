"""What every package uses: frozen models, files, progress, the environment. No science."""

from tcm_lab._utils.models import Frozen
from tcm_lab._utils.registry import Registry
from tcm_lab.errors import ConfigError, LabError, near, one_of

__all__ = ["ConfigError", "Frozen", "LabError", "Registry", "near", "one_of"]
