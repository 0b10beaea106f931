"""The share of samples in which a probe on the features recognises the class that was asked for."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from discli.evaluation.extractor import Extractor
from discli.evaluation.metric import MetricSetup, Needs, ReferenceStats, RowsMetric
from discli.evaluation.probe import Probe, confusion, wilson
from discli.runs.eval_result import ClassRecognition, Mistake, Recognition, Share

_MISTAKES = 3  # of a class, the commonest


class Recognised(RowsMetric):
    """Share of samples recognised as the class asked for, beside held-out real images.

    The probe (`discli.evaluation.probe`) is fitted on nine tenths of the reference's images and judged on the rest.
    It sees what the network's features hold: a share near that of real images says that the classes can be told
    apart as in real ones, not that the images are good or varied.
    """

    name = "recognised"
    needs: ClassVar[Needs] = "classes"

    def __init__(self, setup: MetricSetup) -> None:
        super().__init__(setup)
        assert setup.labels is not None
        self._asked = setup.labels

    def score_name(self, extractor: Extractor, score: str) -> str:
        """Never without the network that the probe sits on."""
        named = extractor.score_name(score)
        return named if named != score else f"{score} ({extractor.name})"

    def compute(self, reference: ReferenceStats) -> dict[str, float]:
        recognised, _ = self.judged(reference)
        return {"recognised": float(torch.eq(recognised, self._asked).double().mean())}

    def judged(self, reference: ReferenceStats) -> tuple[Tensor, Tensor]:
        """Of each sample the class recognised (n,) int64, and its log-probability (n,)."""
        probe = _probe(reference)
        found = [probe(rows).max(dim=1) for rows in self.rows().split(10_000)]
        return torch.cat([each.indices for each in found]), torch.cat([each.values for each in found])

    def recognition(self, reference: ReferenceStats, names: Sequence[str], score: str) -> Recognition:
        recognised, _ = self.judged(reference)
        probe = _probe(reference)
        table = confusion(self._asked, recognised, len(names))
        real = probe.confusion
        asked = table.sum(dim=1).nonzero().flatten().tolist()
        return Recognition(
            score=score,
            samples=_share(table[asked].sum(), sum(table[i, i] for i in asked)),
            held_out=_share(real[asked].sum(), sum(real[i, i] for i in asked)),
            classes=tuple(
                ClassRecognition.model_validate(
                    {
                        "class": names[i],
                        "samples": _share(table[i].sum(), table[i, i]),
                        "held_out": _share(real[i].sum(), real[i, i]),
                        "mistaken_for": _mistakes(table[i], i, names),
                    }
                )
                for i in asked
            ),
        )

    def examples(self, reference: ReferenceStats, among: Tensor) -> dict[tuple[int, int], int]:
        """Of each pair (class asked for, class recognised) the surest sample, of those numbered ``among``."""
        recognised, sure = self.judged(reference)
        found: dict[tuple[int, int], int] = {}
        for index in among[sure[among].argsort(descending=True)].tolist():
            found.setdefault((int(self._asked[index]), int(recognised[index])), index)
        return found


def _probe(reference: ReferenceStats) -> Probe:
    assert reference.probe is not None
    return reference.probe


def _share(n: Tensor | int, right: Tensor | int) -> Share:
    low, high = wilson(int(right), int(n))
    return Share(n=int(n), right=int(right), low=low, high=high)


def _mistakes(row: Tensor, own: int, names: Sequence[str]) -> tuple[Mistake, ...]:
    others = row.clone()
    others[own] = 0
    common = others.argsort(descending=True, stable=True)[:_MISTAKES].tolist()
    return tuple(Mistake.model_validate({"class": names[i], "n": int(others[i])}) for i in common if others[i] > 0)
