"""Workarounds for other libraries, one per module: the fault, its versions, and the expiry.

Nothing here is visible to other packages' imports. `tests/compat` holds, for each module, a test
that fails once the library no longer needs it, or once it must be measured again.
"""
