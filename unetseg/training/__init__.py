"""Pairs → bundle."""
