"""What disturbs a run, done to runs of this machine: processes killed at random moments, and checkpoints beside the steps."""
