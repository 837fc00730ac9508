"""What a step says when memory or disk run out: which settings to lower, with their values."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dagster as dg
from pydantic import BaseModel

from recsys_dagster.errors import RecsysError, disk_told

LOWER = ("batch_size", "dimension", "interests", "layers", "neighbours")
"""Settings that cost memory, those that cost the most at the least gain first."""

INSTEAD = {
    "negatives": "set negatives to a few thousand (0 compares with the whole catalogue)",
    "gradient_checkpointing": "set gradient_checkpointing: true",
}
"""Settings to set where they are off: what it does."""

OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "std::bad_alloc")
"""What torch says on a CPU, where it raises a plain RuntimeError."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is that memory ran out: Python's and numpy's, or torch's on a CPU or a GPU."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY)
    )


@contextmanager
def exhaustion_told(context: dg.AssetExecutionContext, config: BaseModel) -> Iterator[None]:
    """Turn the error of exhausted memory or of a full disk into one that says what to do.

    Args:
        context: of the step; names it.
        config: its settings.

    Raises:
        RecsysError: memory or disk ran out.
    """
    step = context.op_def.name
    try:
        with disk_told(f"what {step} of {context.partition_key} makes"):
            yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        what = " ".join(f"{type(error).__name__}: {error}".split())
        raise RecsysError(
            f"{step} of {context.partition_key} ran out of memory ({what}).", mend=what_to_lower(step, config)
        ) from error


def what_to_lower(step: str, config: BaseModel) -> str:
    """The settings of a step that take less memory when lowered, with their values."""
    values: dict[str, Any] = config.model_dump()
    lower = [f"{name} (now {values[name]})" for name in LOWER if name in values]
    instead = [text for name, text in INSTEAD.items() if name in values and not values[name]]
    ways = ([f"lower {', '.join(lower)}"] if lower else []) + instead
    settings = f"in the run config, under ops.{step}.config, {', or '.join(ways)}; or " if ways else ""
    return f"{settings}free memory, or use a machine with more."
