"""Where cuGraph runs: a Python with RAPIDS on this machine, or a job on a Ray cluster."""

import shlex
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field


class CugraphResource(dg.ConfigurableResource):
    """Starts a script that uses cuGraph as one Dagster Pipes job; its log and messages stream into the run.

    Used by engine `cugraph` of ``soft_memberships`` alone; with any other engine nothing of it is needed.
    """

    python: str = Field(
        default="",
        description="Python that has cugraph, dask-cuda and dagster-pipes; empty: this one, or `python` on Ray.",
    )
    ray_address: str = Field(
        default="", description="Address of a Ray cluster's job server (http://HOST:8265); empty: on this machine."
    )
    num_gpus: int = Field(default=1, ge=1, description="GPUs of the Ray job; on this machine it takes all it sees.")

    def run(
        self, context: dg.AssetExecutionContext, script: Path, extras: Mapping[str, Any]
    ) -> Sequence[Mapping[str, Any]]:
        """Run a script that needs no other file, and wait for it.

        Args:
            context: of the asset.
            script: the file; it is copied to an empty folder first, so that nothing beside it is imported.
            extras: what the script gets from Pipes, as JSON.

        Returns:
            The custom messages that it reported.
        """
        with tempfile.TemporaryDirectory() as folder:
            shutil.copy(script, folder)
            if self.ray_address:
                from dagster_ray import PipesRayJobClient

                job: Any = {
                    "entrypoint": f"{shlex.quote(self.python or 'python')} {script.name}",
                    "entrypoint_num_gpus": self.num_gpus,
                    "runtime_env": {"working_dir": folder},
                }
                done = PipesRayJobClient(address=self.ray_address).run(
                    context=context, submit_job_params=job, extras=dict(extras)
                )
            else:
                done = dg.PipesSubprocessClient().run(
                    context=context,
                    command=[self.python or sys.executable, script.name],
                    cwd=folder,
                    extras=dict(extras),
                )
            messages: Sequence[Mapping[str, Any]] = done.get_custom_messages()
            return messages
