"""What one training step costs."""
