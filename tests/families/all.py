"""Every family."""

from __future__ import annotations

from families import flux, images, others, videos
from families.base import Family

FAMILIES: tuple[Family, ...] = (*flux.FAMILIES, *images.FAMILIES, *videos.FAMILIES, *others.FAMILIES)
