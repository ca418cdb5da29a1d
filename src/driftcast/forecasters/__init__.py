"""Forecasters, one family per file."""

from driftcast.forecasters.base import Forecaster as Forecaster
from driftcast.forecasters.base import LinearForecaster as LinearForecaster
from driftcast.forecasters.base import Mapped as Mapped
from driftcast.forecasters.polynomial import Lagrange as Lagrange
from driftcast.forecasters.polynomial import Reuse as Reuse
from driftcast.forecasters.polynomial import TaylorSeer as TaylorSeer
