"""JSON as its standard has it: it knows no NaN and no infinity, so null stands for them."""

import json
import math
from typing import Any


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON text with null for every number that is not finite. `with_nan` reads them back as NaN."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def with_nan(value: Any) -> Any:
    """What was read of JSON whose nulls all stand for NaN."""
    if isinstance(value, dict):
        return {key: with_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [with_nan(item) for item in value]
    return math.nan if value is None else value
