"""A lab for one question: which architectural choices of a learned image codec are worth it?"""

__version__ = "0.1.0"
