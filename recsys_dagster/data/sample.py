"""The `sample` dataset: a seeded log with planted interests, and the truth kept beside it.

What is planted, so that each method has something to find: twelve interests with titles and categories of their own
words; items in a fixed order within an interest, by theme, so that the next item is likely near the previous one;
users with one to four interests who stay in one for a while before they move to another; a long tail; some items
that belong to two interests; a little noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recsys_dagster.data.raw import RawLog, item_text


@dataclass(frozen=True)
class _Interest:
    """Words of one interest: themes are "name: noun, noun, ..."."""

    name: str
    department: str
    brands: str
    adjectives: str
    themes: tuple[str, ...]


_INTERESTS = (
    _Interest("Trail Running", "Sports", "Ridgeline Fellhawk Skarn", "Lightweight Breathable Grippy", (
        "Footwear: Trail Running Shoes, Trail Gaiters, Running Socks", "Hydration: Running Hydration Vest, Soft Flask",
        "Clothing: Running Shorts, Wind Jacket, Trail Cap")),
    _Interest("Sourdough Baking", "Kitchen", "Crumbwell Hearthen Oldmill", "Stoneground Organic Rustic", (
        "Flour: Bread Flour, Rye Flour, Sourdough Starter", "Tools: Dough Scraper, Banneton Basket, Bread Lame",
        "Baking: Dutch Oven, Baking Stone")),
    _Interest("Film Photography", "Cameras", "Lumora Halide Obscura", "Vintage Monochrome Manual", (
        "Film: 35mm Film Roll, Medium Format Film", "Darkroom: Film Developer, Fixer Solution, Developing Tank",
        "Cameras: Rangefinder Camera, Camera Strap, Light Meter")),
    _Interest("Indoor Gardening", "Garden", "Verdanta Mosswick Fernleigh", "Compact Self-Watering Terracotta", (
        "Plants: Monstera Plant, Fern Plant, Succulent Set", "Pots: Plant Pot, Hanging Planter",
        "Care: Potting Soil, Grow Light, Plant Mister")),
    _Interest("Board Games", "Games", "Meeplehaus Dicewright Tabletide", "Cooperative Strategic Deluxe", (
        "Strategy: Empire Board Game, Trading Board Game, Worker Placement Game",
        "Party: Word Card Game, Bluffing Game", "Accessories: Dice Tower, Card Sleeves, Game Mat")),
    _Interest("Home Espresso", "Coffee", "Cremabar Portello Baristo", "Precision Stainless Italian", (
        "Beans: Espresso Beans, Decaf Espresso", "Machines: Espresso Machine, Burr Grinder, Milk Frother",
        "Barista Tools: Espresso Tamper, Portafilter Basket, Knock Box")),
    _Interest("Mountain Biking", "Cycling", "Gravelox Rockhopper Trailforge", "Tubeless Carbon Rugged", (
        "Parts: Bike Tyre, Bike Derailleur, Brake Pads", "Protection: Bike Helmet, Knee Pads",
        "Workshop: Bike Pump, Chain Lube, Bike Multitool")),
    _Interest("Watercolour Painting", "Art", "Aquarelle Pigmenta Sablebrush", "Artist Translucent Cold-Pressed", (
        "Paint: Watercolour Set, Watercolour Tube, Gouache Tube", "Brushes: Round Brush, Mop Brush",
        "Paper: Watercolour Pad, Watercolour Sketchbook, Masking Tape")),
    _Interest("Synthesizers", "Music", "Oscillon Wavetek Polyvox", "Analog Modular Polyphonic", (
        "Instruments: Synthesizer Keyboard, Drum Machine, Groovebox", "Modules: Eurorack Filter, Eurorack Oscillator",
        "Cables: Patch Cables, MIDI Interface, Synth Stand")),
    _Interest("Fly Fishing", "Outdoors", "Riverbend Caddisco Troutline", "Floating Tapered Hand-Tied", (
        "Tackle: Fly Rod, Fly Reel, Fly Line", "Flies: Dry Fly Assortment, Nymph Fly Assortment",
        "Wading: Chest Waders, Wading Boots, Landing Net")),
    _Interest("Yoga Practice", "Wellness", "Asanaline Lotusway Stillpoint", "Cork Calming Non-Slip", (
        "Mats: Yoga Mat, Yoga Towel", "Props: Yoga Block, Yoga Strap, Bolster Cushion",
        "Meditation: Meditation Cushion, Singing Bowl, Incense Sticks")),
    _Interest("Home Networking", "Electronics", "Packetron Meshworks Routely", "Gigabit Dual-Band Managed", (
        "Routers: Mesh Router, Wireless Router", "Switching: Network Switch, Ethernet Cable, Patch Panel",
        "Storage: Network Attached Storage, Server Rack, Backup Drive")),
)  # fmt: skip
INTEREST_NAMES = tuple(interest.name for interest in _INTERESTS)
"""Names of the planted interests; `truth.interest` and `truth.second_interest` are indices into it."""

N_ITEMS = 400
_SHARED = 0.1  # share of items that belong to two interests
_STAY = 0.85  # probability of staying with an interest from one step to the next
_NOISE = 0.03  # share of steps that ignore interests
_REACH = 1.5  # how many places along an interest's order the next item usually lies away
_LONGEST = 40
_EPOCH, _DAY = 1_577_836_800, 86_400  # 2020-01-01


def generate_sample(seed: int = 0, n_users: int = 600) -> RawLog:
    """Generate the log: about 12 interactions a user over 400 items, in order of time.

    Args:
        seed: of the random generator; the same seed gives the same log.
        n_users: number of users.

    Returns:
        A log whose `truth` has each item's planted interest, and the second one of shared items (else -1).
    """
    rng = np.random.default_rng(seed)
    items, truth = _catalogue(rng)
    members, follow = _transitions(rng, truth)
    popularity = np.zeros(len(items))
    for own, weights in zip(members, follow, strict=True):
        popularity[own] += weights.mean(axis=0)
    users, chosen, times = [], [], []
    for user in range(n_users):
        sequence = _walk(rng, members, follow, popularity)
        start = _EPOCH + rng.integers(300 * _DAY)
        users += [user] * len(sequence)
        chosen += sequence
        times.append(start + np.cumsum(rng.integers(_DAY // 4, 12 * _DAY, size=len(sequence))))
    timestamps = np.concatenate(times)
    order = np.argsort(timestamps, kind="stable")
    interactions = pd.DataFrame(
        {
            "user": pd.Series([f"user-{user:04d}" for user in np.asarray(users)[order]], dtype="str"),
            "item": items["item"].take(np.asarray(chosen)[order]).reset_index(drop=True),
            "timestamp": timestamps[order].astype(np.int64),
        }
    )
    seen = items["item"].isin(interactions["item"])
    return RawLog(interactions, items[seen].reset_index(drop=True), truth[seen].reset_index(drop=True))


def _catalogue(rng: np.random.Generator) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The items, ordered within an interest by theme and noun, and their planted interests."""
    rows, n = [], len(_INTERESTS)
    for index, interest in enumerate(_INTERESTS):
        nouns = [(name, noun) for name, part in (t.split(": ") for t in interest.themes) for noun in part.split(", ")]
        number = N_ITEMS // n + (index < N_ITEMS % n)
        styles = [
            f"{brand} {adjective}" for brand in interest.brands.split() for adjective in interest.adjectives.split()
        ]
        for place in range(number):
            # Consecutive places share a noun; each noun gets its styles in an order of its own.
            theme, noun = nouns[place * len(nouns) // number]
            if place == 0 or noun != nouns[(place - 1) * len(nouns) // number][1]:
                left = [styles[i] for i in rng.permutation(len(styles))]
            other = int((index + rng.integers(1, n)) % n) if rng.random() < _SHARED else -1
            title, categories = f"{left.pop()} {noun}", f"{interest.department}, {interest.name}, {theme}"
            if other >= 0:
                title += f" for {_INTERESTS[other].name}"
                categories += f", {_INTERESTS[other].department}, {_INTERESTS[other].name}"
            rows.append((title, categories, index, other))
    keys = [f"item-{number:03d}" for number in rng.permutation(len(rows))]  # keys tell nothing of the interest
    table = {
        "item": keys,
        "title": [row[0] for row in rows],
        "categories": [row[1] for row in rows],
        "text": [item_text(row[0], row[1]) for row in rows],
    }
    truth = pd.DataFrame(
        {
            "item": pd.Series(keys, dtype="str"),
            "interest": np.array([row[2] for row in rows], dtype=np.int32),
            "second_interest": np.array([row[3] for row in rows], dtype=np.int32),
        }
    )
    return pd.DataFrame(table, dtype="str"), truth


def _transitions(
    rng: np.random.Generator, truth: pd.DataFrame
) -> tuple[list[NDArray[np.int64]], list[NDArray[np.float64]]]:
    """For each interest its items [n], and how likely each follows each other [n, n] (not normalised).

    The weight of an item is its popularity in the interest (Zipf) times its nearness to the previous item.
    """
    first, second = truth["interest"].to_numpy(), truth["second_interest"].to_numpy()
    members, follow = [], []
    for interest in range(len(_INTERESTS)):
        own = np.concatenate([np.flatnonzero(first == interest), np.flatnonzero(second == interest)])
        places = np.concatenate(
            [
                np.arange((first == interest).sum()),
                rng.uniform(0, (first == interest).sum(), (second == interest).sum()),
            ]
        )
        popularity = 1.0 / (1 + rng.permutation(len(own))) ** 0.7
        ahead = places[None, :] - places[:, None]
        near = np.exp(-np.abs(ahead - 0.5) / _REACH)  # a little more likely forward than back
        members.append(own)
        follow.append(popularity * (near + 0.02))
    return members, follow


def _walk(
    rng: np.random.Generator,
    members: list[NDArray[np.int64]],
    follow: list[NDArray[np.float64]],
    popularity: NDArray[np.float64],
) -> list[int]:
    """One user's items: a walk over one to four interests, no item twice."""
    mine = rng.choice(len(members), size=rng.choice([1, 2, 3, 4], p=[0.15, 0.35, 0.3, 0.2]), replace=False)
    taste = rng.dirichlet(np.full(len(mine), 3.0))
    length = int(min(6 + rng.geometric(1 / 6.5), _LONGEST))
    last: dict[int, int] = {}
    sequence: list[int] = []
    seen = np.zeros(len(popularity), dtype=np.bool_)
    interest = int(rng.choice(mine, p=taste))
    for _ in range(length):
        if rng.random() < _NOISE:
            item = _pick(rng, popularity * ~seen)
        else:
            if len(mine) > 1 and rng.random() > _STAY:
                elsewhere = taste * (mine != interest)
                interest = int(mine[_pick(rng, elsewhere)])
            own, weights = members[interest], follow[interest]
            row = weights[last[interest]] if interest in last else weights.mean(axis=0)
            free = row * ~seen[own]
            if not free.any():
                break
            last[interest] = _pick(rng, free)
            item = int(own[last[interest]])
        seen[item] = True
        sequence.append(item)
    return sequence


def _pick(rng: np.random.Generator, weights: NDArray[np.float64]) -> int:
    cumulative = np.cumsum(weights)
    return int(min(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"), len(weights) - 1))
