"""Pages that commands make of records: written, or only compared with what lies there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from benchmarks.records import ROOT
from deploy.core.files import write_atomic


def keep_pages(pages: Mapping[Path, bytes], *, check: bool, there: Iterable[Path] = ()) -> int:
    """Write the pages that are not as given, remove others; with ``check`` name them alone.

    Args:
        pages: by their path in the repository.
        check: change nothing.
        there: paths of pages that lie there; those that are not among ``pages`` go.

    Returns:
        1 if a page was stale and ``check`` asked, else 0.
    """
    stale = [path for path, data in pages.items() if not _is(ROOT / path, data)]
    stale += sorted(set(there) - pages.keys())
    for path in stale:
        if check:
            print(f"{path} is stale")
        elif path in pages:
            write_atomic(ROOT / path, pages[path])
            print(f"wrote {path}")
        else:
            (ROOT / path).unlink()
            print(f"removed {path}")
    if check and not stale:
        print(f"{', '.join(map(str, pages)) if len(pages) == 1 else 'all pages'}: up to date")
    return 1 if check and stale else 0


def _is(path: Path, data: bytes) -> bool:
    return path.is_file() and path.read_bytes() == data
