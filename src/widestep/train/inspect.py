"""Look at a model on a few of its training images before anything is trained: can it keep the promise?"""

import numpy as np
import torch

from widestep.data.loading import Loading
from widestep.data.source import ImageSource, open_recipe_data
from widestep.errors import EnvironmentFault, UsageError
from widestep.models.probe import Findings, probe
from widestep.models.stacked import StackedModel
from widestep.plan.randomness import Stream
from widestep.plan.recipe import Recipe
from widestep.train.setting import fix_arithmetic, model_of

_IMAGES_PER_GROUP = 2


def inspect(model: StackedModel, source: ImageSource, recipe: Recipe, device: torch.device) -> Findings:
    """Probe an initialised model with two images for every worker of a forward pass; it stays as it was."""
    num_workers = recipe.grid.num_workers
    num_groups = max(1, min(recipe.workers_per_block(num_workers), num_workers) // recipe.batchnorm_group(num_workers))
    train = source.split(recipe.seed).train
    ids = np.resize(train, _IMAGES_PER_GROUP * num_groups)
    images = source.training_images(ids, np.zeros(len(ids), dtype=np.uint64)).result()
    labels = source.labels[torch.from_numpy(ids)].to(device)
    slots = model.num_slots
    return probe(model, images.repeat(1, slots, 1, 1), labels[:, None].expand(-1, slots), num_groups=num_groups)


def inspect_recipe(recipe: Recipe, device: torch.device) -> Findings:
    """Build a recipe's model on its data and probe it.

    Raises
    ------
    UsageError, DataError
        When the model cannot be built or the data cannot be read.
    """
    fix_arithmetic(recipe)
    source = open_recipe_data(recipe, Loading(device))
    try:
        model = model_of(recipe, source.facts.num_classes, source.facts.image_shape).to(device)
        for slot in range(recipe.stack):
            model.initialise(slot, Stream(recipe.seed, "init").key(), recipe.zero_gamma, recipe.classifier_std)
        return inspect(model, source, recipe, device)
    finally:
        source.close()


def check_findings(findings: Findings, recipe: Recipe) -> None:
    """Refuse a model that cannot be trained in the recipe's mode.

    Raises
    ------
    EnvironmentFault
        Names the operations that have no deterministic form on this device, all of them.
    UsageError
        Says what else is wrong with the model.
    """
    reproducible = recipe.mode == "reproducible"
    if findings.nondeterministic and reproducible:
        raise EnvironmentFault(
            "Reproducible training needs operations that give the same bytes every time. On this device these of the model "
            f"{recipe.model} have no such form: {', '.join(findings.nondeterministic)}. Use other layers, another device, "
            "or mode = fast."
        )
    kept = ("refusal", *(("changed_buffers", "mixes_groups") if reproducible else ("without_gradient",)))
    objections = Findings(**{name: getattr(findings, name) for name in kept}).objections()
    if objections:
        raise UsageError(f"The model {recipe.model} cannot be trained as it is. {' '.join(objections)}")


def doubts(findings: Findings, recipe: Recipe) -> list[str]:
    """Return what does not keep a model from training, but whoever trains it should know."""
    seen = Findings(unrepeated_weight=findings.unrepeated_weight, unrepeated_gradient=findings.unrepeated_gradient)
    notes = [f"the model {recipe.model} is not reproducible: {said}" for said in seen.objections()]
    if findings.without_gradient:
        names = ", ".join(findings.without_gradient[:3])
        notes.append(f"in a trial pass of the model {recipe.model} these parameters had no gradient: {names}")
    return notes
