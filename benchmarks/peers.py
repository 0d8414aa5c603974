"""What people would use instead: training steps of other programs, and their packages where they are installed."""

import warnings
from collections.abc import Callable
from contextlib import nullcontext
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.plain_model import PlainResNet

PACKAGES = ("torchvision", "timm", "webdataset", "datasets", "simplejpeg")
Step = Callable[[Tensor, Tensor], None]


def versions() -> dict[str, str]:
    """Return the versions of other programs' packages, `not installed` of those that are missing."""

    def held(name: str) -> str:
        try:
            return version(name)
        except PackageNotFoundError:
            return "not installed"

    return {name: held(name) for name in PACKAGES}


def torchvision() -> Any:
    """Import torchvision, also where its compiled operators do not fit this torch: none of them is needed here.

    Raises
    ------
    ModuleNotFoundError
        When it is not installed.
    """
    register = torch.library.register_fake

    def without_its_own(operator: Any, *rest: Any, **options: Any) -> Any:
        if isinstance(operator, str) and operator.startswith("torchvision::"):
            return lambda function: function
        return register(operator, *rest, **options)

    fits = torch.version.cuda is not None
    if not fits:
        torch.library.register_fake = without_its_own
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about those operators
            return import_module("torchvision")
    finally:
        torch.library.register_fake = register


def timm() -> Any:
    """Import timm, which imports torchvision; raises ModuleNotFoundError when one of them is not installed."""
    torchvision()
    return import_module("timm")


def step_of(program: str, model: str, num_classes: int, channels: int, how: "How") -> Step:
    """Return one training step in the manner of a program.

    Parameters
    ----------
    program
        `plain`: as the public ImageNet example of PyTorch (model, cross-entropy, SGD with momentum, the loss read every
        step). `torchvision`: as its reference script for classification (its model and, like it, accuracy and loss read
        every step). `timm`: its model, loss and optimizer, the loss read rarely, as its train.py.

    Raises
    ------
    ModuleNotFoundError
        When the program is not installed.
    """
    network, criterion, optimizer = _PARTS[program](model, num_classes, channels)
    network = network.to(how.device).to(memory_format=how.layout).train()  # type: ignore[call-overload]
    forward = torch.compile(network, mode=how.compiled) if how.compile != "none" else network
    sgd = optimizer(network)
    reads_accuracy, reads_loss = program == "torchvision", program != "timm"

    def step(images: Tensor, labels: Tensor) -> None:
        with how.arithmetic():
            output = forward(images)
            loss = criterion(output, labels)
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        if reads_accuracy:
            _ = (output.topk(min(5, num_classes))[1] == labels[:, None]).any(1).float().mean().item()
        if reads_loss:
            _ = loss.item()

    return step


class How:
    """Device, arithmetic and layout of a step: what its settings say.

    Parameters
    ----------
    settings
        `device`, `precision` (fp32, tf32, bf16), `memory_format` (contiguous, channels_last) and `compile` (none, or a mode
        of torch.compile).
    """

    def __init__(self, settings: Any) -> None:
        self.device = torch.device(settings["device"])
        self.precision = settings["precision"]
        self.compile = settings.get("compile", "none")
        last = settings.get("memory_format") == "channels_last"
        self.layout = torch.channels_last if last else torch.contiguous_format
        torch.backends.cudnn.benchmark = self.device.type == "cuda"
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = self.precision == "tf32"

    @property
    def compiled(self) -> str | None:
        """The mode as torch.compile wants it."""
        return None if self.compile == "default" else str(self.compile)

    def arithmetic(self) -> Any:
        """Return the context of the forward pass."""
        return torch.autocast(self.device.type, torch.bfloat16) if self.precision == "bf16" else nullcontext()

    def images(self, images: Tensor) -> Tensor:
        """Bring images to the device in the layout."""
        return images.to(self.device).contiguous(memory_format=self.layout)


def _plain(model: str, num_classes: int, channels: int) -> tuple[nn.Module, nn.Module, Any]:
    network = PlainResNet(model, num_classes, channels)
    return network, nn.CrossEntropyLoss(), _sgd


def _of_torchvision(model: str, num_classes: int, channels: int) -> tuple[nn.Module, nn.Module, Any]:
    network = import_module(f"{torchvision().__name__}.models").get_model(model, num_classes=num_classes)
    return network, nn.CrossEntropyLoss(), _sgd


def _of_timm(model: str, num_classes: int, channels: int) -> tuple[nn.Module, nn.Module, Any]:
    network = timm().create_model(model, num_classes=num_classes, in_chans=channels)
    create = import_module("timm.optim").create_optimizer_v2

    def optimizer(trained: nn.Module) -> Any:
        return create(trained, opt="sgd", lr=0.01, momentum=0.9, weight_decay=5e-5)

    return network, nn.CrossEntropyLoss(), optimizer


def _sgd(network: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-5)


_PARTS: dict[str, Callable[[str, int, int], tuple[nn.Module, nn.Module, Any]]] = {
    "plain": _plain,
    "torchvision": _of_torchvision,
    "timm": _of_timm,
}
