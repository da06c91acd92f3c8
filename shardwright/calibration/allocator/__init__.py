"""What torch's caching allocator reserves beyond what tensors occupy, by simulation: for lengths that vary, and in a pipeline."""
