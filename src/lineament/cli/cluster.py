"""``lineament detect --engine ray``: the same on a cluster."""

from __future__ import annotations

from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

from lineament.cli.messages import messages


def detect_on_cluster(photos: str, out: str, method: str, **options: Any) -> None:
    """Run `lineament.cluster.detect_folder` with a progress bar of partitions."""
    from lineament.cluster import detect_folder

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with messages.progress(*columns) as progress:
        bar = progress.add_task("partitions")

        def show(done: int, total: int) -> None:
            progress.update(bar, completed=done, total=total)

        count = detect_folder(photos, out, method, progress=show, **options)
    messages.say(f"{count} images: {out}")
