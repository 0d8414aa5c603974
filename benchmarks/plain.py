"""A small training program in the manner of the public ImageNet example: everything is imported before options are read."""

import argparse

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.plain_model import PlainResNet


def main() -> None:
    """Take some steps on drawn digits-like images."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--images", type=int, default=32, help="images of a step")
    parser.add_argument("--lr", type=float, default=0.1)
    given = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(given.images * given.steps, 1, 8, 8, generator=generator)
    labels = torch.arange(len(images)) % 10
    network = PlainResNet("digits-resnet", 10, 1)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(network.parameters(), given.lr, momentum=0.9, weight_decay=1e-4)
    network.train()
    for some, targets in DataLoader(TensorDataset(images, labels), batch_size=given.images, shuffle=True):
        loss = criterion(network(some), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"loss {loss.item():.4f}")


if __name__ == "__main__":
    main()
