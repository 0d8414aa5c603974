"""Small residual networks: the CIFAR family of He et al., and a network of 5,122 parameters for 8x8 digits."""

from widestep.models.resnet import Architecture, BasicBlock, Stage


def _cifar(blocks_per_stage: int) -> Architecture:
    stages = (Stage(blocks_per_stage, 16, 1), Stage(blocks_per_stage, 32, 2), Stage(blocks_per_stage, 64, 2))
    return Architecture(BasicBlock, stages, stem_channels=16, smallest_side=4, projects=False)


CIFAR_RESNETS = {f"cifar-resnet{6 * n + 2}": _cifar(n) for n in (3, 5, 7, 9)}
"""He, Zhang, Ren and Sun, "Deep residual learning for image recognition", 2016, section 4.2: 6n + 2 layers with weights,
shortcuts without parameters."""

SMALL_CIFAR_RESNETS = {
    "cifar-resnet6": Architecture(
        BasicBlock,
        (Stage(1, 32, 2), Stage(1, 64, 2)),
        stem_channels=16,
        smallest_side=8,
        stem_kernel=5,
        stem_stride=2,
    ),
    "cifar-resnet14x2": Architecture(
        BasicBlock, (Stage(2, 32, 1), Stage(2, 64, 2), Stage(2, 128, 2)), stem_channels=32, smallest_side=4
    ),
}
"""Ours, with 1x1 convolutions in the shortcuts that change shape. `cifar-resnet6` is small enough for processors: it halves
the image three times. `cifar-resnet14x2` is that of the paper's rule with n = 2 and twice the channels."""

DIGITS_RESNETS = {
    "digits-resnet": Architecture(BasicBlock, (Stage(1, 8, 1), Stage(1, 16, 2)), stem_channels=8, smallest_side=4)
}
"""Ours: small enough to train in a second on a laptop, with every ingredient of the large ones."""
