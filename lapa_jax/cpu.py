"""What XLA's CPU backend and the C library have to be told; neither matters on a GPU or TPU."""

import ctypes
import os
import platform

import jax

FLAG = "--xla_cpu_scheduler_type"
THREADS = 32
"""Of XLA's pool, for up to eight devices."""
KEEP = {  # parameter of glibc's mallopt(3) -> value
    -8: 1,  # M_ARENA_MAX: one place to take memory from, whichever thread asks
    -4: 0,  # M_MMAP_MAX: no block of its own, which would go back when it is freed
    -1: 2**31 - 1,  # M_TRIM_THRESHOLD: bytes free at the end before they go back
    -2: 2**26,  # M_TOP_PAD: bytes taken at once
}


def several() -> bool:
    """Are CPUs asked to be several devices? Starts no backend."""
    return jax.config.jax_num_cpu_devices > 1 or "host_platform_device_count" in os.environ.get("XLA_FLAGS", "")


def serve_collectives() -> None:
    """Devices run the operations of a program in one order, with threads to spare. Call it before the first array.

    XLA (jax 0.10.2) otherwise starts whatever is ready: of two collectives some devices wait in the one, the others
    in the other. And its pool has a thread a device: where all but one wait in a collective, what the last one
    shares out over the pool is never done. Both end when XLA aborts the process ("Expected 8 threads to join the
    rendezvous"). A scheduler that the user chose in XLA_FLAGS stays, and so does NPROC.
    """
    os.environ.setdefault("NPROC", str(THREADS))
    chosen = os.environ.get("XLA_FLAGS", "")
    if FLAG not in chosen:
        os.environ["XLA_FLAGS"] = f"{chosen} {FLAG}=CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED".strip()


def compile_alike() -> None:
    """No program of this process comes from the compilation cache. For one of several, before the first program.

    Each looks there by another key (jax 0.10.2) and finds a program or compiles it; the two run collectives in
    different orders, and gloo aborts ("Received data size doesn't match expected size").
    """
    jax.config.update("jax_enable_compilation_cache", False)


def keep_freed_memory() -> bool:
    """Freed host memory stays with the process, and the kernel need not clear its pages for the next array.

    Returns:
        Whether it was done: with glibc only.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all([mallopt(parameter, value) for parameter, value in KEEP.items()])
