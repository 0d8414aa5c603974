"""Which damaged images the runs of a stack have met, on all processes, where the recipe says bad_images = skip."""

import shlex
from collections.abc import Sequence

import torch

from widestep.data.damage import described
from widestep.train.evaluate import Evaluation
from widestep.train.session import Member, Session


def count_damaged(session: Session, members: Sequence[Member], evaluations: Sequence[Evaluation] = ()) -> str | None:
    """Write into the tallies of runs what any process has met; every process must call this at the same step.

    Parameters
    ----------
    evaluations
        The newest, one a slot, if there was one since the last call.

    Returns
    -------
    What to tell the user when there is more of it than before.
    """
    recipe = session.plan.recipe
    if recipe.bad_images != "skip":
        return None
    met = torch.zeros(len(members), len(session.source.labels), dtype=torch.int32)
    for row, member in zip(met, members, strict=True):
        row[sorted(session.batches.damaged[member.state.slot])] = 1
    before, now = set[int](), set[int]()
    for row, member in zip(session.world.merged(met), members, strict=True):
        tally = member.state.tally
        left_out = evaluations[member.state.slot].left_out if evaluations else ()
        before.update(tally.damaged)
        tally.damaged = sorted({*tally.damaged, *row.nonzero().flatten().tolist(), *left_out})
        now.update(tally.damaged)
    if now == before:
        return None
    return (
        f"{described(sorted(now), session.source.name)}; in training the next image that decodes takes the place of each, "
        f"in evaluation it is left out; `widestep data check {shlex.quote(recipe.data)}` says what is wrong with them"
    )
