"""The control of a merge: theta_0 + a tau_I, what the instruct delta's weight alone does, without any language.

A plain average of two models halves the instruct delta, and half of it may answer some benchmarks better than all of
it. A gain that this control shows too is not a language's gain (``min_gain: {control: ...}`` in a gate). Where ``a`` is
1, as in task arithmetic, the control is the instruct parent itself.

It is a merge like any other, by task arithmetic with no tuned base, under a key of its own: made once for all targets
of a release whose recipes give the instruct delta the same weight.
"""

from tasks.domain.errors import InputError
from tasks.domain.gate import CONTROL
from tasks.domain.jobs import Job
from tasks.engine.recipe import Recipe

POLICIES = ("out_dtype", "special_rows", "routers", "vocabulary")
"""What a control takes over from the candidate's recipe beside the weight."""


def control_weight(recipe: Recipe, languages: list[str]) -> float:
    """The instruct delta's weight ``a`` in a merge of ``languages``.

    Raises:
        InputError: if the recipe is no plain sum of deltas, so that there is no such weight.
    """
    found = recipe.sums(languages)
    if found is None or recipe.parameters:
        more = f" with parameters {sorted(recipe.parameters)}" if recipe.parameters else ""
        raise InputError(
            f"recipe {recipe.method}{more} has no control: only linear and task_arithmetic without other parameters are"
            f" sums whose instruct delta has one weight. Take {CONTROL} out of the gate's min_gain and max_drop"
        )
    return found.a


def control_of(job: Job) -> Job | None:
    """The merge of ``job``'s control; None where the control is the instruct parent.

    Raises:
        InputError: as ``control_weight``.
    """
    recipe = Recipe.model_validate(dict(job.lineage.recipe))
    tuned = [part.role.partition(":")[2] for part in job.lineage.ingredients if part.role.startswith("tuned:")]
    weight = control_weight(recipe, tuned)
    if abs(weight - 1) < 1e-9:
        return None
    kept = {name: value for name in POLICIES if (value := getattr(recipe, name)) != Recipe.model_fields[name].default}
    lineage = job.lineage.model_copy(
        update={
            "target": CONTROL,
            "ingredients": tuple(part for part in job.lineage.ingredients if part.role in ("base", "instruct")),
            "recipe": {"method": "task_arithmetic", "instruct_weight": weight, **kept},
        }
    )
    return job.model_copy(update={"lineage": lineage})
