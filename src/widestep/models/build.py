"""From the name of a model, shipped or a user's own, to the model, with words for what cannot be built."""

from difflib import get_close_matches

from widestep.errors import UsageError
from widestep.models.adapted import AdaptedModel
from widestep.models.resnet import IMAGENET_RESNETS, Architecture, ResidualNetwork
from widestep.models.small import CIFAR_RESNETS, DIGITS_RESNETS, SMALL_CIFAR_RESNETS
from widestep.models.source import ModelSource
from widestep.models.stacked import StackedModel

_ARCHITECTURES: dict[str, Architecture] = {**DIGITS_RESNETS, **SMALL_CIFAR_RESNETS, **CIFAR_RESNETS, **IMAGENET_RESNETS}

MODEL_NAMES = tuple(_ARCHITECTURES)
"""The names of the models that are shipped."""


def build_model(
    name: str, *, num_classes: int, image_shape: tuple[int, int, int], num_slots: int = 1, dropout: float = 0.0
) -> StackedModel:
    """Build a model by name; its weights mean nothing until `initialise` was called for each slot.

    Parameters
    ----------
    name
        One of `MODEL_NAMES`, or `FILE.py:NAME` or `package.module:NAME` for a user's own class or function that returns a
        torch module (see `AdaptedModel`).
    num_classes
        Logits a slot, at least 2.
    image_shape
        (C, H, W) of one image of one slot, in pixels. Every side a model can work with gives the same parameters.
    num_slots
        T: independent trials held side by side; 1 for a user's own model.
    dropout
        Rate of dropout before the classifier, in [0, 1); 0 for a user's own model.

    Raises
    ------
    UsageError
        When the name is unknown, an image is too small for the model, a number is out of range, or a user's own model cannot
        be loaded, built or trained.

    Examples
    --------
    >>> model = build_model("digits-resnet", num_classes=10, image_shape=(1, 8, 8), num_slots=3)
    >>> sum(view.numel() for view in model.slot_parameters(2).values())
    5122
    """
    if num_classes < 2:
        raise UsageError(f"A classifier needs at least two classes; got {num_classes}. Check the data set.")
    if not 0 <= dropout < 1:
        raise UsageError(f"The dropout rate must be at least 0 and less than 1; got {dropout}. Use 0 for no dropout.")
    if num_slots < 1:
        raise UsageError(f"A model holds at least one trial; got num_slots={num_slots}. Use 1 for the ordinary network.")
    if ":" in name:
        return _build_own(name, num_classes, image_shape, num_slots, dropout)
    architecture = _find(name)
    num_channels, height, width = image_shape
    side = architecture.smallest_side
    if num_channels < 1 or min(height, width) < side:
        raise UsageError(
            f"The model {name} needs images of at least one channel and {side}x{side} pixels; got {num_channels} channels "
            f"of {height}x{width}. Use larger images or another model."
        )
    return ResidualNetwork(architecture, num_classes, num_channels, num_slots, dropout)


def _build_own(
    name: str, num_classes: int, image_shape: tuple[int, int, int], num_slots: int, dropout: float
) -> AdaptedModel:
    for field, allowed, given in (("stack", 1, num_slots), ("dropout", 0, dropout)):
        if given != allowed:
            raise UsageError(
                f"{field} needs a model whose layers widestep knows, unlike {name}. Set {field} to {allowed}, not {given}."
            )
    return AdaptedModel(ModelSource.find(name), num_classes, image_shape)


def model_fingerprint(name: str) -> str:
    """Return what tells whether a model's code has changed: "shipped" for ours, else `ModelSource.fingerprint`.

    Raises
    ------
    UsageError
        When the file or module does not exist.
    """
    return ModelSource.find(name).fingerprint() if ":" in name else "shipped"


def _find(name: str) -> Architecture:
    if name in _ARCHITECTURES:
        return _ARCHITECTURES[name]
    nearest = get_close_matches(name.lower(), MODEL_NAMES, n=1)
    advice = f" Perhaps you meant {nearest[0]}." if nearest else ""
    if name.endswith(".py"):
        advice = f" A model of your own reads {name}:NAME."
    raise UsageError(f"The model must be one of {', '.join(MODEL_NAMES)}; got {name!r}.{advice}")
