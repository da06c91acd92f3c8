"""The measured operations: compute and data movement."""
