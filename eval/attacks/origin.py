"""Where a patch set came from, as its sidecar says it."""

from __future__ import annotations

PATCHES = "patches"
"""Folder of a run's patch sets."""

TRIED_ON = "tried_on"
"""Key of the provenance: name, split and digest of the images that the set's indices count in."""
