"""Training: from recipes and directories to results."""
