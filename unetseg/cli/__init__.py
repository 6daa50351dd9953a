"""argv → config → one call; one file per verb; the only place that prints."""
