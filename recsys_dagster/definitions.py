"""The one place that composes assets, checks, resources, jobs, schedules and sensors."""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from assets import checks, comparisons, data, evaluation, g2rec, larmi, models, report, search
from recsys_dagster.automation import JOBS, SCHEDULES, SENSORS
from recsys_dagster.automation.nights import with_freshness
from recsys_dagster.data.registry import load_registry
from resources.compute import ComputeResource
from resources.cugraph import CugraphResource
from resources.gpu import GpuResource
from resources.io_managers import io_managers
from resources.llm import LlmResource
from resources.reports import reports_url
from resources.storage import AssetStore

ASSET_MODULES = (data, larmi, g2rec, models, comparisons, search, evaluation, report)


def default_resources(store: AssetStore | None = None) -> dict[str, Any]:
    """Every resource with its defaults.

    Args:
        store: where assets are kept; `RECSYS_HOME` unless given.
    """
    store = store or AssetStore()
    return {
        "store": store,
        **io_managers(store),
        "gpu": GpuResource(),
        "llm": LlmResource(),
        "compute": ComputeResource(),
        "cugraph": CugraphResource(),
    }


def build_definitions(
    resource_overrides: Mapping[str, Any] | None = None, executor: dg.ExecutorDefinition = dg.in_process_executor
) -> dg.Definitions:
    """The code location.

    Args:
        resource_overrides: resources by key that take the place of the defaults. A `store` moves the IO managers too.
        executor: of every job. By default the steps of a run follow each other in one process: the stages are
            sequential anyway, each frees its tables before the next one loads, and no step pays for importing torch
            again. Every run is a process of its own.

    Raises:
        KeyError: an override names a resource that no asset asks for.
    """
    overrides = dict(resource_overrides or {})
    resources = default_resources(overrides.get("store"))
    unknown = sorted(set(overrides) - set(resources))
    if unknown:
        raise KeyError(f"unknown resources {', '.join(unknown)}; expected some of {', '.join(resources)}")
    reports = {"reports": dg.MetadataValue.url(reports_url())}
    assets = [each for each in dg.load_assets_from_modules(ASSET_MODULES) if isinstance(each, dg.AssetsDefinition)]
    return dg.Definitions(
        assets=with_freshness(
            dg.map_asset_specs(lambda spec: spec.merge_attributes(metadata=reports), assets), load_registry().values()
        ),
        asset_checks=dg.load_asset_checks_from_modules([checks]),
        resources={**resources, **overrides},
        jobs=list(JOBS),
        schedules=list(SCHEDULES),
        sensors=list(SENSORS),
        executor=executor,
    )


defs = build_definitions()
