"""Which tuned base is meant: ``family/language``, a repository, or a language that one family alone has a base for."""

from typing import NamedTuple

from deployments.catalog_file import CatalogFile
from tasks.domain.catalog import Family, TunedBase
from tasks.domain.errors import InputError
from tasks.settings import Settings


class Named(NamedTuple):
    """A tuned base of the catalog."""

    file: CatalogFile
    family: Family
    language: str

    @property
    def entry(self) -> TunedBase:
        """As the catalog states it."""
        return self.family.tuned_bases[self.language]

    @property
    def name(self) -> str:
        """``family/language``, which means it alone."""
        return f"{self.family.family}/{self.language}"

    @property
    def targets(self) -> list[str]:
        """The family's targets that use it."""
        return [name for name, target in self.family.targets.items() if self.language in target.languages]


def every_base(settings: Settings) -> list[Named]:
    """All tuned bases of the families that run here.

    Raises:
        CatalogError: with every problem of the catalog.
    """
    names = settings.family_names or sorted(path.stem for path in settings.catalog.glob("*.yaml"))
    files = [CatalogFile(settings.catalog, name) for name in names]
    families = [file.check(settings.family_names).family(file.path.stem) for file in files]
    pairs = zip(files, families, strict=True)
    return [Named(file, family, code) for file, family in pairs for code in family.tuned_bases]


def find_base(settings: Settings, name: str) -> Named:
    """The tuned base called ``name``.

    Raises:
        InputError: none is, or several are; the message lists what there is.
        CatalogError: with every problem of the catalog.
    """
    bases = every_base(settings)
    found = [one for one in bases if one.name == name]
    found = found or [one for one in bases if name in (one.entry.repo, one.language)]
    if len(found) == 1:
        return found[0]
    if found:
        raise InputError(f"{name!r} may be {' or '.join(one.name for one in found)}: name one of them")
    known = ", ".join(f"{one.name} ({one.entry.repo})" for one in bases)
    raise InputError(f"no tuned base is called {name!r}; expected FAMILY/LANGUAGE or OWNER/NAME. There are: {known}")
