"""What a codec costs: counts by five counters, memory, and times; each as a record of its own."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
