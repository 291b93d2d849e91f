"""Checks of this machine: Python, libraries, cores, memory, shared memory, disk, open files, proxies and GPUs.

Limits of containers (cgroup v2, then v1) count where they are lower than the machine. Sizes are in bytes.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import tempfile
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path

from raydelt.config import RunConfig
from raydelt.report.wording import size
from raydelt.setup.findings import Finding, State

GIB = 1 << 30
LEAST_MEMORY, LEAST_SHM, LEAST_DISK, SOME_DISK = 2 * GIB, GIB, GIB, 5 * GIB
# Ray stops spilling and starting tasks on a disk that is fuller.
FULLEST = 0.95
LEAST_FILES, ENOUGH_FILES = 1024, 4096
PROXIES = ("http_proxy", "https_proxy", "all_proxy")
OURS = ("127.0.0.1", "localhost")
SHM = "/dev/shm"
CGROUP = Path("/sys/fs/cgroup")


def python() -> Finding:
    """Whether this Python is one that raydelt runs on."""
    from packaging.specifiers import SpecifierSet

    wanted = metadata("raydelt")["Requires-Python"] or ">=3.11"
    own = platform.python_version()
    state: State = "ok" if SpecifierSet(wanted).contains(own) else "fail"
    return Finding("python", state, f"Python {own}, wanted {wanted}", "" if state == "ok" else "install that Python")


def libraries() -> Finding:
    """Whether the libraries are there in the versions that raydelt asks for."""
    wrong = unmet("")
    if not wrong:
        return Finding(
            "libraries", "ok", f"raydelt {version('raydelt')}, ray {version('ray')}, torch {version('torch')}"
        )
    return Finding("libraries", "fail", "; ".join(wrong), "pip install -U raydelt, in an environment of its own")


def unmet(extra: str) -> list[str]:
    """Requirements of raydelt, or of one of its extras, that this environment does not meet."""
    from packaging.requirements import Requirement

    wrong = []
    for line in requires("raydelt") or []:
        wanted = Requirement(line)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": extra}):
            continue
        if extra and wanted.marker is not None and wanted.marker.evaluate({"extra": ""}):
            continue
        try:
            own = version(wanted.name)
        except PackageNotFoundError:
            wrong.append(f"{wanted.name} is not installed")
            continue
        if not wanted.specifier.contains(own, prereleases=True):
            wrong.append(f"{wanted.name} {own} is not {wanted.specifier}")
    return wrong


def extras(config: RunConfig) -> Finding:
    """Whether what this spec needs beyond the base is installed."""
    wrong = []
    if config.model.kind == "causal_lm" or config.encoder is not None or config.train.lora is not None:
        wrong += [f"{problem} (raydelt[lm])" for problem in unmet("lm")]
    if config.train.track.mlflow is not None:
        wrong += [f"{problem} (raydelt[mlflow])" for problem in unmet("mlflow")]
    if any(place.startswith(("gs://", "gcs://")) for place in [config.output, *config.corpus.sources]):
        wrong += [] if _installed("gcsfs") else ["gcsfs is not installed"]
    if wrong:
        return Finding(
            "extras", "fail", "; ".join(wrong), "pip install 'raydelt[lm]', raydelt[mlflow] or gcsfs as told"
        )
    return Finding("extras", "ok", "what the spec needs is installed")


def cores(config: RunConfig | None) -> Finding:
    """How many cores this process may use, and whether the spec asks for more."""
    there = usable_cores()
    wanted = config.cluster.num_cpus if config is not None and config.cluster.joined is None else None
    if wanted is not None and wanted > there:
        found = f"{there:g} cores, and cluster.num_cpus asks for {wanted}"
        return Finding("cores", "warn", found, "set cluster.num_cpus to what is there: more only share the cores")
    if there < 2:
        return Finding("cores", "warn", f"{there:g} cores", "training and scoring take turns; 2 or more are quicker")
    return Finding("cores", "ok", f"{there:g} cores")


def usable_cores() -> float:
    """Cores by affinity and by the container's quota."""
    own = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    quota = _read(CGROUP / "cpu.max").split()
    if len(quota) == 2 and quota[0].isdigit():
        own = min(own, int(quota[0]) / int(quota[1]))
    old = _read(CGROUP / "cpu/cpu.cfs_quota_us"), _read(CGROUP / "cpu/cpu.cfs_period_us")
    if old[0].isdigit() and old[1].isdigit():
        own = min(own, int(old[0]) / int(old[1]))
    return own


def memory() -> Finding:
    """Free memory."""
    free = free_memory()
    if free < LEAST_MEMORY:
        return Finding("memory", "warn", f"{size(free)} free", "Ray and two workers take about 2 GiB: close something")
    return Finding("memory", "ok", f"{size(free)} free")


