"""Single operations of every method on small tensors of any shape, values and parameters, cut into blocks anywhere."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.engine.methods.operation import Tensor
from tasks.engine.methods.registry import METHODS
from tasks.engine.methods.table import TABLE
from tests.engine.folders import model_count, operate, plain, unusual

SHAPES = st.one_of(
    st.just(()),
    st.tuples(st.integers(0, 70)),
    st.tuples(st.integers(0, 9), st.integers(0, 9)),
    st.tuples(st.integers(1, 40), st.just(1)),
    st.tuples(st.integers(1, 3), st.integers(30, 80)),
    st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 4)),
)
NUMBERS = st.one_of(
    st.floats(-2, 2, width=32), st.sampled_from([0.0, -0.0, 1e-45, -1e-40, 1e-12, 1e15, -1e15, 0.5, 0.5000001])
)


@st.composite
def single_operations(draw, method):
    """A tensor of any shape and values with any parameters of a method."""
    spec = TABLE[method]
    shape = draw(SHAPES)

    def value(parameter):
        ends = [end for end in (parameter.low, parameter.high) if parameter.kind is float and np.isfinite(end)]
        # Two shares of layers must leave a middle: the ends of their range may not.
        ends = [] if parameter.whole_from_one else ends
        return draw(st.sampled_from([plain(parameter), unusual(parameter), *ends]))

    options = {name: value(parameter) for name, parameter in spec.of_merge.items()}
    models = []
    for _ in range(model_count(spec)):
        chosen = {name: value(parameter) for name, parameter in spec.of_models.items()}
        if "epsilon" in chosen:  # as `merge_config.resolved` demands
            chosen["epsilon"] = min(chosen["epsilon"], 0.9 * min(chosen["density"], 1 - chosen["density"]))
        models.append(chosen)
    tensor = Tensor(
        "model.layers.3.mlp.up_proj.weight",
        shape,
        None if spec.base == "unused" else 0,
        tuple(range(2, 2 + len(models))),
        (0,) * len(models),
        options,
        tuple(models),
        seed=draw(st.integers(0, 3)),
        compat=draw(st.booleans()),
        instruct=1,
        layers={"model.layers": 8},
    )
    size = tensor.elements
    drawn = st.lists(NUMBERS, min_size=size, max_size=size)
    return tensor, np.array([draw(drawn) for _ in range(2 + len(models))], np.float32).reshape(2 + len(models), size)


@pytest.mark.parametrize("method", TABLE)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(data=st.data())
def test_any_tensor_gives_finite_numbers_whatever_the_order_and_equal_models_themselves(method, data):
    tensor, x = data.draw(single_operations(method))
    block = data.draw(st.integers(1, 80))
    found = operate(METHODS[method](tensor), x, tensor.width, block)
    assert np.isfinite(found).all()
    assert found.tobytes() == operate(METHODS[method](tensor), x, tensor.width, block, backwards=True).tobytes()
    if TABLE[method].base != "unused":
        equal = np.repeat(x[:1], len(x), axis=0)
        assert operate(METHODS[method](tensor), equal, tensor.width, block).tobytes() == x[0].tobytes()
