"""DiT's conditionings: the sum of time and class modulates norms, and there are no extra tokens."""

from typing import ClassVar, Literal

from torch import Tensor

from discli.model.conditionings import Conditioning, Conditions
from discli.model.modulation import GatedModulation, Modulation
from discli.recipe.spec import ChoiceSpec


class AdaLNConditioningSpec(ChoiceSpec):
    """Time plus class scale and shift every block's norm (DiT's adaLN, arXiv:2212.09748)."""

    name: Literal["adaln"] = "adaln"


class AdaLNZeroConditioningSpec(ChoiceSpec):
    """adaLN that also gates what each block adds, from zero on (DiT's choice, arXiv:2212.09748)."""

    name: Literal["adaln-zero"] = "adaln-zero"


class FinalOnlyConditioningSpec(ChoiceSpec):
    """Time plus class scale and shift the head's norm, and nothing before it."""

    name: Literal["final-only"] = "final-only"


class AdaLNConditioning(Conditioning):
    """The sum of time and class modulates every block and the head."""

    spec: ClassVar[type[ChoiceSpec]] = AdaLNConditioningSpec

    def block_modulation(self) -> Modulation | None:
        return Modulation(self.embed_dim)

    def forward(self, time_BD: Tensor, class_BD: Tensor | None) -> Conditions:
        condition = time_BD if class_BD is None else time_BD + class_BD
        return Conditions(condition.unsqueeze(1)[:, :0], blocks=condition, head=condition)


class AdaLNZeroConditioning(AdaLNConditioning):
    """As adaLN, and each block is gated, so that at first it adds nothing: DiT's choice (arXiv:2212.09748).

    The head is modulated as under adaLN and starts as it does there.
    """

    spec = AdaLNZeroConditioningSpec

    def block_modulation(self) -> Modulation | None:
        return GatedModulation(self.embed_dim)


class FinalOnlyConditioning(AdaLNConditioning):
    """The sum of time and class modulates the head alone: the blocks do not know how noisy their input is."""

    spec = FinalOnlyConditioningSpec

    def block_modulation(self) -> Modulation | None:
        return None

    def forward(self, time_BD: Tensor, class_BD: Tensor | None) -> Conditions:
        return super().forward(time_BD, class_BD)._replace(blocks=None)
