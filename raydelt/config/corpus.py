"""The section `corpus`: where examples come from and what becomes of them."""

from __future__ import annotations

import codecs
from typing import Any, Literal

from pydantic import field_validator, model_validator

from raydelt.config.section import Fraction, Positive, Section


class HeldOut(Section):
    """A split that is set apart: a share of the corpus (by hash of the group), or a source of its own."""

    fraction: Fraction = 0.0
    source: str | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> HeldOut:
        if self.source is not None and self.fraction > 0:
            raise ValueError("give either `fraction` or `source`, not both")
        return self


class LabelNoise(Section):
    """Simulated noise on the training labels; the truth is kept for the report alone."""

    kind: Literal["label_flip"] = "label_flip"
    fraction: Fraction = 0.1


class Corpus(Section):
    """Where the examples come from, which columns matter, and how faults are dealt with.

    `pool` holds examples without labels, which people may be asked for; its labelled ones join the corpus. `limit`
    reads so many rows of the sources at most, spread over them, and as many of the pool: for a trial.
    """

    source: str | list[str] = []
    format: Literal["auto", "parquet", "jsonl", "csv", "text", "image", "idx"] = "auto"
    id_column: str | None = None
    group_column: str | None = None
    label_column: str | None = None
    label_from_folder: bool = False
    feature_columns: list[str] | None = None
    image_column: str | None = None
    image_shape: list[Positive] | None = None
    text_column: str | None = None
    text_features: Positive = 1024
    text_unit: Literal["file", "paragraph"] = "file"
    encoding: str = "utf-8"
    time_column: str | None = None
    classes: list[str] | None = None
    standardize: bool = True
    duplicates: Literal["drop", "keep", "error"] = "drop"
    noise: LabelNoise | None = None
    validation: HeldOut = HeldOut()
    test: HeldOut = HeldOut(fraction=0.2)
    pool: str | None = None
    limit: Positive | None = None
    error_budget: Fraction = 0.05

    @field_validator("encoding")
    @classmethod
    def _an_encoding(cls, value: str) -> str:
        try:
            "x".encode(value)
            return codecs.lookup(value).name
        except LookupError as error:
            raise ValueError("is no encoding that is known: give utf-8, latin-1, cp1252, …") from error

    @field_validator("classes", mode="before")
    @classmethod
    def _class_names(cls, value: Any) -> Any:
        return [str(name) for name in value] if isinstance(value, list) else value

    @field_validator("classes")
    @classmethod
    def _classes_differ(cls, value: list[str] | None) -> list[str] | None:
        if value is not None and (len(set(value)) != len(value) or len(value) < 2):
            raise ValueError("needs at least two different class names")
        return value

    @model_validator(mode="after")
    def _columns_agree(self) -> Corpus:
        given = [name for name in ("feature_columns", "image_column", "text_column") if getattr(self, name)]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} exclude each other: an example has one kind of content")
        if self.label_from_folder and self.label_column:
            raise ValueError("label_from_folder and label_column exclude each other")
        if not self.sources and (self.pool is None or self.classes is None):
            raise ValueError("source is missing: add it, or `pool` and `classes` to label a corpus from nothing")
        if self.pool is not None and (not self.labelled or self.label_from_folder):
            raise ValueError("a pool is there to be labelled, so the corpus needs labels too: set label_column")
        if self.validation.fraction + self.test.fraction >= 1:
            raise ValueError("validation.fraction and test.fraction leave nothing to train on")
        return self

    @property
    def sources(self) -> list[str]:
        return [self.source] if isinstance(self.source, str) else list(self.source)

    @property
    def labelled(self) -> bool:
        first = (self.sources or [""])[0]
        implied = self.format == "idx" or first.startswith("builtin://") or "idx3" in first
        return self.label_from_folder or self.label_column is not None or implied
