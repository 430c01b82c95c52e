"""Three small models in a folder of their own, and a merge of them that must be refused without leaving anything."""

import pytest

from tasks.engine.errors import MergeError
from tasks.engine.merge import merge_config
from tasks.engine.methods.table import TABLE
from tests.engine.folders import BLOCK_ELEMENTS, model_count, plain, recipe_for, tensors, write_folder

SHAPES = {
    "model.embed_tokens.weight": (24, 8),
    "model.layers.0.mlp.up_proj.weight": (3 * BLOCK_ELEMENTS // 64 + 5, 64),
    "model.layers.1.mlp.up_proj.weight": (3 * BLOCK_ELEMENTS // 64 + 5, 64),
    "model.norm.weight": (8,),
}
LAST = "model.layers.1.mlp.up_proj.weight"
SINGLE = "model.safetensors"


class Place:
    """Three models in a folder of their own, and what a refused merge of them must not have changed."""

    def __init__(self, root, dtype="BF16", shards=1):
        self.root, self.out = root, root / "out"
        self.base, self.one, self.two = (
            write_folder(root / role, tensors(seed, SHAPES), dtype, shards=shards)
            for seed, role in enumerate(("base", "one", "two"))
        )

    def recipe(self, method="task_arithmetic", **more):
        spec = TABLE[method]
        models = [self.one, self.two][: model_count(spec)]
        parameters = {name: plain(parameter) for name, parameter in spec.parameters.items()}
        # layer_swap and language_graft: base, instruct and language.
        apart = (self.one, [self.two][: model_count(spec)] or [self.two]) if spec.instruct_apart else (self.one, models)
        return recipe_for(spec, self.base, apart[0], apart[1], {**parameters, **more.pop("parameters", {})}, **more)

    def files(self):
        return {str(path.relative_to(self.root)) for path in self.root.rglob("*")}

    def refused(self, kind, *words, config=None, **options):
        """Merge; it must be refused with this class and these words, and leave all as it was."""
        before = self.files()
        with pytest.raises(MergeError) as told:
            merge_config(config or self.recipe(), self.out, **options)
        assert type(told.value) is kind, told.value
        for word in words:
            assert str(word) in str(told.value)
        assert self.files() == before
        return told.value
