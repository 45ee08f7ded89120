"""What trained codecs do inside: receptive fields, attention, latents, the worth of each part.

Everything here computes and returns records; `tcm_lab.reporting` draws them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
