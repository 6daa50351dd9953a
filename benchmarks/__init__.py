"""Measurements that take minutes; each is a command, `python -m benchmarks.NAME`."""
