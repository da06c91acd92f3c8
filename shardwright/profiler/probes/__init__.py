"""What is measured: computing, and moving."""
