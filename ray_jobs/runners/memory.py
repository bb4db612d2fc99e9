"""How the C library hands out a training's memory."""

from __future__ import annotations

import ctypes

TRIM, MMAP = -1, -3  # mallopt's names of its thresholds, in glibc's malloc.h
SIZES = (1 << 30, 32 << 20)  # the largest that glibc takes, from 2.35 on and before


def keep_memory() -> None:
    """Has glibc keep what a step frees for the next step, which needs as much: by itself it gives large tensors back to
    the system, and each step has all their pages made anew. Does nothing where the C library has no such settings."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt and any(mallopt(MMAP, size) for size in SIZES):  # TRIM alone would have large tensors given back
        mallopt(TRIM, 2**31 - 1)
