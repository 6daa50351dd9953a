"""Pairs → (image C×H×W, mask H×W): windows, cache, augmentation, order."""
