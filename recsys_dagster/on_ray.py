"""The code location for a Ray cluster: the lineage with every step a Ray job of its own (docs/ray.md)."""

from recsys_dagster.definitions import build_definitions
from recsys_dagster.errors import RecsysError

try:
    from dagster_ray import ray_executor
except ImportError as error:
    raise RecsysError("dagster-ray is not installed.", mend="pip install 'recsys-dagster[ray]'") from error

defs = build_definitions(executor=ray_executor)
