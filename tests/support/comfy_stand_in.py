"""A stand-in for ComfyUI: of its documented interfaces what skipcast uses, around networks that are formulas.

Written from the documentation and the behaviour of ComfyUI, for tests where it is not installed; where it is,
`test_comfy.py` runs the same plan under both.
"""

from __future__ import annotations

import contextlib
import copy
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from support import comfyui

Formula = Callable[[Tensor, Tensor, Tensor], Tensor]

# Parametrisations.


class Sampling:
    """Of networks whose samples are clean + sigma noise, with a table of levels: Stable Diffusion's."""

    flow = False

    def __init__(self, prediction: str = "epsilon", last: float = 0.012) -> None:
        betas = np.linspace(0.00085**0.5, last**0.5, 1000) ** 2
        signal = np.cumprod(1 - betas)
        self.prediction = prediction
        self.sigmas = torch.tensor(np.sqrt((1 - signal) / signal), dtype=torch.float32)
        self.sigma_max = self.sigmas[-1]

    def timestep(self, sigma: Tensor) -> Tensor:
        distance = sigma.log().float() - self.sigmas.log()[:, None]
        return distance.abs().argmin(dim=0).view(sigma.shape)

    def sigma(self, timestep: Tensor) -> Tensor:
        low, high, log = timestep.floor().long(), timestep.ceil().long(), self.sigmas.log()
        return ((1 - timestep.frac()) * log[low] + timestep.frac() * log[high]).exp()

    def percent_to_sigma(self, percent: float) -> float:
        return float(self.sigma(torch.tensor([999.0 * (1 - percent)])))

    def noise_scaling(self, sigma: Tensor, noise: Tensor, latent: Tensor, max_denoise: bool = False) -> Tensor:
        return noise * ((1 + sigma**2) ** 0.5 if max_denoise else sigma) + latent

    def inverse_noise_scaling(self, sigma: Tensor, latent: Tensor) -> Tensor:
        return latent

    def calculate_input(self, sigma: Tensor, x: Tensor) -> Tensor:
        return x / (_like(sigma, x) ** 2 + 1) ** 0.5

    def calculate_denoised(self, sigma: Tensor, output: Tensor, x: Tensor) -> Tensor:
        s = _like(sigma, x)
        if self.prediction == "epsilon":
            return x - s * output
        return x / (s**2 + 1) - output * s / (s**2 + 1) ** 0.5


class Flow(Sampling):
    """Of flows: samples are (1 - sigma) clean + sigma noise, shifted as FLUX's and SD3's are."""

    flow = True

    def __init__(self, shift: float = 3.0) -> None:
        self.shift, self.prediction = shift, "velocity"
        self.sigmas = torch.tensor([self.percent_to_sigma(1 - i / 1000) for i in range(1, 1001)])
        self.sigma_max = self.sigmas[-1]

    def timestep(self, sigma: Tensor) -> Tensor:
        return sigma * 1000

    def sigma(self, timestep: Tensor) -> Tensor:
        return self.shift * timestep / (1000 + (self.shift - 1) * timestep)

    def percent_to_sigma(self, percent: float) -> float:
        share = 1 - percent
        return self.shift * share / (1 + (self.shift - 1) * share)

    def noise_scaling(self, sigma: Tensor, noise: Tensor, latent: Tensor, max_denoise: bool = False) -> Tensor:
        return sigma * noise + (1 - sigma) * latent

    def inverse_noise_scaling(self, sigma: Tensor, latent: Tensor) -> Tensor:
        return latent / (1 - sigma)

    def calculate_input(self, sigma: Tensor, x: Tensor) -> Tensor:
        return x

    def calculate_denoised(self, sigma: Tensor, output: Tensor, x: Tensor) -> Tensor:
        return x - _like(sigma, x) * output


def _like(sigma: Tensor, x: Tensor) -> Tensor:
    return sigma if sigma.numel() == 1 else sigma.view(-1, *[1] * (x.ndim - 1))


