"""What a process computes with: its device, torch's settings, the recipe's model and the engine of its mode."""

import contextlib
import ctypes
import os

import torch

from widestep.errors import EnvironmentFault
from widestep.models.build import build_model
from widestep.models.compiled import CompiledPass
from widestep.models.stacked import StackedModel
from widestep.plan.recipe import Recipe
from widestep.workers.blocks import ForwardPass
from widestep.workers.engine import GradientEngine
from widestep.workers.world import World

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of <malloc.h>


def choose_device(wanted: str, local_process: int = 0) -> torch.device:
    """Return the device of a process, made torch's current one.

    Raises
    ------
    EnvironmentFault
        When a GPU is asked for and there is none.
    """
    found = torch.cuda.device_count() if wanted != "cpu" else 0
    if wanted == "cuda" and found == 0:
        raise EnvironmentFault(
            "device cuda: 0 found; use --device cpu (virtual workers need no GPU), or mend what `widestep doctor` shows."
        )
    if not found:
        return torch.device("cpu")
    device = torch.device("cuda", local_process % found)
    torch.cuda.set_device(device)  # streams and events that nobody places are its
    return device


def fix_arithmetic(recipe: Recipe) -> None:
    """Set what torch decides for a whole process: threads, TF32, and in reproducible mode everything that could differ."""
    reproducible = recipe.mode == "reproducible"
    # Read once, when a process first multiplies on a GPU, perhaps in fast mode: torch would then refuse to be reproducible.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(recipe.threads)
    torch.set_deterministic_debug_mode("error" if reproducible else "default")  # does not import the compiler
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # we never read what we did not write
    torch.backends.cudnn.benchmark = not reproducible
    torch.backends.cuda.matmul.allow_tf32 = recipe.tf32
    torch.backends.cudnn.allow_tf32 = recipe.tf32


def keep_freed_memory() -> None:
    """Let the C library keep what a step frees for the next step instead of giving it back (Linux; 10 % of a CPU step)."""
    with contextlib.suppress(AttributeError, OSError):
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_THRESHOLD, 32 << 20)
        library.mallopt(_M_TRIM_THRESHOLD, 1 << 30)


def model_of(recipe: Recipe, num_classes: int, image_shape: tuple[int, int, int]) -> StackedModel:
    """Build the recipe's model, on the CPU and without initial weights."""
    model = build_model(
        recipe.model,
        num_classes=num_classes,
        image_shape=image_shape,
        num_slots=recipe.stack,
        dropout=recipe.dropout,
    )
    model.memory_format = memory_format_of(recipe)
    return model


def memory_format_of(recipe: Recipe) -> torch.memory_format:
    """Return how the recipe's model wants its images in memory; it converts those that lie otherwise."""
    return torch.channels_last if recipe.channels_last else torch.contiguous_format


def build_engine(model: StackedModel, recipe: Recipe, world: World) -> GradientEngine:
    """Build the engine of the recipe's mode."""
    reproducible = recipe.mode == "reproducible"
    if recipe.compile != "none":
        model.compiled = CompiledPass(model, recipe.compile, num_threads=recipe.threads, reproducible=reproducible)
    forward = ForwardPass(
        model,
        label_smoothing=recipe.label_smoothing,
        precision=recipe.precision,
        per_worker=recipe.has_worker_norms,
    )
    if reproducible:
        return GradientEngine(forward, world, has_worker_norms=recipe.has_worker_norms)
    from widestep.workers.overlapped import OverlappedEngine

    return OverlappedEngine(forward, world, compression=recipe.compression)
