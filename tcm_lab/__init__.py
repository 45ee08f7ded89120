"""A lab for one question: which architectural choices of a learned image codec are worth it?

The most used names are here; each package exports the rest of its own. Names are imported on first
use, so that importing ``tcm_lab`` costs nothing.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
