"""The score networks inside the installed package galaxygrad, read at run time: torch modules, without JAX.

The package states no licence, so nothing of it is copied here or shipped. A `.eqx` file holds the arrays of a module
one after the other, each as NumPy saves it, in the order of the module's fields.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

VERSION = "0.2.1"
#: Survey -> its file and the side of its images, in pixels.
SURVEYS = {
    "HSC": ("eqx_hsc_ScoreNet64.eqx", 64),
    "ZTF": ("eqx_ZTF_ScoreNet64.eqx", 64),
    "LSST": ("eqx_lsst_ScoreNet60.eqx", 60),
    "quasar lenses": ("eqx_quasar_lens72.eqx", 72),
    "Roman": ("eqx_roman_Scorenet120.eqx", 120),
}
BLOCKS = 4
#: Per MLP two layers, and per norm a weight and a bias; two convolutions before, a norm and the final time behind.
ARRAYS = 4 + BLOCKS * 12 + 3


class NotInstalled(Exception):
    """The package with the networks is not installed."""


def folder() -> Path:
    """Where the package lies; it is not imported, which would need JAX.

    Raises:
        NotInstalled: it is not there.
    """
    found = importlib.util.find_spec("galaxygrad")
    if found is None or not found.submodule_search_locations:
        raise NotInstalled(
            f"galaxygrad is not installed: pip install --no-deps galaxygrad=={VERSION}, as `make galaxies`."
        )
    return Path(found.submodule_search_locations[0])


class ScoreNet(nn.Module):
    """s(x, t) of x = e^(-t/2) clean + sqrt(1 - e^(-t)) noise: an MLP-mixer on patches, (B, 1, H, W), t a number."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        with path.open("rb") as file:
            arrays = [torch.from_numpy(np.load(file)) for _ in range(ARRAYS)]
            if file.read(1):
                raise ValueError(f"{path.name} holds more than the {ARRAYS} arrays of a mixer of {BLOCKS} blocks.")
        self.weights = nn.ParameterList([nn.Parameter(array, requires_grad=False) for array in arrays])
        self.last_time = float(arrays[-1])

    def forward(self, x: Tensor, t: Tensor | float) -> Tensor:
        w = iter(self.weights)
        at = torch.ones_like(x) * (t / self.last_time)
        filters, bias, back, back_bias = (next(w) for _ in range(4))
        patch = filters.shape[-1]
        y = F.conv2d(torch.cat([x, at], 1), filters, bias.flatten(), stride=patch)
        grid = y.shape[2:]
        y = y.flatten(2)
        for _ in range(BLOCKS):
            one, two, norm_one, norm_two = ([next(w) for _ in range(k)] for k in (4, 4, 2, 2))
            y = y + _mlp(F.layer_norm(y, y.shape[1:], *norm_one), one)
            y = y.mT
            y = (y + _mlp(F.layer_norm(y, y.shape[1:], *norm_two), two)).mT
        y = F.layer_norm(y, y.shape[1:], next(w), next(w)).unflatten(2, grid)
        # Equinox keeps the kernel of a transposed convolution as that of the convolution it amounts to.
        return F.conv_transpose2d(y, back.transpose(0, 1).flip(2, 3), back_bias.flatten(), stride=patch)


def _mlp(x: Tensor, arrays: list[Tensor]) -> Tensor:
    first, bias, second, last = arrays
    return F.linear(F.relu(F.linear(x, first, bias)), second, last)


def network(survey: str) -> ScoreNet:
    """The network of a survey.

    Raises:
        NotInstalled: the package is not there.
    """
    return ScoreNet(folder() / SURVEYS[survey][0])
