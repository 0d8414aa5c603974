"""From photographs on disk to batches of 224x224 pixels: processor time an image and images a second, against other loaders.

Every turn reads all training photographs; the first turn, which finds out about the files, is not counted.
"""

import os
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import peers
from benchmarks.contest import Turn, contest, ranking
from benchmarks.photographs import draw_photographs, files_of, pack, write_parquet, write_tar
from benchmarks.spread import Row
from benchmarks.wanted import Wanted
from widestep.data.augment import crop_box, crop_draws
from widestep.data.decode import open_picture
from widestep.data.loading import Images, Loading
from widestep.data.source import open_source
from widestep.data.stores.open_store import StoreKind, open_store
from widestep.data.views import crop_view
from widestep.plan.randomness import Stream
from widestep.train.setting import keep_freed_memory

SIZE, IMAGES = 224, 32
"""Side of the images, and how many make a batch."""
_DRAWN, _AHEAD = 200, 2
_FORMS: dict[str, StoreKind] = {"originals": "folder", "packed jpeg": "packed", "packed raw": "packed"}
_OURS = [f"{who}, {form}" for form in _FORMS for who in ("widestep", "widestep uint8")]
_LIMITS = [f"decode and crop, {form}" for form in _FORMS] + [f"decode, {form}" for form in _FORMS if form != "packed raw"]
_OTHERS = ["torchvision", "torchvision uint8", "webdataset", "datasets"]
AGAINST = {name: ["torchvision"] for name in (*_OTHERS[1:], *_LIMITS)} | {
    name: [*_OTHERS, *(f"{limit}, {name.partition(', ')[2]}" for limit in ("decode", "decode and crop"))] for name in _OURS
}
QUICK = ("widestep, packed jpeg", "widestep uint8, packed jpeg", "decode, packed jpeg", "decode and crop, packed jpeg")


