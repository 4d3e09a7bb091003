"""``lineament models``: the weights that ship."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

import lineament
from lineament.methods import METHODS


def models() -> None:
    """List the weights that ship: method and its kind, landmark schemas, size, licence, training data, scores."""
    console = Console()
    for model in lineament.models():
        table = Table(title=model.name, title_justify="left", title_style="bold", show_header=False, box=None)
        table.add_column(style="dim", no_wrap=True)
        table.add_column(overflow="fold")
        rows = {
            "method": f"{model.method}, a {METHODS[model.method].kind}",
            "landmarks": ", ".join(model.schemas),
            "size": f"{model.bytes / 1e6:.2f} MB",
            "licence": model.licence,
            "trained on": model.training_data,
            "scores": "\n".join(f"{name}: {round(score, 4)}" for name, score in model.scores.items()) or "none",
            "recipe": model.recipe,
            "sha256": model.sha256,
        }
        for name, value in rows.items():
            table.add_row(name, value)
        console.print(table, markup=False)
