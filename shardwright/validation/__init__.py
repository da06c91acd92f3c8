"""Predictions held against measured runs of other people."""
