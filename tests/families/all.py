"""Every family, in order and by name."""

from __future__ import annotations

from families import flux, images, others, videos
from families.base import Family

FAMILIES: tuple[Family, ...] = (*flux.FAMILIES, *images.FAMILIES, *videos.FAMILIES, *others.FAMILIES)
NAMED: dict[str, Family] = {family.name: family for family in FAMILIES}
