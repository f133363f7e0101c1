"""The heads file: one reader and writer for trainer, server, evaluation and plots.

Its JSON Schema is ``schema.json`` beside this module. The classes check themselves when built, so a
``HeadsFile`` that exists is a valid one, whether it was read or made.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlkv import atomic
from rlkv.errors import HeadsFileError
from rlkv.heads.fields import (
    Gates,
    check_fraction,
    check_gates,
    check_integer,
    check_list,
    check_object,
    check_string,
    refuse,
    within,
)
from rlkv.heads.model_shape import ModelShape
from rlkv.window import Window

if TYPE_CHECKING:
    from transformers import PretrainedConfig

FORMAT_VERSION = 1
"""Newest heads file format that this package reads, and the one it writes."""

SCHEMA_PATH = Path(__file__).with_name("schema.json")
"""The published JSON Schema of ``FORMAT_VERSION``."""


@dataclass(frozen=True)
class MeasuredAccuracy:
    """One accuracy that was measured with these gates.

    Attributes:
        task: name of the task, such as ``"math500"``.
        sparsity: fraction of KV heads that streamed.
        accuracy: fraction of problems solved, in [0, 1].
        num_problems: problems behind the accuracy.
        window: serving window of the streaming heads.

    Raises:
        HeadsFileError: a value of the wrong type or out of range.
    """

    task: str
    sparsity: float
    accuracy: float
    num_problems: int
    window: Window

    def __post_init__(self) -> None:
        check_string("task", self.task)
        check_fraction("sparsity", self.sparsity)
        check_fraction("accuracy", self.accuracy)
        check_integer("num_problems", self.num_problems, at_least=1)


@dataclass(frozen=True)
class Provenance:
    """How the gates came to be.

    Attributes:
        recipe: settings of the training run, JSON values only.
        data: name and revision of the training data.
        steps: training steps taken, None when unknown.
        seed: seed of the run, None when unknown.
        packages: version of each package that took part.

    Raises:
        HeadsFileError: a value of the wrong type, or a recipe that JSON cannot hold.
    """

    recipe: dict[str, Any]
    data: str
    steps: int | None
    seed: int | None
    packages: dict[str, str]

    def __post_init__(self) -> None:
        for name in ("recipe", "packages"):
            if not isinstance(getattr(self, name), dict):
                refuse(name, getattr(self, name), "an object")
        check_string("data", self.data)
        for name in ("steps", "seed"):
            if getattr(self, name) is not None:
                check_integer(name, getattr(self, name), at_least=0)
        for package, number in self.packages.items():
            check_string(f"packages.{package}", number)
        try:
            json.dumps(self.recipe, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise HeadsFileError(f"recipe holds {error}, expected finite JSON values") from None


@dataclass(frozen=True, kw_only=True)
class HeadsFile:
    """Gates of a model, and what is needed to serve with them.

    Attributes:
        model: the model the gates belong to.
        gates: ``[num_layers][num_kv_heads]`` numbers in [0, 1]; lists are turned into tuples.
        training_window: window of the streaming branch while the gates were trained.
        serving_window: recommended window for serving.
        recommended_sparsity: recommended fraction of KV heads that stream.
        measured: accuracy at each sparsity tried.
        provenance: how the gates came to be.
        format_version: version of the file format.

    Raises:
        HeadsFileError: a value of the wrong type or out of range, or gates that do not fit the model.
    """

    format_version: int = FORMAT_VERSION
    model: ModelShape
    gates: Gates
    training_window: Window
    serving_window: Window
    recommended_sparsity: float
    measured: tuple[MeasuredAccuracy, ...] = ()
    provenance: Provenance

    def __post_init__(self) -> None:
        _check_version(self.format_version)
        gates = check_gates(self.gates, self.model.num_layers, self.model.num_kv_heads)
        object.__setattr__(self, "gates", gates)
        check_fraction("recommended_sparsity", self.recommended_sparsity)

    @classmethod
    def read(cls, path: str | PathLike[str]) -> HeadsFile:
        """Read and check a file.

        Raises:
            HeadsFileError: one line that names the file, the field, what was found and what was expected.
        """
        with within(f"{path}: "):
            return cls.from_json(_load(Path(path)))

    def write(self, path: str | PathLike[str]) -> None:
        """Replace the file at ``path``; on a full disk or a kill the old file stays whole.

        Raises:
            HeadsFileError: the file could not be written.
        """
        try:
            atomic.write_text(Path(path), _dump(self.to_json()))
        except OSError as error:
            reason = error.strerror or error
            raise HeadsFileError(f"{path}: cannot write: {reason} (an old file stays as it was)") from error

    @classmethod
    def from_json(cls, data: object) -> HeadsFile:
        """Build from parsed JSON.

        Raises:
            HeadsFileError: one line that names the field, what was found and what was expected.
        """
        if isinstance(data, dict) and "format_version" in data:
            _check_version(data["format_version"])  # first: a newer format may have any other fields
        top = dict(check_object("", data, _names(cls)))
        top["model"] = _build(ModelShape, "model", top["model"])
        top["training_window"] = _window("training_window", top["training_window"])
        top["serving_window"] = _window("serving_window", top["serving_window"])
        measured = check_list("measured", top["measured"])
        top["measured"] = tuple(_measured(f"measured[{index}]", item) for index, item in enumerate(measured))
        top["provenance"] = _build(Provenance, "provenance", top["provenance"])
        return cls(**top)

    def to_json(self) -> dict[str, Any]:
        """The file as JSON values; ``from_json`` reads it back equal."""
        return {name: _plain(value) for name, value in asdict(self).items()}

    def check_model(self, config: PretrainedConfig, source: str | PathLike[str]) -> None:
        """Refuse gates that were made for a model of another shape.

        Args:
            config: transformers config of the model to be served.
            source: name of the heads file, for the message.

        Raises:
            HeadsFileError: one line that names every field in which the two differ.
        """
        served = ModelShape.from_config(config)
        names = ("model_type", "num_layers", "num_kv_heads", "num_query_heads", "head_dim")
        wrong = [
            f"model.{name} is {getattr(self.model, name)!r}, expected {getattr(served, name)!r}"
            for name in names
            if getattr(self.model, name) != getattr(served, name)
        ]
        if wrong:
            raise HeadsFileError(f"{source}: {'; '.join(wrong)} as in the model {served.model_id}")


def package_versions(*names: str) -> dict[str, str]:
    """Versions of those of the named packages that are installed, for ``Provenance.packages``."""
    versions = {}
    for name in names:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def _check_version(value: object) -> None:
    check_integer("format_version", value, at_least=1)
    if value != FORMAT_VERSION:
        refuse("format_version", value, f"at most {FORMAT_VERSION}: a newer rlkv wrote this file")


def _names(cls: Any) -> list[str]:
    return [field.name for field in fields(cls)]


def _build(cls: Any, field: str, value: object) -> Any:
    data = check_object(field, value, _names(cls))
    with within(f"{field}."):
        return cls(**data)


def _window(field: str, value: object) -> Window:
    data = check_object(field, value, _names(Window))
    check_integer(f"{field}.sink_size", data["sink_size"], at_least=0)
    check_integer(f"{field}.recent_size", data["recent_size"], at_least=1)
    return Window(**data)


def _measured(field: str, value: object) -> MeasuredAccuracy:
    data = dict(check_object(field, value, _names(MeasuredAccuracy)))
    data["window"] = _window(f"{field}.window", data["window"])
    with within(f"{field}."):
        return MeasuredAccuracy(**data)


def _plain(value: Any) -> Any:
    """Tuples as the lists that JSON has, at any depth of the gates."""
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _load(path: Path) -> object:
    """Parse a JSON file, refusing a field that is given twice."""
    try:
        return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_unique)
    except OSError as error:
        raise HeadsFileError(f"cannot read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise HeadsFileError(f"is not JSON: {error}") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise HeadsFileError(f"{name!r} is given twice, expected once")
    return dict(pairs)


def _dump(data: dict[str, Any]) -> str:
    """JSON with a line per field, per layer of gates and per measured accuracy, so that diffs read well."""
    entries = []
    for name, value in data.items():
        text = json.dumps(value, allow_nan=False)
        if isinstance(value, list) and value:
            rows = ",\n    ".join(json.dumps(row, allow_nan=False) for row in value)
            text = f"[\n    {rows}\n  ]"
        entries.append(f"  {json.dumps(name)}: {text}")
    return "{\n" + ",\n".join(entries) + "\n}\n"
