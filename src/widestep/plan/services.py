"""The services that a run's numbers can be sent to, by name."""

from typing import Annotated, Any

from pydantic import PlainSerializer, PlainValidator

SERVICES = {"wandb": "wandb", "mlflow": "mlflow"}
"""The package that each needs."""


def _services(value: Any) -> tuple[str, ...]:
    items = [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value
    if not isinstance(items, (list, tuple)) or not all(isinstance(item, str) and item in SERVICES for item in items):
        raise ValueError(
            f"Numbers can be sent to {' and '.join(SERVICES)}: one of them, or both with a comma. Got {value!r}."
        )
    return tuple(name for name in SERVICES if name in items)


ServicesField = Annotated[tuple[str, ...], PlainValidator(_services), PlainSerializer(list)]
