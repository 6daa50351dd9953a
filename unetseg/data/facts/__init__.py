"""What a folder is like: its fingerprint, its near-copies, and the survey of it all."""
