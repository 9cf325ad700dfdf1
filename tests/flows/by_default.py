"""The stages that are on where settings name a generator in [enrich] and none in [describe]."""

from flows.stages import SPECS

ON_BY_DEFAULT = tuple(spec.name for spec in SPECS if not spec.describes)
OFF = [spec.name for spec in SPECS if spec.describes]
