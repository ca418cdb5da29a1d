"""Forecasters, one family per file."""

from skipcast.forecasters.adams import ABCache as ABCache
from skipcast.forecasters.adams import AdamsBashforth as AdamsBashforth
from skipcast.forecasters.base import Around as Around
from skipcast.forecasters.base import Forecaster as Forecaster
from skipcast.forecasters.base import LinearForecaster as LinearForecaster
from skipcast.forecasters.base import Mapped as Mapped
from skipcast.forecasters.base import RecursiveForecaster as RecursiveForecaster
from skipcast.forecasters.blend import Blend as Blend
from skipcast.forecasters.foca import FoCa as FoCa
from skipcast.forecasters.hermite import HiCache as HiCache
from skipcast.forecasters.meanvelocity import MeanVelocity as MeanVelocity
from skipcast.forecasters.pade import PadeCode as PadeCode
from skipcast.forecasters.pade import PadeLiteral as PadeLiteral
from skipcast.forecasters.pade import PadePaper as PadePaper
from skipcast.forecasters.polynomial import Lagrange as Lagrange
from skipcast.forecasters.polynomial import Reuse as Reuse
from skipcast.forecasters.polynomial import TaylorSeer as TaylorSeer
from skipcast.forecasters.ridge import ChebyshevRidge as ChebyshevRidge
from skipcast.forecasters.shrink import Shrunk as Shrunk
from skipcast.forecasters.smoothed import Smoothed as Smoothed
from skipcast.forecasters.subspace import HighBand as HighBand
from skipcast.forecasters.subspace import Principal as Principal
from skipcast.forecasters.subspace import Subspace as Subspace
from skipcast.forecasters.subspace import Within as Within
