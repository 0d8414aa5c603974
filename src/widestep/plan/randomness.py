"""Named random streams from a counter-based hash: every draw is a pure function of (seed, name, position, index).

No generator carries state, so nothing has to be saved, replayed or kept in step between processes. The hash is
Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011), computed here for
whole arrays at once; its published test vectors are in the tests.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (np.uint64(0x9E3779B9), np.uint64(0xBB67AE85))
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)

U64 = NDArray[np.uint64]


def philox4x32(counter: U64, key: U64, num_rounds: int = 10) -> U64:
    """Hash 128-bit counters under 64-bit keys: the Philox4x32 bijection.

    Parameters
    ----------
    counter
        Shape (..., 4), 32-bit words held in uint64.
    key
        Shape (..., 2) or (2,), 32-bit words held in uint64.

    Returns
    -------
    Shape (..., 4), 32-bit words held in uint64.
    """
    c0, c1, c2, c3 = (counter[..., i] for i in range(4))
    k0, k1 = key[..., 0], key[..., 1]
    for _ in range(num_rounds):
        p0, p1 = _MULTIPLIERS[0] * c0, _MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (p1 >> _HALF) ^ c1 ^ k0, p1 & _LOW, (p0 >> _HALF) ^ c3 ^ k1, p0 & _LOW
        k0, k1 = (k0 + _WEYL[0]) & _LOW, (k1 + _WEYL[1]) & _LOW
    return np.stack([c0, c1, c2, c3], axis=-1)


def uniforms_of_keys(keys: U64, num_draws: int) -> NDArray[np.float64]:
    """Draw `num_draws` uniforms in [0, 1) for every 64-bit key.

    Parameters
    ----------
    keys
        Shape (M,), one key an image.

    Returns
    -------
    Shape (M, num_draws), float64 with 53 random bits; draw j of a key does not depend on `num_draws`.
    """
    keys = np.asarray(keys, dtype=np.uint64)
    num_blocks = (num_draws + 1) // 2
    counter = np.zeros((keys.size, num_blocks, 4), dtype=np.uint64)
    counter[..., 0] = np.arange(num_blocks, dtype=np.uint64)
    words = philox4x32(counter, _words(keys)[:, None, :])
    bits = (words[..., 0::2] << _HALF) | words[..., 1::2]
    return (bits.reshape(keys.size, 2 * num_blocks)[:, :num_draws] >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _words(values: U64) -> U64:
    """Split 64-bit values (...,) into low and high 32-bit words (..., 2)."""
    return np.stack([values & _LOW, values >> _HALF], axis=-1)


@dataclass(frozen=True)
class Stream:
    """All random numbers of one purpose ("order", "augment", "init", ...) in the run of one seed.

    Seed and name are mixed by a cryptographic hash into the key, position and index go into the counter, so that seed 0
    at epoch 1 and seed 1 at epoch 0 have nothing in common (statement D1).

    Examples
    --------
    >>> order = Stream(seed=0, name="order")
    >>> sorted(order.permutation(4, 7).tolist())
    [0, 1, 2, 3]
    >>> bool((order.permutation(100, 7) == Stream(7, "order").permutation(100, 0)).all())
    False
    """

    seed: int
    name: str

    def key(self, *position: int) -> int:
        """Return the 64-bit key of a position, for example an epoch: what a generator may be seeded with."""
        text = f"widestep:{self.name}:{self.seed}:{','.join(map(str, position))}"
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")

    def keys(self, indices: NDArray[Any], *position: int) -> U64:
        """Return one 64-bit key an index, shape (len(indices),): for example one an image in an epoch (statement D3)."""
        indices = np.asarray(indices).astype(np.uint64)
        counter = np.zeros((indices.size, 4), dtype=np.uint64)
        counter[:, :2] = _words(indices)
        words = philox4x32(counter, _words(np.array(self.key(*position), dtype=np.uint64)))
        return (words[:, 0] << _HALF) | words[:, 1]

    def uniforms(self, indices: NDArray[Any], *position: int, num_draws: int = 1) -> NDArray[np.float64]:
        """Return uniforms in [0, 1), shape (len(indices), num_draws), float64."""
        return uniforms_of_keys(self.keys(indices, *position), num_draws)

    def permutation(self, length: int, *position: int) -> NDArray[np.int64]:
        """Return a random order of 0..length-1: the ranks of one 64-bit key an index, ties (of which there are none
        in practice) broken by index. Takes about 0.3 s for the 1,281,167 images of ImageNet.
        """
        return np.argsort(self.keys(np.arange(length), *position), kind="stable").astype(np.int64)