def simple(sampling: Sampling, steps: int) -> Tensor:
    """The levels of the scheduler of this name."""
    each = len(sampling.sigmas) / steps
    return torch.tensor([*(float(sampling.sigmas[-1 - int(i * each)]) for i in range(steps)), 0.0])


# Models, guiders, samplers.


def bent(x: Tensor, told: Tensor, text: Tensor) -> Tensor:
    """An output that bends with the sample, the time and the text, (B, C, H, W)."""
    t = told.to(x).view(-1, 1, 1, 1) / 1000
    word = text.to(x).mean(dim=tuple(range(1, text.ndim))).view(-1, 1, 1, 1)
    return torch.tanh(x.roll(1, -1) * (1 + t)) - 0.4 * x * (1 - t) + 0.2 * word * x.flip(-1)


class Model:
    """BaseModel: the network and its parametrisation."""

    latent_format = types.SimpleNamespace(latent_channels=4)

    def __init__(self, sampling: Sampling, formula: Formula = bent) -> None:
        self.model_sampling, self.formula = sampling, formula
        self.calls = 0

    def apply(self, x: Tensor, sigma: Tensor, text: Tensor) -> Tensor:
        self.calls += 1
        sampling = self.model_sampling
        output = self.formula(sampling.calculate_input(sigma, x), sampling.timestep(sigma), text)
        return sampling.calculate_denoised(sigma, output, x)

    def scale_latent_inpaint(self, sigma: Tensor, noise: Tensor, latent_image: Tensor, x: Tensor) -> Tensor:
        return self.model_sampling.noise_scaling(_like(sigma, x), noise, latent_image)


class Patcher:
    """ModelPatcher."""

    def __init__(self, model: Model) -> None:
        self.model, self.wrappers = model, dict[str, dict[str, list[Any]]]()

    def clone(self) -> Patcher:
        made = copy.copy(self)
        made.wrappers = copy.deepcopy(self.wrappers)
        return made

    def get_model_object(self, name: str) -> Any:
        return getattr(self.model, name)

    def model_dtype(self) -> torch.dtype:
        return torch.float32

    def get_wrappers(self, kind: str, key: str) -> list[Any]:
        return self.wrappers.get(kind, {}).get(key, [])

    def add_wrapper_with_key(self, kind: str, key: str, wrapper: Any) -> None:
        self.wrappers.setdefault(kind, {}).setdefault(key, []).append(wrapper)


class _Executor:
    """A call with its wrappers around it."""

    def __init__(self, call: Any, owner: Any, wrappers: list[Any]) -> None:
        self.call, self.class_obj, self.wrappers = call, owner, wrappers

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self.wrappers:
            return self.call(*args, **kwargs)
        return self.wrappers[0](_Executor(self.call, self.class_obj, self.wrappers[1:]), *args, **kwargs)


def cond(word: float, **more: Any) -> list[Any]:
    """A CONDITIONING of one text that is a number."""
    return [[torch.full((1, 3, 2), word), {"pooled_output": torch.zeros(1, 2), **more}]]


