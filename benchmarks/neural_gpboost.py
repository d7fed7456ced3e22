"""Boosted trees with random effects (GPBoost) on one task of `neural_random_effects.py`.

    python benchmarks/neural_gpboost.py task.npz

Runs in an environment that has gpboost and NumPy only. Prints one line of JSON: the probability of
each row, its random effects averaged over given the training rows, the standard deviation of the
groups, the number of trees, CPU seconds and versions.
"""

from __future__ import annotations

import json
import sys
import time

import gpboost as gpb
import numpy as np

PARAMETERS = {
    "learning_rate": 0.1, "max_depth": 4, "min_data_in_leaf": 10, "verbose": -1, "num_threads": 1,
}  # fmt: skip
LARGEST, PATIENCE = 300, 15  # trees; those without progress on the validation rows


def main() -> None:
    task = np.load(sys.argv[1])
    x, y, group, part = (task[name] for name in ("x", "y", "group", "part"))
    fit, check = part == "train", part == "validate"
    began = time.process_time()
    random = gpb.GPModel(group_data=group[fit], likelihood="bernoulli_logit")
    random.set_prediction_data(group_data_pred=group[check])
    rows = gpb.Dataset(x[fit], y[fit])
    booster = gpb.train(
        params=PARAMETERS,
        train_set=rows,
        gp_model=random,
        num_boost_round=LARGEST,
        valid_sets=gpb.Dataset(x[check], y[check], reference=rows),
        early_stopping_rounds=PATIENCE,
        use_gp_model_for_validation=True,
        verbose_eval=False,
    )
    found = booster.predict(data=x, group_data_pred=group, predict_var=True, pred_latent=False)
    seconds = time.process_time() - began
    variance = float(np.ravel(random.get_cov_pars())[0])
    result = {
        "probability": np.asarray(found["response_mean"], float).tolist(),
        "sd": variance**0.5,
        "trees": int(booster.best_iteration),
        "cpu_seconds": seconds,
        "versions": {"gpboost": gpb.__version__},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
