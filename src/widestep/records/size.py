"""What the records of a run and the state of its optimizer take, for who has to say so beforehand."""

from widestep.plan.recipe import Recipe

LEDGER_RECORD = 270
"""Bytes of a step in ledger.jsonl, measured."""
METRICS_RECORD = 150
"""Bytes of a step in metrics.jsonl, measured."""

_TWO_MOMENTS = ("adamw", "lamb", "rmsprop-sgd")


def num_moments(recipe: Recipe) -> int:
    """Return how many numbers the optimizer keeps of every parameter."""
    return 2 if recipe.optimizer in _TWO_MOMENTS else 1
