"""Binary signatures: packed bits, their distances, and the majority of several."""

import numpy as np
from jaxtyping import Bool, Int, UInt64

_WORD = 64  # Bits of one number of a signature.


def pack_signatures(bits: Bool[np.ndarray, "n b"]) -> UInt64[np.ndarray, "n s"]:
    """Packs bits, 64 to a number.

    Args:
        bits: One signature per row, its length a multiple of 64.

    Returns:
        The signatures, b / 64 numbers each.
    """
    return np.packbits(np.ascontiguousarray(bits), axis=1).view(np.uint64)


def unpack_signatures(signatures: UInt64[np.ndarray, "n s"]) -> Bool[np.ndarray, "n b"]:
    """Undoes `pack_signatures`.

    Args:
        signatures: Packed signatures.

    Returns:
        Their bits.
    """
    packed = np.ascontiguousarray(signatures).view(np.uint8)
    return np.unpackbits(packed, axis=1).astype(bool)


def hamming_distances(
    left: UInt64[np.ndarray, "n s"], right: UInt64[np.ndarray, "n s"]
) -> Int[np.ndarray, " n"]:
    """Counts the bits in which signatures differ, row by row.

    Args:
        left: Packed signatures.
        right: As many others.

    Returns:
        Distances, 0 to 64 s.
    """
    distances = np.zeros(len(left), np.int32)
    # Number by number: a sum along so short an axis would cost more than all else.
    for number in range(left.shape[1]):
        distances += np.bitwise_count(left[:, number] ^ right[:, number])
    return distances


def majority(
    signatures: UInt64[np.ndarray, "n s"], groups: Int[np.ndarray, " n"]
) -> UInt64[np.ndarray, "g s"]:
    """Aggregates each group of signatures to the bits that most of them have.

    Args:
        signatures: Packed signatures; those of a group stand together.
        groups: Group of every row, never going back.

    Returns:
        One signature per group that occurs. Where as many have a bit as do not, it is
        that of the group's first row: a fixed value would draw all to one corner.
    """
    if not len(groups):
        return signatures
    bits = unpack_signatures(signatures)
    starts = np.flatnonzero(np.diff(groups, prepend=groups[0] - 1))
    sizes = np.diff(starts, append=len(groups))[:, None]
    votes = 2 * np.add.reduceat(bits.astype(np.int32), starts, axis=0)
    return pack_signatures(np.where(votes == sizes, bits[starts], votes > sizes))


def check_bits(bits: int, *, dim: int | None = None) -> None:
    """Refuses lengths of signatures that can't be packed or projected.

    Raises:
        ValueError: If `bits` is no multiple of 64 from 64, or above the dimensions.
    """
    if bits < _WORD or bits % _WORD:
        raise ValueError(f"bits must be a multiple of 64 from 64, got {bits}.")
    if dim is not None and bits > dim:
        raise ValueError(
            f"bits must be at most the descriptors' {dim} dimensions, as the "
            f"projections are orthogonal, got {bits}."
        )
