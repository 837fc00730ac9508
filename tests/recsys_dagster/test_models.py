import subprocess
import sys
from importlib import import_module

import pytest

from recsys_dagster.models import CORE_MODELS, MODEL_NAMES, MODELS


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_name_in_the_table_exists(name):
    module, config_class, model_class = MODELS[name]
    config = import_module(f"recsys_dagster.{module.split('.')[0]}.config")
    assert hasattr(config, config_class)
    assert hasattr(import_module(f"recsys_dagster.{module}"), model_class)
    assert hasattr(import_module(f"recsys_dagster.{module}"), f"train_{name}")


def test_the_core_models_are_models_in_the_same_order():
    assert [name for name in MODEL_NAMES if name in CORE_MODELS] == list(CORE_MODELS)


def test_the_names_cost_no_heavy_import():
    code = "import sys, recsys_dagster.models; assert not {'torch', 'torch_geometric'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
