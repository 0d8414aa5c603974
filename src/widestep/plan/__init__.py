"""Planning: what a run will do at every step, as pure values and functions. Nothing here reaches torch."""
