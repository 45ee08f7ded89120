"""Configuration, assembly, coding to real bytes, and checkpoints of codecs.

Each name is imported when it is first used: what builds a codec imports CompressAI, which takes
seconds, and configurations and cost formulas do without it.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
