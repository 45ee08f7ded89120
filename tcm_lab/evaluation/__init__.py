"""Evaluation: real bits and distortion of whole images, curves, and comparisons with intervals."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
