"""The machine that a recipe is planned for: this one, or one that the user describes."""

from dataclasses import dataclass
from typing import Literal

import torch

from discli.cost.peak import find_peak, known_devices
from discli.model.mixers import choose_scan
from discli.recipe.model import ModelSpec
from discli.runtime.devices import gpu_precision, pick_device, settle_precision
from discli.runtime.errors import DiscliError
from discli.runtime.numbers import format_number
from discli.scan import planned_backend

# Shown where nobody says which one to expect.
_UTILISATIONS = (0.1, 0.3, 0.5)


@dataclass(frozen=True)
class Hardware:
    """``gpus`` devices of one kind, and the shares of their peak that they are taken to reach.

    ``device`` is None for a machine that is not this one.
    """

    device: torch.device | None
    device_type: str
    gpu: str | None = None
    tflops: float | None = None
    gpus: int = 1
    utilisations: tuple[float, ...] = _UTILISATIONS
    assumed: bool = False  # the utilisation is the user's

    @classmethod
    def of(
        cls,
        gpu: str | None = None,
        tflops: float | None = None,
        gpus: int = 1,
        utilisation: float | None = None,
        device: str | None = None,
    ) -> "Hardware":
        """With ``gpu`` or ``tflops`` a machine elsewhere, with CUDA unless ``device`` says otherwise; else this one.

        Raises DiscliError for a GPU whose peak is not known, and for a utilisation that is none.
        """
        if utilisation is not None and not 0 < utilisation <= 1:
            raise DiscliError(f"--utilisation {utilisation:g}: not a share of the peak.", "Give one such as 0.3.")
        shares = _UTILISATIONS if utilisation is None else (utilisation,)
        rest = {"gpus": gpus, "utilisations": shares, "assumed": utilisation is not None}
        if gpu is not None and find_peak(gpu, "fp32", tf32=False) is None:
            known = ", ".join(known_devices())
            raise DiscliError(f"--gpu {gpu}: its peak is not known.", f"Known: {known}. For another: --tflops.")
        if gpu is not None or tflops is not None:
            return cls(None, device or "cuda", gpu, tflops, **rest)  # type: ignore[arg-type]
        here = pick_device(device)
        name = torch.cuda.get_device_name(here) if here.type == "cuda" else None
        return cls(here, here.type, name, **rest)  # type: ignore[arg-type]

    @property
    def name(self) -> str:
        kind = self.gpu or (f"{format_number(self.tflops, 6)} TFLOP/s" if self.tflops else self.device_type)
        return f"{self.gpus} x {kind}" if self.gpus > 1 else kind

    def backend(self, model: ModelSpec) -> str:
        """What computes the model's scans there."""
        if self.device is None and model.uses_scan:
            return planned_backend(model.scan, self.device_type)
        return choose_scan(model, self.device or torch.device(self.device_type)).name

    def precision(self, wanted: Literal["auto", "fp32", "bf16"]) -> str:
        """fp32 or bf16: what a recipe's ``precision`` means there."""
        if wanted != "auto":
            return wanted
        if self.device is not None:
            return settle_precision(wanted, self.device).name
        if self.device_type != "cuda":
            return "fp32"
        # Of a GPU elsewhere that has no name, nobody can say: those of today compute in bf16.
        native = self.gpu is None or find_peak(self.gpu, "bf16", tf32=False) is not None
        return gpu_precision(native_bf16=native)

    def peak(self, precision: str, tf32: bool, given_tflops: float | None = None) -> float | None:
        """FLOP/s of all devices together, where they are known; ``given_tflops`` of one is the recipe's."""
        tflops = self.tflops or given_tflops
        if tflops is not None:
            return self.gpus * tflops * 1e12
        one = find_peak(self.gpu, precision, tf32) if self.gpu else None
        return one and self.gpus * one
