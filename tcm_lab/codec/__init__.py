"""Configuration, assembly, coding to real bytes, and checkpoints of codecs.

Names are imported on first use. Building a codec imports CompressAI, which takes seconds;
configurations and cost formulas do not need it.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
