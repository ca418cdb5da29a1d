"""Guided sampling and inverse problems that stay correct under forecasting.

Three rules: only raw, evaluated outputs are remembered; every step is corrected, evaluated or forecast; and where a
correction takes a gradient through the network, it says what stands for it at forecast steps.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from skipcast.guidance.corrections import DDS as DDS
from skipcast.guidance.corrections import DPS as DPS
from skipcast.guidance.corrections import MCG as MCG
from skipcast.guidance.corrections import SVI as SVI
from skipcast.guidance.corrections import Call as Call
from skipcast.guidance.corrections import Correction as Correction
from skipcast.guidance.corrections import Proximal as Proximal
from skipcast.guidance.corrections import TrustSampling as TrustSampling
from skipcast.guidance.sampling import sample as sample


def corrected(pipe: Any, correction: Correction, **options: Any) -> AbstractContextManager[None]:
    """Correct every step of a diffusers pipeline in a `with` block: `skipcast.pipelines.guided.corrected`."""
    from skipcast.pipelines.guided import corrected as on_pipeline  # only with a pipeline at hand

    return on_pipeline(pipe, correction, **options)
