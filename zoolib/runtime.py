"""The machine a run happens on: seeds, device, precision, and what a record must say about all of it."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import hashlib
import os
import platform
import random
import resource
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoolib.paths import CHECKOUT
from zoolib.spec import ZoolibError, reason

if TYPE_CHECKING:
    import torch

_VERSIONED = ("torch", "torchvision", "timm", "numpy", "pandas", "scikit-learn", "ale-py")

# What can change a number: the fingerprint of a record covers these files, and not tables, figures or the command line.
_NUMERIC = (
    "data/embedded.py",
    "data/loaders.py",
    "data/augment.py",
    "data/faces.py",
    "data/landmarks.py",
    "data/portraits.py",
    "data/render.py",
    "data/scenes.py",
    "data/things.py",
    "data/aerial.py",
    "hub.py",
    "checkpoints.py",
    "nets.py",
    "families.py",
    "tasks.py",
    "heatmaps.py",
    "nme.py",
    "method.py",
    "losses.py",
    "train.py",
    "recipe.py",
    "evidence.py",
    "transferability.py",
    "probes.py",
    "features.py",
    "regularizers.py",
    "experiment.py",
    "costs.py",
    "games.py",
    "layers/*.py",
    "methods/*.py",
    "rl/*.py",
    # Not the games' sources, which a game's run names by their checksums: a run makes them, and must not be unmade.
    "weights/*-*/*.safetensors",
)
# What of it a game can run: an hour of one is not set aside by a change of what it never meets.
_OF_GAMES = (
    "families.py",
    "games.py",
    "losses.py",
    "nets.py",
    "layers/*.py",
    "rl/*.py",
)


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch (every device)."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def device() -> torch.device:
    """The device of $ZOOLIB_DEVICE, else a CUDA GPU where there is one, else the CPU."""
    import torch

    name = os.environ.get("ZOOLIB_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(name)
    except RuntimeError:
        raise ZoolibError(f"ZOOLIB_DEVICE is {name!r}; use cpu, cuda or cuda:N") from None
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise ZoolibError(f"ZOOLIB_DEVICE is {name!r}, and torch sees {torch.cuda.device_count()} GPUs here; use cpu")
    return found


def precision(wanted: str, device: torch.device) -> str:
    """`float32` or `bfloat16` for a wanted precision of "auto", "float32" or "bfloat16".

    "auto" is bfloat16 on GPUs that have it and float32 on CPUs: there, depthwise convolutions, which the packaged
    ImageNet hub is made of, train at less than half of their float32 speed under autocast, AVX512-bf16 or not.
    """
    import torch

    if wanted != "auto":
        return wanted
    return "bfloat16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "float32"


def native_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 numbers itself (AVX512-bf16 or AMX): dense convolutions then gain from it."""
    import torch

    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def keep_freed_memory() -> bool:
    """Ask glibc to keep freed blocks instead of returning them; False where there is no such allocator.

    Blocks above 32 MB are otherwise mapped and zeroed anew at every training step, which can double a step's time.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    mmap_threshold, trim_threshold = -3, -1  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD of malloc.h
    return bool(mallopt(mmap_threshold, 1 << 30) and mallopt(trim_threshold, (1 << 31) - 1))


def require_torchvision() -> None:
    """Import torchvision, and say what is wrong when a CPU-only torch wheel broke it.

    Raises ZoolibError naming the reinstall command.
    """
    try:
        import torchvision  # noqa: F401
    except RuntimeError as error:
        if "torchvision::nms does not exist" not in str(error):
            raise
        import torch

        raise ZoolibError(
            f"operator torchvision::nms does not exist: torch {torch.__version__} and torchvision are not a matching "
            "pair (a CPU-only torch wheel?); install both from one index, in a checkout by "
            "rm .venv/.ready && make .venv/.ready"
        ) from None


@functools.cache
def code_fingerprint(task: str = "") -> str:
    """Twelve hexadecimal digits over the sources and packaged weights that can change a number.

    For the task "atari", of those alone that can change a game's.
    """
    digest = hashlib.sha256()
    package, patterns = Path(__file__).resolve().parent, _OF_GAMES if task == "atari" else _NUMERIC
    for path in sorted({path for pattern in patterns for path in package.glob(pattern)}):
        digest.update(str(path.relative_to(package)).encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _git(*arguments: str) -> str:
    if not (CHECKOUT / "pyproject.toml").is_file():
        return ""  # an installed package may lie in a repository of somebody else
    try:
        done = subprocess.run(["git", "-C", str(CHECKOUT), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def commit() -> tuple[str, bool]:
    """The checkout's commit, or $ZOOLIB_COMMIT where there is no git, and whether tracked files differ from it."""
    return _git("rev-parse", "HEAD") or os.environ.get("ZOOLIB_COMMIT", "unknown"), bool(
        _git("status", "--porcelain", "--untracked-files=no")
    )


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def machine(used: torch.device | None = None) -> dict[str, Any]:
    """CPU, cores, memory (GB), GPU and platform, as a record keeps them.

    The GPU is the device used, or none where that is the CPU; where it is not said, the first one of the machine.
    """
    import torch

    gpu = torch.cuda.is_available() if used is None else used.type == "cuda"
    pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_gb": round(pages / 2**30, 1),
        "gpu": torch.cuda.get_device_name(used) if gpu else "",
        "platform": platform.platform(),
    }