def free_memory() -> int:
    """Bytes of memory that are free to this process, by the machine and by the container's limit."""
    import psutil

    free = int(psutil.virtual_memory().available)
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        most, now = _read(CGROUP / limit), _read(CGROUP / used)
        if most.isdigit() and now.isdigit():
            free = min(free, max(0, int(most) - int(now)))
    return free


def shared_memory() -> Finding:
    """Whether Ray's object store finds room in shared memory."""
    if not os.path.isdir(SHM):
        return Finding("shared memory", "ok", "this system has no /dev/shm")
    free = shutil.disk_usage(SHM).free
    if free < LEAST_SHM:
        cure = "docker run --shm-size=4g, or an emptyDir of medium Memory: Ray falls back to the disk, slowly"
        return Finding("shared memory", "warn", f"{size(free)} free in {SHM}", cure)
    return Finding("shared memory", "ok", f"{size(free)} free in {SHM}")


def disk(place: str, name: str) -> Finding:
    """Free room on the disk that a folder, which need not exist yet, lies on."""
    free = shutil.disk_usage(_standing(place)).free
    found = f"{size(free)} free at {place}"
    if free < LEAST_DISK:
        return Finding(name, "fail", found, "make room, or choose another place")
    if free < SOME_DISK:
        return Finding(
            name, "warn", found, "a large corpus needs several times its own size: `raydelt estimate` tells"
        )
    return Finding(name, "ok", found)


def ray_disk() -> Finding:
    """The disk where Ray keeps its sessions and what it spills, and which it wants not quite full."""
    place = os.path.join(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir(), "ray")
    usage, name = shutil.disk_usage(_standing(place)), "disk of Ray"
    full = usage.used / max(usage.total, 1)
    if usage.free >= LEAST_DISK and full > FULLEST:
        found = f"{size(usage.free)} free at {place}, which is {full:.0%} full"
        return Finding(name, "fail", found, "Ray stops at 95 %: make room, or set RAY_TMPDIR to a folder elsewhere")
    return disk(place, name)


def _standing(place: str) -> Path:
    """The folder, or the nearest one above it that exists."""
    folder = Path(place)
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def open_files() -> Finding:
    """Whether Ray may open the files and sockets that it needs."""
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < LEAST_FILES:
        return Finding("open files", "fail", f"at most {soft}", "ulimit -n 65536")
    if soft < ENOUGH_FILES:
        return Finding("open files", "warn", f"at most {soft}", "ulimit -n 65536 where many workers run")
    return Finding("open files", "ok", f"at most {soft:,}")


def proxies() -> Finding:
    """Whether a proxy of the environment stands between Ray's own processes."""
    named = sorted({name for name in PROXIES if os.environ.get(name) or os.environ.get(name.upper())})
    if not named:
        return Finding("proxies", "ok", "none in the environment")
    past = (os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or "").split(",")
    missing = [host for host in OURS if host not in past and "*" not in past]
    if missing:
        found = f"{', '.join(named)} is set and NO_PROXY lacks {', '.join(missing)}"
        return Finding(
            "proxies", "warn", found, "export NO_PROXY=127.0.0.1,localhost, or Ray's own calls may go there"
        )
    return Finding("proxies", "ok", f"{', '.join(named)} is set, and NO_PROXY leaves this machine out")


def gpus(config: RunConfig | None) -> Finding:
    """The GPUs that torch sees, the driver, and whether an embedded Ray could meet what the spec asks for."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    wanted = config.cluster.actors.num_gpus * config.cluster.actors.min if config is not None else 0.0
    driver = _driver()
    named = f"{count} GPUs" if count != 1 else "1 GPU"
    found = f"{named}{f' ({torch.cuda.get_device_name(0)})' if count else ''}{f', driver {driver}' if driver else ''}"
    if driver and not count:
        cure = f"torch {torch.__version__} sees none: install the build for CUDA, or unset CUDA_VISIBLE_DEVICES"
        return Finding("gpus", "fail" if wanted else "warn", found, cure)
    own = config is not None and config.cluster.joined is None and config.cluster.most is None
    there = float(count if config is None or config.cluster.num_gpus is None else config.cluster.num_gpus)
    if own and wanted > there:
        asked = f"{found}, and cluster.actors asks for {wanted:g} (num_gpus x min)"
        return Finding(
            "gpus", "fail", asked, "set cluster.actors.num_gpus to 0, or cluster.address to a Ray with GPUs"
        )
    return Finding("gpus", "ok", f"{found}{f', the spec asks for {wanted:g}' if wanted else ''}")


def _driver() -> str:
    """The version of NVIDIA's driver; "" where there is none."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    command = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    first = (done.stdout.splitlines() or [""])[0].strip()
    return first if re.fullmatch(r"[0-9.]+", first) else ""


def _installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
