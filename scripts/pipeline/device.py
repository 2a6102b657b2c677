"""Choose the device and make torch's arithmetic reproducible: the one place that does."""

from __future__ import annotations

import os

import torch


def choose_device(wanted: str, *, threads: int, deterministic: bool) -> torch.device:
    """Return the device to compute on, after setting threads and determinism.

    Args:
        wanted: "auto" (CUDA, else CPU), "cpu" or "cuda". Apple's MPS has no float64, which weights
            and kernels need.
        threads: CPU threads of torch; a sum's order of terms depends on them.
        deterministic: refuse algorithms whose result varies between calls on a GPU.

    Returns:
        The device.

    Raises:
        RuntimeError: if the wanted device is not there.
    """
    torch.set_num_threads(threads)
    # TF32 keeps 10 bits of mantissa: too few for the small eigenvalues of Theta.
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        raise RuntimeError(
            f"compute.device is {wanted}, but this torch ({torch.__version__}, built for CUDA "
            f"{torch.version.cuda}) finds no such device; set compute.device to auto or cpu, or "
            "install a torch build with GPU support on a machine with a working driver"
        )
    if deterministic:
        # cuBLAS reads the variable when it starts, which is before the first product.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        # As use_deterministic_algorithms(True), which imports torch's compiler to tell it so too:
        # 2 to 3 s of every job, for what nothing here uses.
        torch.set_deterministic_debug_mode("error")
    return torch.device(wanted)


def describe_device(device: torch.device) -> str:
    """Return the device's name for logs and attributes."""
    if device.type == "cuda":
        return f"cuda: {torch.cuda.get_device_name(device)}"
    return device.type
