"""Forecasters, one family per file."""

from skipcast.forecasters.aligned import Aligned as Aligned
from skipcast.forecasters.base import Forecaster as Forecaster
from skipcast.forecasters.base import LinearForecaster as LinearForecaster
from skipcast.forecasters.base import Mapped as Mapped
from skipcast.forecasters.base import RecursiveForecaster as RecursiveForecaster
from skipcast.forecasters.combined import Blend as Blend
from skipcast.forecasters.combined import Shrunk as Shrunk
from skipcast.forecasters.multistep import ABCache as ABCache
from skipcast.forecasters.multistep import AdamsBashforth as AdamsBashforth
from skipcast.forecasters.multistep import FoCa as FoCa
from skipcast.forecasters.multistep import MeanVelocity as MeanVelocity
from skipcast.forecasters.polynomial import Lagrange as Lagrange
from skipcast.forecasters.polynomial import Reuse as Reuse
from skipcast.forecasters.polynomial import TaylorSeer as TaylorSeer
from skipcast.forecasters.rational import PadeCode as PadeCode
from skipcast.forecasters.rational import PadeLiteral as PadeLiteral
from skipcast.forecasters.rational import PadePaper as PadePaper
from skipcast.forecasters.spectral import ChebyshevRidge as ChebyshevRidge
from skipcast.forecasters.spectral import HiCache as HiCache
from skipcast.forecasters.spectral import Smoothed as Smoothed
from skipcast.forecasters.subspace import HighBand as HighBand
from skipcast.forecasters.subspace import Principal as Principal
from skipcast.forecasters.subspace import Subspace as Subspace
from skipcast.forecasters.subspace import Within as Within
