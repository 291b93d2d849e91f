"""Money for machines, storage and requests, from a small table of list prices that a file of the user's can replace.

    machines of a kind = max(CPUs / its CPUs, GPUs / its GPUs), rounded up         compute = machines x hours x price

Every entry carries its date. Caution: list prices of one region without discounts, and one CPU is taken to be as fast
as one of the machine that was measured.
"""

from __future__ import annotations

import datetime
import math
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError

from raydelt.config import Section
from raydelt.errors import InputError

Price = Annotated[float, Field(ge=0)]


class Instance(Section):
    """A kind of machine, and the price of an hour of it."""

    name: str
    cpus: Annotated[int, Field(ge=1)]
    gpus: Annotated[int, Field(ge=0)] = 0
    memory_gib: Annotated[float, Field(gt=0)]
    per_hour: Price


class StoragePrices(Section):
    """An object store: a GB for a month, and a thousand requests that write or list, and that read."""

    gb_month: Price
    put_1000: Price
    get_1000: Price


class Cloud(Section):
    """The prices of one provider in one region on a day."""

    date: datetime.date
    region: str
    note: str = ""
    currency: str = "USD"
    storage: StoragePrices
    instances: Annotated[list[Instance], Field(min_length=1)]


def load(path: str | None = None) -> dict[str, Cloud]:
    """The price table of a file, or that of the package.

    Raises:
        InputError: the file is missing or a field is wrong.
    """
    origin = path or "the package's prices.yaml"
    try:
        packaged = resources.files(__package__).joinpath("prices.yaml")
        raw = yaml.safe_load(Path(path).read_text("utf-8") if path else packaged.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        told = " ".join(str(error).split())
        raise InputError(f"prices {origin!r} cannot be read ({told}): check the path and the YAML") from error
    if not isinstance(raw, dict) or not raw:
        raise InputError(
            f"prices {origin!r} must map names of clouds to their prices, as the package's prices.yaml does"
        )
    return {str(name): _cloud(origin, str(name), own) for name, own in raw.items()}


def _cloud(origin: str, name: str, raw: Any) -> Cloud:
    try:
        return Cloud.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join([name, *(str(part) for part in first["loc"])])
        raise InputError(
            f"prices {origin!r}: {where}: {first['msg'].removeprefix('Value error, ').lower()}: mend that field"
        ) from error


def price(
    clouds: dict[str, Cloud],
    *,
    cpus: float,
    gpus: float,
    memory: float,
    seconds: float,
    disk: float,
    requests: dict[str, int],
) -> list[dict[str, Any]]:
    """For each cloud the cheapest of its machines that carry the job; nothing of a cloud that has none."""
    found = []
    for name, cloud in clouds.items():
        offers = [_offer(one, cpus, gpus, memory, seconds) for one in cloud.instances if one.gpus or not gpus]
        if not offers:
            continue
        best = min(offers, key=lambda offer: float(offer["compute"]))
        asked = requests["put"] + requests["list"]
        told: dict[str, Any] = {
            "storage_month": disk / 1e9 * cloud.storage.gb_month,
            "requests": asked / 1e3 * cloud.storage.put_1000 + requests["get"] / 1e3 * cloud.storage.get_1000,
        }
        dated = {"currency": cloud.currency, "date": cloud.date.isoformat(), "note": cloud.note}
        found.append({"cloud": name, "region": cloud.region, **best, **told, **dated})
    return found


def _offer(one: Instance, cpus: float, gpus: float, memory: float, seconds: float) -> dict[str, Any]:
    needed = [cpus / one.cpus, memory / (one.memory_gib * 2**30)]
    if gpus:
        needed.append(gpus / one.gpus)
    machines = max(1, math.ceil(max(needed) - 1e-9))
    return {"instance": one.name, "machines": machines, "compute": machines * seconds / 3600 * one.per_hour}
