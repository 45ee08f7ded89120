"""Workarounds for other libraries, one a module: what is wrong, since when, and when it may go.

Nothing here is visible to other packages' imports. `tests/compat` holds, for each module, a test
that fails once the library no longer needs it, or once it must be measured again.
"""