def run(wanted: Wanted) -> list[Row]:
    """Load from every form, on one core without other processes or threads, then with two workers or threads."""
    with tempfile.TemporaryDirectory() as temporary:
        folder, made = wanted.photos, Path(temporary)
        if folder is None:
            folder = made / "drawn"
            draw_photographs(folder, 15 if wanted.quick else _DRAWN)
        for form in ("jpeg",) if wanted.quick else ("jpeg", "raw"):
            pack(folder, made / form, form)
        write_tar(folder, made / "train-000000.tar")
        write_parquet(folder, made / "train.parquet")
        num_images = len(files_of(folder))
        passes = max(1, (5 if wanted.quick else 480) // num_images)
        rows = [_row(folder, made, passes, cores, wanted.quick) for cores in ((1,) if wanted.quick else (1, 2))]
    for row in rows:
        assert isinstance(row["case"], dict)
        row["case"] |= {"photographs": "drawn" if wanted.photos is None else "given", "files": num_images}
    return rows


def _row(folder: Path, made: Path, passes: int, cores: int, quick: bool) -> Row:
    paths = {"originals": folder, "packed jpeg": made / "jpeg", "packed raw": made / "raw"}
    ways: dict[str, dict[str, Any]] = {
        "torchvision": {"path": str(folder)},
        "torchvision uint8": {"path": str(folder)},
        "webdataset": {"path": str(made / "train-000000.tar")},
        "datasets": {"path": str(made / "train.parquet")},
    }
    ours = [*_OURS, *_LIMITS] if cores == 1 else _OURS
    ways |= {name: {"path": str(paths[name.partition(", ")[2]])} for name in ours}
    settings = {
        name: {"who": name, "passes": passes, "cores": cores, **way}
        for name, way in ways.items()
        if not quick or name in QUICK
    }
    outcomes = contest(__name__, settings, 2 if quick else 9, warming=1 + quick)
    case = {"cores": cores, "images_of_a_batch": IMAGES, "size": SIZE}
    return ranking(case, outcomes, passes * len(files_of(folder)), AGAINST)


def enter(settings: dict[str, Any]) -> Turn:
    """Prepare a loader; a turn is some passes over the photographs."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: settings["cores"]])
    torch.set_num_threads(1)
    who, _, form = settings["who"].partition(", ")
    batches = _LOADERS[who](settings, form)

    def turn() -> None:
        for _ in range(settings["passes"]):
            for _ in batches():
                pass

    return turn


Batches = Callable[[], Iterator[Any]]


def _of_widestep(settings: dict[str, Any], form: str) -> Batches:
    """Ask for batches as training does, two ahead of the one that is waited for; or take them before they are normalised.

    A GPU mirrors and normalises by itself: then bytes are all that the processor makes.
    """
    keep_freed_memory()  # as training does
    takes_bytes = settings["who"].startswith("widestep uint8")
    threads = 0 if settings["cores"] == 1 else settings["cores"]
    source = open_source(
        f"{_FORMS[form]}:{settings['path']}",
        augment="random-resized-crop",
        image_size=SIZE,
        loading=Loading(num_threads=threads),
    )
    ids, keys = _shuffled(source.facts.num_train)

    def taken(images: Any) -> Any:
        return images.decoding.result() if takes_bytes else images.result()

    def batches() -> Iterator[Any]:
        asked: deque[Images] = deque()
        for start in range(0, len(ids), IMAGES):
            some = slice(start, start + IMAGES)
            asked.append(source.training_images(ids[some], keys[some]))
            if len(asked) > _AHEAD:
                yield taken(asked.popleft())
        while asked:
            yield taken(asked.popleft())

    return batches


def _shuffled(num_images: int) -> tuple[Any, Any]:
    """Return ids in some order and their keys."""
    ids = np.random.default_rng(0).permutation(num_images)
    return ids, Stream(0, "augment").keys(ids, 0)


def _of_torchvision(settings: dict[str, Any], _: str) -> Batches:
    """Load as the public ImageNet example does; or the same but for uint8 instead of normalised floats."""
    peers.torchvision()
    image_folder = import_module("torchvision.datasets").ImageFolder
    data = image_folder(str(Path(settings["path"]) / "train"), _transform(settings["who"] == "torchvision uint8"))
    return _data_loader(data, settings, shuffle=True)


def _transform(whole_numbers: bool) -> Any:
    transforms = import_module("torchvision.transforms")
    crop = [transforms.RandomResizedCrop(SIZE), transforms.RandomHorizontalFlip()]
    if whole_numbers:
        return transforms.Compose([*crop, transforms.PILToTensor()])
    normalise = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    return transforms.Compose([*crop, transforms.ToTensor(), normalise])


def _data_loader(data: Any, settings: dict[str, Any], **more: Any) -> Batches:
    """Load with as many worker processes as cores; on a single core in this process, which is the quickest there."""
    workers = 0 if settings["cores"] == 1 else settings["cores"]
    loader = torch.utils.data.DataLoader(
        data, batch_size=IMAGES, num_workers=workers, persistent_workers=workers > 0, **more
    )
    return lambda: iter(loader)


def _of_webdataset(settings: dict[str, Any], _: str) -> Batches:
    """Stream a shard and decode with Pillow, transforms as torchvision's usual ones."""
    peers.torchvision()
    webdataset = import_module("webdataset")
    transform = _transform(False)
    data = webdataset.WebDataset(settings["path"], shardshuffle=False, empty_check=False).shuffle(100).decode("pil")
    return _data_loader(data.to_tuple("jpg", "cls").map_tuple(transform, lambda label: label), settings)


def _of_datasets(settings: dict[str, Any], _: str) -> Batches:
    """Open a parquet file as Hugging Face data sets do, transforms as torchvision's usual ones."""
    peers.torchvision()
    datasets = import_module("datasets")
    transform = _transform(False)
    held = datasets.load_dataset(
        "parquet", data_files=settings["path"], split="train", cache_dir=f"{settings['path']}.cache"
    )

    def transformed(rows: dict[str, Any]) -> dict[str, Any]:
        return {"image": [transform(image.convert("RGB")) for image in rows["image"]], "label": rows["label"]}

    return _data_loader(held.with_transform(transformed), settings, shuffle=True)


def _of_decoding(settings: dict[str, Any], form: str) -> Batches:
    """Decode every file wholly with the quickest decoder and do nothing else: what a loader that decodes all cannot beat."""
    import simplejpeg

    keep_freed_memory()
    store = open_store(_FORMS[form], Path(settings["path"]))
    held = [store.read(image) for image in range(store.num_train)]

    def batches() -> Iterator[Any]:
        for stored in held:
            yield simplejpeg.decode_jpeg(stored, colorspace="RGB", strict=True)

    return batches


def _of_decoding_and_cropping(settings: dict[str, Any], form: str) -> Batches:
    """Decode, crop and resize one image after the other, without batches, order or what a GPU does: what loading adds to."""
    keep_freed_memory()
    store = open_store(_FORMS[form], Path(settings["path"]))
    ids, keys = _shuffled(store.num_train)
    out = np.empty((SIZE, SIZE, 3), np.uint8)
    seen: set[int] = set()

    def batches() -> Iterator[Any]:
        for start in range(0, len(ids), IMAGES):
            draws = crop_draws(keys[start : start + IMAGES])
            for place, image in enumerate(ids[start : start + IMAGES].tolist()):
                picture = open_picture(store.read(image))
                box = crop_box(draws, place, picture.width, picture.height)
                crop_view(picture.decode(box, trusted=image in seen), out)
                seen.add(image)
            yield out

    return batches


_LOADERS: dict[str, Callable[[dict[str, Any], str], Batches]] = {
    "widestep": _of_widestep,
    "widestep uint8": _of_widestep,
    "torchvision": _of_torchvision,
    "torchvision uint8": _of_torchvision,
    "webdataset": _of_webdataset,
    "datasets": _of_datasets,
    "decode": _of_decoding,
    "decode and crop": _of_decoding_and_cropping,
}
