"""How the C library hands out a training's memory."""

from __future__ import annotations

import ctypes

TRIM, MMAP = -1, -3  # mallopt's names of its thresholds, in glibc's malloc.h
MOST = 1 << 30


def keep_memory() -> None:
    """Has glibc keep what a step frees for the next step, which needs as much: by itself it gives large tensors back to
    the system, and each step has all their pages made anew. Does nothing where the C library has no such settings."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(MMAP, MOST)
        mallopt(TRIM, 2 * MOST - 1)
