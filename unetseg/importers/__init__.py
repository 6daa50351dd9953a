"""Other programs' annotations → plain pairs of image and mask."""
