"""When a dataset is looked at again by itself: the settings `nightly` and `retraining` of `datasets.toml`."""

from __future__ import annotations

from typing import Literal
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, field_validator

Weekday = Literal["sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"]
WEEKDAYS: tuple[Weekday, ...] = ("sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday")
"""In cron's order: sunday is 0."""


class _Clock(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    hour: int = Field(ge=0, le=23, description="Hour of the day.")
    minute: int = Field(default=0, ge=0, le=59, description="Minute of the hour.")
    timezone: str = Field(default="UTC", description="IANA name, such as Europe/Berlin; summer time is followed.")

    @field_validator("timezone")
    @classmethod
    def _known(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (KeyError, ValueError, OSError):
            raise ValueError("is no time zone; expected an IANA name such as 'Europe/Berlin' or 'UTC'") from None
        return name


class Nightly(_Clock):
    """When a dataset's source is looked at, and read and clustered again if it changed."""

    hour: int = Field(default=2, ge=0, le=23, description="Hour of the day.")
    fresh_within_days: float = Field(
        default=7, gt=0, description="The UI shows the clustering as overdue where nothing was renewed for so long."
    )

    @property
    def cron(self) -> str:
        """The cron line."""
        return f"{self.minute} {self.hour} * * *"


class Retraining(_Clock):
    """When the models are trained again, if the prototypes have drifted far enough since the last training."""

    hour: int = Field(default=4, ge=0, le=23, description="Hour of the day.")
    weekday: Weekday = Field(default="sunday", description="Day of the week.")
    drift: float = Field(
        default=0.2,
        ge=0,
        description="Share of all memberships that must have moved since the models were trained; 0 trains every week.",
    )

    @property
    def cron(self) -> str:
        """The cron line."""
        return f"{self.minute} {self.hour} * * {WEEKDAYS.index(self.weekday)}"
