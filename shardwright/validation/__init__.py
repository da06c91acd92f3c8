"""Compares predictions with measured runs of other people."""
