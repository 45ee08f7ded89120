"""What ``tcm-lab`` can do: one function per command; each imports its rooms when it runs."""
