"""Studies: named questions answered by many runs. Nothing here reaches torch; the trainer is handed in as a function."""
