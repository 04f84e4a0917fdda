"""The tensors of a checkpoint folder, read one at a time and by the model's own names."""

import copy
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxtyping import Shaped
from torch import Tensor, nn

from safetypin.artifacts import DamagedArtifactError, FileTensors, UserError, read_json

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
ADAPTER_CONFIG, ADAPTER = "adapter_config.json", "adapter_model.safetensors"
PICKLES = ("pytorch_model*.bin", "adapter_model.bin")

AnyTensor = Shaped[Tensor, "..."]


class NotWholeError(UserError):
    """A checkpoint folder was not written to its end, or in a form that is not read here."""


class State(Mapping[str, Tensor]):
    """The tensors of some files; each is read from the disk when it is asked for."""

    def __init__(self, files: Iterable[FileTensors]) -> None:
        self._files = {name: file for file in files for name in file}

    def __getitem__(self, name: str) -> AnyTensor:
        return self._files[name][name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def read_state(folder: Path) -> State:
    """Open the weights of a full checkpoint; only the files' headers are read.

    Raises:
        NotWholeError: A file is missing or cut short, or the weights are pickled.
    """
    if (folder / INDEX).exists():
        return _sharded(folder)
    if (folder / WEIGHTS).exists():
        return State([_opened(folder / WEIGHTS)])
    if shards := sorted(folder.glob("model-*-of-*.safetensors")):
        raise NotWholeError(f"it has {shards[0].name} but no {INDEX}, which is written last")
    _refuse_pickles(folder)
    raise NotWholeError(f"it has neither {WEIGHTS} nor {INDEX}")


def read_adapter(folder: Path) -> State:
    """Open the matrices of a PEFT adapter.

    Raises:
        NotWholeError: The file is missing or cut short, or pickled.
    """
    if not (folder / ADAPTER).exists():
        _refuse_pickles(folder)
        raise NotWholeError(f"it has no {ADAPTER}")
    return State([_opened(folder / ADAPTER)])


def read_settings(path: Path) -> dict[str, Any]:
    """Read a JSON file of a checkpoint.

    Raises:
        NotWholeError: It is missing or no JSON object.
    """
    try:
        settings = read_json(path)
    except DamagedArtifactError as error:
        raise NotWholeError(f"its {path.name} is missing or damaged") from error
    if not isinstance(settings, dict):
        raise NotWholeError(f"its {path.name} holds no settings")
    return settings


def by_parameter(state: Mapping[str, Tensor], model: nn.Module) -> Mapping[str, Tensor]:
    """Return the same tensors under the names of a model's parameters.

    Files of older transformers, of a model without its head, or of a mixture of experts (one
    tensor an expert) name them otherwise than `model.named_parameters()` does.
    """
    return _Named(state, model)


def parameter_names(model: nn.Module) -> list[str]:
    """Return the names of a model's own parameters, also where PEFT put adapters around them."""
    return [plain(name) for name, _ in model.named_parameters() if ".lora_" not in name]


def plain(name: str) -> str:
    """Return a name as it is where PEFT put no adapter around it."""
    return ".".join(part for part in name.split(".") if part != "base_layer")


def base_prefix(model: nn.Module) -> str:
    """Return what stands before the names of the part without a head: `model.`."""
    prefix = str(getattr(model, "base_model_prefix", ""))
    return f"{prefix}." if prefix else ""


def spellings(name: str, model: nn.Module) -> tuple[str, ...]:
    """Return the names that a parameter may have in a file: with and without the prefix."""
    prefix = base_prefix(model)
    return (name, f"{prefix}{name}", name.removeprefix(prefix))


class _Named(Mapping[str, Tensor]):
    def __init__(self, state: Mapping[str, Tensor], model: nn.Module) -> None:
        self._state, self._model = state, model
        self._sources: dict[str, list[tuple[str, str | None]]] | None = None
        self._converters: dict[str, Any] = {}

    def __getitem__(self, name: str) -> AnyTensor:
        for key in spellings(name, self._model):
            if key in self._state:
                return self._state[key]
        return self._converted(name)

    def __iter__(self) -> Iterator[str]:
        return iter(parameter_names(self._model))

    def __len__(self) -> int:
        return len(parameter_names(self._model))

    def _converted(self, name: str) -> AnyTensor:
        """Make one parameter of several tensors of the files, as transformers does on loading."""
        if self._sources is None:
            self._sources = self._map_names()
        sources = self._sources.get(name, [])
        patterns = [pattern for _, pattern in sources]
        if not sources:
            raise KeyError(name)
        if patterns[0] is None:
            return self._state[sources[0][0]]
        converter = copy.deepcopy(self._converters[patterns[0]])
        for key, pattern in sources:
            converter.add_tensor(name, key, pattern, self._state[key])
        made = converter.convert(name, model=self._model, config=self._model.config)
        value: Tensor | list[Tensor] = made[name]
        return value[0] if isinstance(value, list) else value

    def _map_names(self) -> dict[str, list[tuple[str, str | None]]]:
        """Return which tensors of the files each parameter is made of, and by which pattern."""
        from transformers import conversion_mapping, core_model_loading

        entries = conversion_mapping.get_model_conversion_mapping(self._model)  # type: ignore[arg-type]
        converters = [e for e in entries if isinstance(e, core_model_loading.WeightConverter)]
        renamings = [e for e in entries if isinstance(e, core_model_loading.WeightRenaming)]
        self._converters = {pattern: c for c in converters for pattern in c.source_patterns}
        known = dict.fromkeys(parameter_names(self._model), True)
        prefix = base_prefix(self._model).removesuffix(".") or None
        found: dict[str, list[tuple[str, str | None]]] = {}
        # natural order, in which expert 10 comes after expert 9
        for key in sorted(self._state, key=core_model_loading.dot_natural_key):
            name, pattern = core_model_loading.rename_source_key(
                key, renamings, converters, prefix, known
            )
            found.setdefault(name, []).append((key, pattern))
        return found


def _sharded(folder: Path) -> State:
    places = read_settings(folder / INDEX).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise NotWholeError(f"its {INDEX} lists no weights")
    names: dict[str, set[str]] = {}
    for name, file in places.items():
        names.setdefault(str(file), set()).add(name)
    files = []
    for file in sorted(names):
        if not (folder / file).exists():
            raise NotWholeError(f"it has no {file}, which its {INDEX} names")
        opened = _opened(folder / file)
        if missing := names[file] - set(opened):
            raise NotWholeError(f"its {file} lacks {len(missing)} tensors, first {min(missing)!r}")
        files.append(opened)
    return State(files)


def _opened(path: Path) -> FileTensors:
    try:
        return FileTensors(path)
    except DamagedArtifactError as error:
        raise NotWholeError(f"its {path.name} cannot be read ({error.__cause__})") from error


def _refuse_pickles(folder: Path) -> None:
    for pattern in PICKLES:
        for path in sorted(folder.glob(pattern)):
            raise NotWholeError(
                f"its weights are in {path.name}, a pickle, which is never opened here; save the "
                "model again with transformers 5, which writes safetensors"
            )
