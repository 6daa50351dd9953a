"""Which image has which mask: names, tables, dataset.yaml, splits."""
