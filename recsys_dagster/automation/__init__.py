"""What Dagster does by itself: jobs, nights, weekly retraining, arrivals of data, and the alarm when a run fails."""

from recsys_dagster.automation.arrivals import source_arrivals
from recsys_dagster.automation.failures import run_failed
from recsys_dagster.automation.jobs import JOBS, everything, full_lineage, larmi_search_job
from recsys_dagster.automation.nights import SCHEDULES

SENSORS = (source_arrivals, run_failed)

__all__ = ["JOBS", "SCHEDULES", "SENSORS", "everything", "full_lineage", "larmi_search_job"]
