"""The study: a search space, its trials in a database, workers that can't lose work, a report."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
