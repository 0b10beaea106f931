"""What would fail only after hours of training fails before the first trial of a study, and once for all of them."""

from collections.abc import Sequence
from pathlib import Path

import torch

from discli.ablation.plan import Planned
from discli.data.autoencoders import load_codec
from discli.data.holdout import split_of
from discli.data.store import open_store
from discli.evaluation.extractor import load_extractor
from discli.evaluation.reference import check_resolution, check_statistics, open_reference
from discli.recipe import DataContract, Study, check_fits
from discli.recipe.data_files import are_there
from discli.recipe.differences import brief, differences
from discli.runtime.errors import DiscliError
from discli.sampling.load import load_model
from discli.sampling.plan import check_weak

_CPU = torch.device("cpu")


def check_before(study: Study, plan: Sequence[Planned], data: Path | None) -> None:
    """Data, classes, autoencoder, feature network, reference and autoguidance's model: all there, and fitting.

    ``data`` wins over the recipes' ``data.file``. Finished trials need none of it, but what they were
    trained on must be what is given now. Raises DiscliError.
    """
    contracts: dict[Path, DataContract] = {}
    wanted: dict[tuple[Path, Path | None, str | None], Planned] = {}
    for planned in plan:
        file = data or planned.recipe.data.file
        if file is None or (planned.result is not None and not are_there(file)):
            if planned.result is None:
                raise DiscliError(f"{study.name}: no data file.", "Give --data FILE.h5 (discli encode writes one).")
            continue
        if file not in contracts:
            contracts[file] = open_store(file).contract
        _check_data(planned, contracts[file], file)
        _check_score(study, planned, file)
        if planned.result is None:
            guidance = planned.recipe.sample.guidance
            weak = guidance.checkpoint if guidance.name == "autoguidance" else None
            wanted.setdefault((file, planned.recipe.train.score.reference, weak), planned)
    if not wanted:
        return
    extractor = load_extractor(study.score.features, None, None, _CPU)
    for file in dict.fromkeys(file for file, *_ in wanted):
        load_codec(contracts[file].codec, _CPU)
        extractor.check_size(*contracts[file].resolution)
    for (file, reference, weak), planned in wanted.items():
        if reference is not None:
            by_class = study.score.by == "recognised"
            opened = open_reference(reference, _CPU, with_labels=by_class)
            if by_class and (opened.images is None or opened.images.labels is None):
                raise DiscliError(
                    f'{study.name}: score.by is "recognised", but the reference {reference} has no classes.',
                    "Leave train.score.reference out: the data file has them. Or score by distance.",
                )
            check_statistics(opened, extractor)
            check_resolution(opened, contracts[file].resolution)
        if weak is not None:
            check_weak(load_model(Path(weak), _CPU), planned.recipe, contracts[file].codec)


def _check_score(study: Study, planned: Planned, file: Path) -> None:
    recipe = planned.recipe
    if study.score.by == "recognised" and recipe.model.num_classes < 2:
        raise DiscliError(
            f'{study.name}: score.by is "recognised", but {planned.trial.name} has no classes to ask for.',
            "Say set.model.num_classes in the study, or score by distance.",
        )
    if study.score.by in ("held-out loss", "loss gap") and not (recipe.data.holdout and recipe.train.holdout_every):
        raise DiscliError(
            f'{study.name}: score.by is "{study.score.by}", but {planned.trial.name} holds no samples out.',
            "Say set.data.holdout = 0.02 in the study, and leave train.holdout_every above 0.",
        )
    if planned.result is None:
        split_of(recipe, open_store(file))


def _check_data(planned: Planned, contract: DataContract, file: Path) -> None:
    if planned.result is None:
        check_fits(planned.recipe, contract, str(file))
        return
    now = contract.as_used_by(planned.recipe).model_dump(mode="json")
    for key, old, new in differences(planned.result.contract or now, now):
        raise DiscliError(
            f"{planned.trial.name} was trained on data with {key} = {brief(old)}, {file} has {brief(new)}.",
            "Give the same --data file as before, or another --out.",
        )
