"""What the answers of several resources share."""

import uuid

from pydantic import BaseModel, ConfigDict

NEXT_CURSOR = "Pass as `cursor` for the next page; null on the last."


class FromRow(BaseModel):
    """A schema that reads its fields from a row of the store."""

    model_config = ConfigDict(from_attributes=True)


class ApiKeyName(BaseModel):
    """An API key, by name."""

    id: uuid.UUID
    name: str
