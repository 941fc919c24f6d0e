"""The architectures, one file a family."""
