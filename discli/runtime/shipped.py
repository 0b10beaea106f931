"""Where the recipes and studies that come with discli lie. Here and not in recipe/, for the shell asks at every TAB."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
# A checkout keeps recipes/ beside the package; a wheel carries them inside it.
_SHIPPED = next((d for d in (_PACKAGE.parent / "recipes", _PACKAGE / "shipped_recipes") if d.is_dir()), None)


def shipped_files(folder: str = "") -> dict[str, Path]:
    """Name -> file of every TOML file in a folder of the shipped recipes."""
    files = (_SHIPPED / folder).glob("*.toml") if _SHIPPED else ()
    return {path.stem: path for path in sorted(files, key=lambda path: path.stem)}


def first_comment(path: Path) -> str:
    """What a recipe says about itself in its first comment; editors' directives (``#:schema``) are none."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return next((line.lstrip("# ") for line in lines if line.startswith("#") and not line.startswith("#:")), "")
