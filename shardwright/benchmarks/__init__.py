"""What this project measures of itself: the speed of its parts, and predictions of its own runs. Each module with `main` is a command."""
