"""A U-Net with its skips edited, removed or compared: what flows, what breaks, what it costs."""