class CFGGuider:
    """With a positive and a negative text, or with the former alone."""

    def __init__(self, model_patcher: Patcher) -> None:
        self.model_patcher, self.original_conds, self.cfg = model_patcher, dict[str, Any](), 1.0
        self.model_options: dict[str, Any] = {"transformer_options": {}}

    def set_conds(self, positive: Any, negative: Any) -> None:
        self.inner_set_conds({"positive": positive, "negative": negative})

    def set_cfg(self, cfg: float) -> None:
        self.cfg = cfg

    def inner_set_conds(self, conds: dict[str, Any]) -> None:
        for name, found in conds.items():
            self.original_conds[name] = [{**more, "cross_attn": text, "uuid": object()} for text, more in found]

    def wrapped(self, kind: str, call: Any, owner: Any) -> _Executor:
        return _Executor(
            call, owner, [w for group in self.model_patcher.wrappers.get(kind, {}).values() for w in group]
        )

    def __call__(self, x: Tensor, sigma: Tensor, model_options: Any = None, seed: Any = None) -> Tensor:
        return self.wrapped("predict_noise", self.predict_noise, self)(x, sigma, model_options, seed)

    def predict_noise(self, x: Tensor, sigma: Tensor, model_options: Any = None, seed: Any = None) -> Tensor:
        found = {}
        for name, each in self.conds.items():
            text = each[0]["cross_attn"] + 0.1 * each[0].get("guidance", 0.0)
            found[name] = self.inner_model.apply(x, sigma, text.expand(len(x), -1, -1))
        if "negative" not in found:
            return found["positive"]
        return found["negative"] + self.cfg * (found["positive"] - found["negative"])

    def sample(
        self,
        noise: Tensor,
        latent_image: Tensor,
        sampler: KSAMPLER,
        sigmas: Tensor,
        denoise_mask: Tensor | None = None,
        callback: Any = None,
        disable_pbar: bool = False,
        seed: int | None = None,
    ) -> Tensor:
        self.conds, self.inner_model = {**self.original_conds}, self.model_patcher.model
        options = {"transformer_options": {"sample_sigmas": sigmas}}
        run = self.wrapped("sampler_sample", sampler.sample, sampler)
        extra = {"model_options": options, "seed": seed}
        found = run(self, sigmas, extra, callback, noise, latent_image, denoise_mask, disable_pbar)
        del self.conds, self.inner_model
        return found.float()


class BasicGuider(CFGGuider):
    def set_conds(self, positive: Any) -> None:  # type: ignore[override]
        self.inner_set_conds({"positive": positive})


class _Inpainted:
    """The guider with the protected region put back before and behind it."""

    def __init__(self, guider: Any, sigmas: Tensor, noise: Tensor, latent_image: Tensor) -> None:
        self.inner_model, self.sigmas, self.noise, self.latent_image = guider, sigmas, noise, latent_image

    def __call__(
        self, x: Tensor, sigma: Tensor, denoise_mask: Tensor | None = None, model_options: Any = None, seed: Any = None
    ) -> Tensor:
        if denoise_mask is None:
            return self.inner_model(x, sigma, model_options=model_options, seed=seed)
        kept = self.inner_model.inner_model.scale_latent_inpaint(
            x=x, sigma=sigma, noise=self.noise, latent_image=self.latent_image
        )
        x = x * denoise_mask + kept * (1 - denoise_mask)
        out = self.inner_model(x, sigma, model_options=model_options, seed=seed)
        return out * denoise_mask + self.latent_image * (1 - denoise_mask)


class KSAMPLER:
    def __init__(self, sampler_function: Any, extra_options: Any = None, inpaint_options: Any = None) -> None:
        self.sampler_function, self.extra_options = sampler_function, extra_options or {}
        self.inpaint_options = inpaint_options or {}

    def sample(
        self, model_wrap: Any, sigmas: Tensor, extra_args: dict[str, Any], callback: Any, noise: Tensor,
        latent_image: Tensor, denoise_mask: Tensor | None = None, disable_pbar: bool = False,
    ) -> Tensor:  # fmt: skip
        sampling = model_wrap.inner_model.model_sampling
        extra_args["denoise_mask"] = denoise_mask
        model = _Inpainted(model_wrap, sigmas, noise, latent_image)
        most = float(sampling.sigma_max)
        x = sampling.noise_scaling(sigmas[0], noise, latent_image, float(sigmas[0]) >= most * (1 - 1e-5))
        told = None if callback is None else lambda d: callback(d["i"], d["denoised"], d["x"], len(sigmas) - 1)
        found = self.sampler_function(
            model, x, sigmas, extra_args=extra_args, callback=told, disable=disable_pbar, **self.extra_options
        )
        return sampling.inverse_noise_scaling(sigmas[-1], found)


