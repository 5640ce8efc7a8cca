"""The studies: short programs over the library."""
