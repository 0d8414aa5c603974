"""What people use instead: torchrun and DistributedDataParallel with torch.save every ten steps, in the usual way.

torchrun --nproc-per-node 3 --max-restarts 3 peer_program.py FOLDER STEPS
"""

import hashlib
import os
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from widestep.data import digits


def main() -> None:
    folder, steps = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, size = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Dropout(0.1), nn.Linear(1024, 10)
    )
    model = DistributedDataParallel(network)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    path, first = folder / "last.pt", 0
    if path.exists():
        saved = torch.load(path, weights_only=True)
        network.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        first = saved["step"]
    if rank == 0:
        with (folder / "starts").open("a") as out:
            out.write(f"{time.time()} {first}\n")
    (folder / f"pid{rank}").write_text(str(os.getpid()))
    held = digits.load()
    images, labels = torch.tensor(held.pixels[:240, None], dtype=torch.float32) / 16, torch.tensor(held.labels[:240]).long()
    for step in range(first, steps):
        order = torch.randperm(240, generator=torch.Generator().manual_seed(step // 10))
        mine = order[step % 10 * 24 :][:24][rank::size]
        loss = nn.functional.cross_entropy(model(images[mine]), labels[mine])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if rank == 0 and (step + 1) % 10 == 0:
            saved = {"model": network.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}
            torch.save(saved, folder / "new.pt")
            (folder / "new.pt").replace(path)
            (folder / "progress").write_text(str(step + 1))
    if rank == 0:
        weights = b"".join(p.detach().numpy().tobytes() for p in network.parameters())
        (folder / "hash").write_text(hashlib.sha256(weights).hexdigest())
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
