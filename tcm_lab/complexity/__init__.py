"""The cost of a codec: counts by five counters, memory, and times, each as a record."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