@contextlib.contextmanager
def restoring(checkpoint: Path, found: str) -> Iterator[None]:
    """A block that takes up a checkpoint: what fails in it is one line that says what was `found` to be wrong.

    Raises ZoolibError that has the reader delete it, but not where memory or the system kept it from being read.
    """
    try:
        yield
    except ZoolibError:
        raise
    except Exception as error:  # torch, pickle and zipfile each raise their own, some with advice that does not fit
        if isinstance(error, (OSError, MemoryError)) or type(error).__name__ == "OutOfMemoryError":
            raise ZoolibError(
                f"{checkpoint}: could not be read now ({reason(error)}); it stays: free some memory, or mend what the "
                "system says, and start again"
            ) from None
        found = found.format(reason=reason(error))
        raise ZoolibError(f"{checkpoint}: {found}; delete it to start the run afresh") from None


@dataclass
class Past:
    """What the processes before a resumed one leave for its record; empty where it is the first."""

    started: str = ""  # ISO 8601
    seconds: float = 0.0  # that passed in them up to the checkpoint
    parts: list[dict[str, Any]] = field(default_factory=list)  # in order: `conditions`, and "steps" done under them

    def then(self, started: str, seconds: float, conditions: dict[str, Any], steps: int) -> dict[str, Any]:
        """What a checkpoint keeps of these processes and the present one, as fields of the next one's `Past`."""
        parts = self.with_part(conditions, steps)
        return {"started": self.started or started, "seconds": self.seconds + seconds, "parts": parts}

    def with_part(self, conditions: dict[str, Any], steps: int) -> list[dict[str, Any]]:
        """The parts, and one of the present process: none where it did no step, one with the last where they agree."""
        return _joined([*self.parts, {**conditions, "steps": steps}])


def _joined(parts: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Neighbours of equal conditions as one part; parts without steps are none."""
    joined: list[dict[str, Any]] = []
    for part in (part for part in parts if part["steps"]):
        if joined and {**joined[-1], "steps": 0} == {**part, "steps": 0}:
            part = {**part, "steps": joined.pop()["steps"] + part["steps"]}
        joined.append(part)
    return joined


def computed_under(pasts: Iterable[Past]) -> dict[str, Any]:
    """For provenance: the conditions of a run's last steps, and as `resumed_from` those of its parts before, if any.

    A process that found all steps done, and had only to write the record, does not count. {} where nothing was trained.
    """
    parts = _joined(part for past in pasts for part in past.parts)
    if not parts:
        return {}
    last = {name: value for name, value in parts[-1].items() if name != "steps"}
    return last | ({"resumed_from": parts[:-1]} if parts[1:] else {})


def conditions(device: torch.device, precision: str) -> dict[str, Any]:
    """What the last digits of a run, and its seconds, depend on beside its code and data."""
    import torch

    return {
        "versions": versions(),
        "machine": machine(device),
        "threads": torch.get_num_threads(),
        "precision": precision,
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that make the numbers."""
    found = {"python": platform.python_version()}
    for name in _VERSIONED:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def forget_peak_memory(device: torch.device) -> None:
    """Let `peak_memory_mb` count from here: what earlier work freed is given back, its peak forgotten.

    Where the system keeps no such counter (outside Linux) the peak goes on counting from the start of the process.
    """
    import torch

    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_mb(device: torch.device) -> float:
    """Peak memory since `forget_peak_memory` or the start, in MB: of the GPU where one is used, else resident."""
    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
