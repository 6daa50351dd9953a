"""Files on disk → tensors."""
