"""Workarounds for libraries, each with its source, its reason and when it expires."""
