"""Bytes ↔ arrays: formats, headers, windows, the place on the earth, limits."""
