"""Parts of study files that several tests' studies have."""

WARMUPS_FALL = """
[claims.falls]
text = "It falls."
test = "falls"
arms = ["warm"]
axis = "warmup"
[[figures]]
number = 1
kind = "final"
arm = "warm"
title = "Warmups"
"""
"""A claim about an arm `warm` with an axis `warmup`, and its figure."""
