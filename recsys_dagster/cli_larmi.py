"""The command `recsys-dagster explain`: a user's interests in words, items and recommendations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from recsys_dagster.cli_common import Dataset, Json, console, not_materialized, print_json, required, user_number

if TYPE_CHECKING:
    import pandas as pd

    from recsys_dagster.larmi.explain import Interest

SHOWN = 5
"""Labels and items of an interest that are shown in text; the JSON has all of them."""


def explain(
    dataset: Dataset,
    user: Annotated[str, typer.Option("--user", "-u", help="Key of the user in the source.")],
    n: Annotated[int, typer.Option("--n", "-n", min=1, help="Items to recommend.")] = 10,
    as_json: Json = False,
) -> None:
    """Show a user's interests in LARMI: their names, the items behind them, and the recommendations that each brings.

    A name is the language model's (or the local clusterer's) for a group of the user's items; an interest is made of
    several with weights. Shares tell how much of an interest each item of the whole history makes up.
    """
    from recsys_dagster.data.registry import get_dataset
    from recsys_dagster.larmi.explain import explain_user
    from recsys_dagster.larmi.model import LARMI
    from recsys_dagster.models import load_model
    from recsys_dagster.training.data import SequenceData, concatenate
    from resources.storage import AssetStore, local_directory

    spec = get_dataset(dataset)
    interactions, users, items, clusters = (
        required(name, dataset) for name in ("interactions", "users", "items", "user_clusters")
    )
    user_id = user_number(users, user, dataset)
    try:
        model = load_model(local_directory(AssetStore().path("larmi_model", dataset, "")))
    except FileNotFoundError:
        not_materialized("larmi_model", dataset)
    assert isinstance(model, LARMI)
    data = SequenceData.from_tables(interactions, n_users=len(users), n_items=len(items), max_length=spec.max_length)
    histories = concatenate(data.history(2), data.test)
    found = explain_user(model, histories, clusters, user_id, mask_seen=data.mask_seen, n=n)
    interests = _with_titles(found, items)
    if as_json:
        print_json({"dataset": dataset, "user": user, "model": "larmi", "interests": interests})
        return
    _show(interests)


def _with_titles(interests: list[Interest], items: pd.DataFrame) -> list[dict[str, Any]]:
    about = items.set_index("item_id").sort_index()
    keys, titles = about["source_key"].tolist(), about["title"].where(about["title"] != "", about["text"]).tolist()
    return [
        {
            "interest": interest.number,
            "labels": [{"label": label, "weight": round(weight, 4)} for label, weight in interest.labels],
            "items": [
                {"item": keys[item], "title": titles[item], "share": round(share, 4)} for item, share in interest.items
            ],
            "recommendations": [
                {"rank": rank, "item": keys[item], "title": titles[item], "score": round(score, 4)}
                for rank, item, score in interest.recommendations
            ],
        }
        for interest in interests
    ]


def _show(interests: list[dict[str, Any]]) -> None:
    out = console()
    for interest in interests:
        labels = ", ".join(f"{label['label']} ({label['weight']:.0%})" for label in interest["labels"][:SHOWN])
        out.print(f"[bold]Interest {interest['interest']}[/]: {escape(labels) or 'without a name'}", highlight=False)
        for item in interest["items"][:SHOWN]:
            out.print(f"  {item['share']:>4.0%} {escape(item['item'])}  {escape(item['title'])}", highlight=False)
        if len(interest["items"]) > SHOWN:
            out.print(f"       and {len(interest['items']) - SHOWN} more items", highlight=False)
        for item in interest["recommendations"]:
            out.print(f"  -> {item['rank']:>2}. {escape(item['item'])}  {escape(item['title'])}", highlight=False)
        if not interest["recommendations"]:
            out.print("  -> nothing in this list", highlight=False)
