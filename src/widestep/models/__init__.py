"""Image classifiers that hold T independent trials side by side and keep the statistics of k workers apart."""
