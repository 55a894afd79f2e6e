"""FLOPs of a traced program, to hold what benchmarks divide by."""

import jax
import jax.extend
import numpy as np


def products(jaxpr):
    """Of all matrix products and dense convolutions, inner programs included; a scan counts as often as it runs."""
    found = 0
    for equation in jaxpr.eqns:
        times = equation.params["length"] if equation.primitive.name == "scan" else 1
        found += times * sum(products(inner) for inner in jax.extend.core.jaxprs_in_params(equation.params))
        out = [np.prod(one.aval.shape) for one in equation.outvars]
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            found += 2 * out[0] * np.prod([equation.invars[0].aval.shape[i] for i in contracted])
        if equation.primitive.name == "conv_general_dilated":
            found += 2 * out[0] * np.prod(equation.invars[1].aval.shape[:-1])
    return found
