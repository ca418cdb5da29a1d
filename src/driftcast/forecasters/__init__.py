"""Forecasters, one family per file."""

from driftcast.forecasters.adams import ABCache as ABCache
from driftcast.forecasters.adams import AdamsBashforth as AdamsBashforth
from driftcast.forecasters.base import Around as Around
from driftcast.forecasters.base import Forecaster as Forecaster
from driftcast.forecasters.base import LinearForecaster as LinearForecaster
from driftcast.forecasters.base import Mapped as Mapped
from driftcast.forecasters.base import RecursiveForecaster as RecursiveForecaster
from driftcast.forecasters.blend import Blend as Blend
from driftcast.forecasters.foca import FoCa as FoCa
from driftcast.forecasters.hermite import HiCache as HiCache
from driftcast.forecasters.meanvelocity import MeanVelocity as MeanVelocity
from driftcast.forecasters.pade import PadeCode as PadeCode
from driftcast.forecasters.pade import PadeLiteral as PadeLiteral
from driftcast.forecasters.pade import PadePaper as PadePaper
from driftcast.forecasters.polynomial import Lagrange as Lagrange
from driftcast.forecasters.polynomial import Reuse as Reuse
from driftcast.forecasters.polynomial import TaylorSeer as TaylorSeer
from driftcast.forecasters.ridge import ChebyshevRidge as ChebyshevRidge
from driftcast.forecasters.shrink import Shrunk as Shrunk
from driftcast.forecasters.smoothed import Smoothed as Smoothed
from driftcast.forecasters.subspace import HighBand as HighBand
from driftcast.forecasters.subspace import Principal as Principal
from driftcast.forecasters.subspace import Subspace as Subspace
from driftcast.forecasters.subspace import Within as Within
