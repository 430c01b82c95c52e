"""Whether the models of a merge file fill the roles of its method: base, instruct model, as many others as it takes."""

from .merge_config import MergeConfig, ModelEntry
from .methods.spec import REQUIRED


def role_problems(config: MergeConfig) -> list[str]:
    """Everything that is missing, or stands where it has no business; each text without the file's name."""
    return [*_twice(config), *_base(config), *_count(config), *_instruct(config), *_required(config)]


def _twice(config: MergeConfig) -> list[str]:
    listed = [entry.model for entry in config.models]
    found = [
        f"models: {model} stands {listed.count(model)} times; expected each model once"
        for model in dict.fromkeys(listed)
        if listed.count(model) > 1
    ]
    return found + [
        f"models[{index}].parent = {entry.parent!r}: is the model itself; expected what it was trained from"
        for index, entry in enumerate(config.models)
        if entry.parent == entry.model
    ]


def _base(config: MergeConfig) -> list[str]:
    if config.spec.base != "required" or config.base_model is not None:
        return []
    return [f"the key base_model is missing; {config.method} needs one: b or theta_0 in {config.spec.doc}"]


def _count(config: MergeConfig) -> list[str]:
    spec, count = config.spec, len(config.inputs)
    if count >= spec.fewest and (spec.most is None or count <= spec.most):
        return []
    expected = f"{spec.fewest}" if spec.most == spec.fewest else f"at least {spec.fewest}"
    beside = ""
    if spec.base == "unused" and config.base_model is not None:
        beside = " (base_model is one of them, as in mergekit)"
    elif spec.base != "unused":
        beside = " beside the base"
    merged = ", ".join(entry.model for entry in config.inputs) or "none"
    return [f"models: {spec.name} takes {expected}{beside}, and there are {count}: {merged}"]


def _instruct(config: MergeConfig) -> list[str]:
    spec, listed = config.spec, [entry.model for entry in config.models]
    if config.instruct is None:
        missing = f"the key instruct is missing; {spec.name} needs the folder of the instruct model: {spec.doc}"
        return [missing] if spec.instruct_apart else []
    if spec.instruct_apart and config.instruct in (*listed, config.base_model):
        role = "base_model" if config.instruct == config.base_model else "one of models"
        return [f"instruct = {config.instruct!r} is also {role}; {spec.name} takes it once, as instruct"]
    if not spec.instruct_apart and config.instruct not in (*listed, config.base_model):
        merged = ", ".join(listed)
        return [f"instruct = {config.instruct!r} is not merged; expected base_model or one of models: {merged}"]
    return []


def _required(config: MergeConfig) -> list[str]:
    """Required parameters that are stated nowhere. Whether filters leave a tensor out is seen at the tensors."""
    found = []
    for name, parameter in config.spec.parameters.items():
        if parameter.default is not REQUIRED or name in config.parameters:
            continue
        if parameter.scope == "global":
            found.append(f"{config.method} needs {name} ({parameter.doc}); write it under parameters: at the top level")
        else:
            found += [_without(config, entry, name) for entry in config.inputs if name not in entry.parameters]
    return found


def _without(config: MergeConfig, entry: ModelEntry, name: str) -> str:
    if entry not in config.models:
        return (
            f"base_model = {entry.model!r} is one more model of {config.method}, as in mergekit, and has no {name}; "
            "list it under models: with one (0 leaves it out), or leave base_model out"
        )
    place = f"models[{config.models.index(entry)}]"
    return (
        f"{place} ({entry.model}) has no {name}, which {config.method} needs; write it under {place}.parameters:, or "
        "under parameters: at the top level for every model"
    )
