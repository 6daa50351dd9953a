"""A folder of pairs → what is wrong with it, and the fix."""
