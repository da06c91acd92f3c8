"""Fits of the cost model's constants to published measurements; each module with `main` is a command."""
