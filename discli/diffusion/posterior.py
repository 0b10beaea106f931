"""q(x_prev | x_t, x0) between any two timesteps: what ancestral steps and the bound are made of."""

import torch
from torch import Tensor


class Posterior:
    """Mean and variance of arXiv:2006.11239, eq. 6-7, for a jump from t to any earlier ``previous``.

    t and previous are (B,) int64; previous = -1 means the clean sample. Coefficients are computed
    in float64 on the device of all three, then moved to dtype and device of ``like``; all are (B, 1, 1, 1).
    """

    def __init__(self, alphas_cumprod: Tensor, t: Tensor, previous: Tensor, like: Tensor) -> None:
        with_clean = torch.cat([alphas_cumprod.new_ones(1), alphas_cumprod])
        abar = with_clean[t + 1][:, None, None, None]
        abar_previous = with_clean[previous + 1][:, None, None, None]
        alpha = abar / abar_previous
        beta = 1 - alpha
        variance = beta * (1 - abar_previous) / (1 - abar)
        # At the last step the variance is 0, whose logarithm nothing may see. As improved DDPM
        # does, the step after the last stands in (its code calls this "clipped").
        second = with_clean[2] if len(with_clean) > 2 else with_clean[1]
        stand_in = (1 - second / with_clean[1]) * (1 - with_clean[1]) / (1 - second)
        safe = torch.where(previous[:, None, None, None] < 0, stand_in, variance)

        self._x0_coefficient = (beta * abar_previous.sqrt() / (1 - abar)).to(like)
        self._x_t_coefficient = ((1 - abar_previous) * alpha.sqrt() / (1 - abar)).to(like)
        self.log_variance = torch.log(safe).to(like)
        self._log_beta = torch.log(beta).to(like)

    def __getitem__(self, k: int) -> "Posterior":
        """The k-th of B alone, (1, 1, 1, 1) each."""
        one = object.__new__(Posterior)
        for name, coefficients in vars(self).items():
            setattr(one, name, coefficients[k : k + 1])
        return one

    def mean(self, x0: Tensor, x_t: Tensor) -> Tensor:
        """(B, C, H, W) like both (arXiv:2006.11239, eq. 7)."""
        return self._x0_coefficient * x0 + self._x_t_coefficient * x_t

    def interpolated_log_variance(self, interpolation: Tensor) -> Tensor:
        """Between posterior variance (-1) and beta (+1), in logarithms (arXiv:2102.09672, eq. 15); (B, C, H, W)."""
        fraction = (interpolation + 1) / 2
        return fraction * self._log_beta + (1 - fraction) * self.log_variance
