"""What exactness costs and what is fast, each beside a peer: `python -m benchmarks --help` from the repository's root."""