def sample_euler(
    model: Any, x: Tensor, sigmas: Tensor, extra_args: Any = None, callback: Any = None, disable: Any = None,
    s_churn: float = 0.0,
) -> Tensor:  # fmt: skip
    for i in range(len(sigmas) - 1):
        if s_churn:
            x = x + s_churn * torch.randn_like(x)
        denoised = model(x, sigmas[i] * x.new_ones(len(x)), **(extra_args or {}))
        if callback is not None:
            callback({"x": x, "i": i, "sigma": sigmas[i], "sigma_hat": sigmas[i], "denoised": denoised})
        x = x + (x - denoised) / sigmas[i] * (sigmas[i + 1] - sigmas[i])
    return x


def sample_heun(model: Any, x: Tensor, sigmas: Tensor, extra_args: Any = None, **_: Any) -> Tensor:
    for i in range(len(sigmas) - 1):
        d = (x - model(x, sigmas[i] * x.new_ones(len(x)), **(extra_args or {}))) / sigmas[i]
        ahead = x + d * (sigmas[i + 1] - sigmas[i])
        if sigmas[i + 1] > 0:
            e = (ahead - model(ahead, sigmas[i + 1] * x.new_ones(len(x)), **(extra_args or {}))) / sigmas[i + 1]
            d = (d + e) / 2
        x = x + d * (sigmas[i + 1] - sigmas[i])
    return x


def sample_ancestral(model: Any, x: Tensor, sigmas: Tensor, extra_args: Any = None, **_: Any) -> Tensor:
    for i in range(len(sigmas) - 1):
        denoised = model(x, sigmas[i] * x.new_ones(len(x)), **(extra_args or {}))
        x = denoised + sigmas[i + 1] * torch.randn_like(x)
    return x


def sample_cfg_pp(model: Any, x: Tensor, sigmas: Tensor, extra_args: Any = None, **_: Any) -> Tensor:
    extra = {**(extra_args or {}), "model_options": {"sampler_post_cfg_function": [lambda args: args["denoised"]]}}
    return sample_euler(model, x, sigmas, extra)


class Clip:
    """Encodes a text as its length, and long ones in more tokens."""

    def tokenize(self, text: str) -> str:
        return text

    def encode_from_tokens_scheduled(self, tokens: str) -> list[Any]:
        found = cond(len(tokens) / 20)
        found[0][0] = found[0][0][:, :1].expand(-1, 3 if len(tokens) < 12 else 4, -1)
        return found


# The reference model.


class ShapesClip(comfyui.Clip):
    """Its text encoders; the stand-in hands on one tensor for a text, so the pooled one is its last token."""

    def encode_from_tokens_scheduled(self, tokens: str) -> list[Any]:
        ((embeds, more),) = super().encode_from_tokens_scheduled(tokens)
        pooled = more["pooled_output"]
        pooled = torch.nn.functional.pad(pooled, (0, embeds.shape[-1] - pooled.shape[-1]))
        return [[torch.cat([embeds, pooled[:, None]], 1), more]]


def shapes_flux(pipe: Any) -> Patcher:
    """Its network, with the shift that ComfyUI's FLUX has."""
    network = pipe.transformer

    @torch.no_grad()
    def formula(x: Tensor, told: Tensor, text: Tensor) -> Tensor:
        tokens, side = text[:, :-1], x.shape[-1] // 2
        output = network(
            hidden_states=comfyui.packed(x),
            timestep=told.to(x).expand(len(x)) / 1000,
            encoder_hidden_states=tokens,
            pooled_projections=text[:, -1, : network.config.pooled_projection_dim],
            txt_ids=torch.zeros(tokens.shape[1], 3),
            img_ids=pipe._prepare_latent_image_ids(len(x), side, side, x.device, x.dtype),
            return_dict=False,
        )[0]
        return comfyui.unpacked(output)

    return Patcher(Model(Flow(np.exp(1.15)), formula))


