"""What the network predicts, and how to read x0 and the noise off its prediction.

Everything is in terms of x_t = a x0 + s eps, with a and s (B, 1, 1, 1) from the schedule. To add
one: a class here with the three functions, its name in ``OBJECTIVES``, and a Spec of the same name
in `discli.recipe.diffusion`.
"""

from typing import Protocol

from torch import Tensor


class Objective(Protocol):
    @staticmethod
    def target(x0: Tensor, noise: Tensor, a: Tensor, s: Tensor) -> Tensor:
        """What a perfect network would return."""

    @staticmethod
    def read(x_t: Tensor, prediction: Tensor, a: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """(x0, noise) that the prediction amounts to."""

    @staticmethod
    def weight_of_x0_error(snr: Tensor) -> Tensor:
        """Squared error of x0 = this weight * squared error of the target; snr = (a / s)^2."""


class Eps:
    """The noise itself (arXiv:2006.11239, eq. 14)."""

    @staticmethod
    def target(x0: Tensor, noise: Tensor, a: Tensor, s: Tensor) -> Tensor:
        return noise

    @staticmethod
    def read(x_t: Tensor, prediction: Tensor, a: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        return (x_t - s * prediction) / a, prediction

    @staticmethod
    def weight_of_x0_error(snr: Tensor) -> Tensor:
        return 1 / snr


class V:
    """a eps - s x0, with a^2 + s^2 = 1 (arXiv:2202.00512, appendix D)."""

    @staticmethod
    def target(x0: Tensor, noise: Tensor, a: Tensor, s: Tensor) -> Tensor:
        return a * noise - s * x0

    @staticmethod
    def read(x_t: Tensor, prediction: Tensor, a: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        return a * x_t - s * prediction, s * x_t + a * prediction

    @staticmethod
    def weight_of_x0_error(snr: Tensor) -> Tensor:
        return 1 / (snr + 1)


class X0:
    """The clean sample."""

    @staticmethod
    def target(x0: Tensor, noise: Tensor, a: Tensor, s: Tensor) -> Tensor:
        return x0

    @staticmethod
    def read(x_t: Tensor, prediction: Tensor, a: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        return prediction, (x_t - a * prediction) / s

    @staticmethod
    def weight_of_x0_error(snr: Tensor) -> Tensor:
        return snr.new_ones(()).expand_as(snr)


class Flow:
    """The velocity eps - x0 of the straight path, a + s = 1 (arXiv:2401.08740, section 2)."""

    @staticmethod
    def target(x0: Tensor, noise: Tensor, a: Tensor, s: Tensor) -> Tensor:
        return noise - x0

    @staticmethod
    def read(x_t: Tensor, prediction: Tensor, a: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        return x_t - s * prediction, x_t + a * prediction

    @staticmethod
    def weight_of_x0_error(snr: Tensor) -> Tensor:
        # s^2 = 1 / (1 + sqrt(snr))^2, since a + s = 1.
        return 1 / (1 + snr.sqrt()) ** 2


OBJECTIVES: dict[str, type[Objective]] = {"eps": Eps, "v": V, "x0": X0, "flow": Flow}
