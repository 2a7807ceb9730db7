"""Prometheus text, read."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families

Labels = frozenset[tuple[str, str]]


class Metrics(dict[tuple[str, Labels], float]):
    """Samples by name and labels."""

    @classmethod
    def parse(cls, text: str) -> Metrics:
        return cls(
            ((sample.name, frozenset(sample.labels.items())), sample.value)
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        )

    def total(self, name: str, **labels: str) -> float:
        """The sum over the samples that carry these labels. KeyError for a name that does not occur."""
        wanted: Mapping[str, str] = labels
        if not any(each == name for each, _ in self):
            raise KeyError(name)
        return sum(
            value for (each, carried), value in self.items() if each == name and wanted.items() <= carried
        )