# The modules.


class _Socket:
    """A type of sockets: its inputs and outputs hold what they were given."""

    def __init__(self, io_type: str) -> None:
        self.io_type = io_type

    def Input(self, id: str, **given: Any) -> Any:  # noqa: N802
        return types.SimpleNamespace(id=id, io_type=self.io_type, **given)

    def Output(self, **given: Any) -> Any:  # noqa: N802
        return types.SimpleNamespace(io_type=self.io_type, **given)


class NodeOutput:
    def __init__(self, *args: Any, ui: Any = None) -> None:
        self.args, self.ui = args, ui


class Interrupted(Exception):
    """What ComfyUI raises when its user stops a run."""


class Bar:
    """ProgressBar."""

    made: ClassVar[list[Bar]] = []

    def __init__(self, total: int) -> None:
        self.total, self.current = total, 0
        Bar.made.append(self)

    def update(self, value: int) -> None:
        self.current += value

    def update_absolute(self, value: int) -> None:
        self.current = value


@contextlib.contextmanager
def installed(monkeypatch: Any, folder: Path) -> Iterator[types.SimpleNamespace]:
    """The modules in the place of ComfyUI's; what is yielded stops a run when its `stop` is set."""
    state = types.SimpleNamespace(stop=False, folder=folder)

    def throw() -> None:
        if state.stop:
            raise Interrupted

    def module(name: str, **content: Any) -> None:
        made = types.ModuleType(name)
        made.__path__ = []  # type: ignore[attr-defined]
        vars(made).update(content)
        monkeypatch.setitem(__import__("sys").modules, name, made)

    class ComfyExtension:
        pass

    paths: dict[str, tuple[list[str], set[str]]] = {}
    sockets = ("Boolean", "Clip", "Combo", "Float", "Guider", "Int", "Latent", "Model", "Sampler", "Sigmas", "String")
    io = types.SimpleNamespace(
        **{name: _Socket(name.upper()) for name in sockets},
        Custom=_Socket,
        Schema=lambda **given: types.SimpleNamespace(**given),
        ComfyNode=type("ComfyNode", (), {}),
        NodeOutput=NodeOutput,
    )

    def add_model_folder_path(name: str, path: str) -> None:
        known, _ = paths.setdefault(name, ([], set()))
        if path not in known:
            known.append(path)

    def full_path(name: str, file: str) -> str | None:
        return next((str(Path(root) / file) for root in paths[name][0] if (Path(root) / file).is_file()), None)

    module("comfy")
    module("comfy.model_management", throw_exception_if_processing_interrupted=throw)
    module("comfy.samplers", KSAMPLER=KSAMPLER, CFGGuider=CFGGuider)
    module(
        "comfy.sample",
        prepare_noise=lambda latent, seed: torch.randn(latent.shape, generator=torch.Generator().manual_seed(seed)),
        fix_empty_latent_channels=lambda model, latent: latent,
    )
    module("comfy.utils", ProgressBar=Bar)
    wrappers = types.SimpleNamespace(SAMPLER_SAMPLE="sampler_sample", PREDICT_NOISE="predict_noise")
    module("comfy.patcher_extension", WrappersMP=wrappers)
    module("comfy_api")
    text = types.SimpleNamespace(PreviewText=lambda value: {"text": (value,)})
    module("comfy_api.latest", io=io, ui=text, ComfyExtension=ComfyExtension)
    module(
        "folder_paths",
        models_dir=str(folder),
        folder_names_and_paths=paths,
        add_model_folder_path=add_model_folder_path,
        get_folder_paths=lambda name: list(paths[name][0]),
        get_full_path=full_path,
        get_filename_list=lambda name: [p.name for root in paths[name][0] for p in Path(root).glob("*.*")],
    )
    yield state
