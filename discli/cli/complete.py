"""What the shell offers after TAB. Runs at every press of the key, so it imports nothing that takes time."""

from discli.recipe.choices import declared
from discli.recipe.shipped import first_comment, shipped_files

SAMPLERS = declared("diffusion/samplers", default="ddpm")
SCALE_SCHEDULES = declared("diffusion/scale_schedules", default="constant")


def recipe_names(incomplete: str) -> list[tuple[str, str]]:
    """(name, what it is for) of the shipped recipes that begin like that; the shell adds files itself."""
    return _named(incomplete, "")


def study_names(incomplete: str) -> list[tuple[str, str]]:
    """The same of the shipped ablation studies."""
    return _named(incomplete, "ablations")


def sampler_names(incomplete: str) -> list[tuple[str, str]]:
    """(name, what it is) of the samplers that begin like that."""
    return [(one.name, one.summary) for one in SAMPLERS if one.name.startswith(incomplete)]


def scale_schedule_names(incomplete: str) -> list[tuple[str, str]]:
    """The same of the schedules of the guidance scale."""
    return [(one.name, one.summary) for one in SCALE_SCHEDULES if one.name.startswith(incomplete)]


def _named(incomplete: str, folder: str) -> list[tuple[str, str]]:
    files = shipped_files(folder)
    return [(name, first_comment(path)) for name, path in files.items() if name.startswith(incomplete)]
