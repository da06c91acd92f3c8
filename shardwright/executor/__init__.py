"""Applies a plan to a real training run on PyTorch, checkpoints it and measures it.

`launch.launch` runs a plan file, `options.RunOptions` says how. Nothing is imported here: the options can be read
without waiting for torch.
"""
