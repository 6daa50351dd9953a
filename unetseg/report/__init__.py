"""The files of a run folder → one self-contained page."""
