"""Optimizers and what they apply to which parameters."""
