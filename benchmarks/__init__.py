"""What exactness costs: ratios measured side by side. `python -m benchmarks --help` from the root of the repository."""
