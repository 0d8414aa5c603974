"""A box of a JPEG by nvImageCodec, when that is installed: on the processor, but without the pixels around the box.

It is an optional dependency (`pip install "widestep[fast]"`) because it only saves time: its pixels are those of the decoder
used otherwise, which is tried on a picture before the first use. It accepts some damaged data that the other one refuses.
"""

import os
import tempfile
import threading
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import simplejpeg

from widestep.data.augment import Box
from widestep.data.stores.store import Pixels

_OPTIONS = ":fancy_upsampling=1 :fast_idct=0"
_SMALLEST_SIDE = 16  # pixels; a box one pixel wide at the border may differ (seen with colours stored at half the size)

_lock = threading.Lock()
_of_thread = threading.local()


def decode_region(data: bytes, box: Box) -> Pixels | None:
    """Decode a box of a plain JPEG that is known to be sound, shape (height, width, 3); None when that cannot be done."""
    if min(box.width, box.height) < _SMALLEST_SIDE:
        return None
    with _lock:
        codec = _tried_codec()
    try:
        return None if codec is None else _region(codec, data, box)
    except RuntimeError:
        return None


def _region(codec: Any, data: bytes, box: Box) -> Pixels | None:
    if not hasattr(_of_thread, "decoder"):
        _of_thread.decoder = codec.Decoder(
            device_id=codec.NVIMGCODEC_DEVICE_CPU_ONLY,
            max_num_cpu_threads=1,
            backends=[codec.Backend(codec.CPU_ONLY)],
            options=_OPTIONS,
        )
        _of_thread.params = codec.DecodeParams(apply_exif_orientation=False, color_spec=codec.ColorSpec.SRGB)
    place = codec.Region(box.top, box.left, box.top + box.height, box.left + box.width)
    image = _of_thread.decoder.decode(codec.CodeStream(data).get_sub_code_stream(region=place), params=_of_thread.params)
    region = None if image is None else np.asarray(image.cpu())
    return region if region is not None and region.shape == (box.height, box.width, 3) else None


@cache
def _tried_codec() -> ModuleType | None:
    """Return nvImageCodec if it is there and decodes boxes of a small picture as simplejpeg does."""
    try:
        codec = _quiet_codec()
        across, down = np.meshgrid(np.arange(70), np.arange(50))
        picture = np.stack([across * 3, down * 5, (across * down) & 255], axis=2).astype(np.uint8)
        for sampling in ("444", "422", "420"):
            data = simplejpeg.encode_jpeg(np.ascontiguousarray(picture), colorsubsampling=sampling)
            whole = simplejpeg.decode_jpeg(data)
            region = _region(codec, data, Box(17, 16, 31, 17))
            if region is None or not np.array_equal(region, whole[16:33, 17:48]):
                return None
    except (ImportError, OSError, RuntimeError, AttributeError, TypeError, ValueError):
        return None
    return codec


def _quiet_codec() -> ModuleType:
    """Import nvImageCodec with its decoder for JPEG on the processor only: the others write to stderr if CUDA is lacking."""
    spec = find_spec("nvidia.nvimgcodec")
    if spec is None or spec.origin is None:
        raise ImportError("nvImageCodec is not installed")
    with tempfile.TemporaryDirectory(prefix="widestep-") as folder:
        for extension in (Path(spec.origin).parent / "extensions").glob("libjpeg_turbo_ext*"):
            (Path(folder) / extension.name).symlink_to(extension)
        settings = {"NVIMGCODEC_EXTENSIONS_PATH": folder, "PYNVIMGCODEC_VERBOSITY": "0"}
        before = {name: os.environ.get(name) for name in settings}
        os.environ.update(settings)
        try:
            return import_module("nvidia.nvimgcodec")
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value
