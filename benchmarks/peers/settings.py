"""What is compared: the libraries, their models and the versions that their environments hold."""

from __future__ import annotations

MODELS = {
    "recbole": ("SASRec", "GRU4Rec", "BERT4Rec", "LightGCN", "BPR"),
    "cornac": ("SASRec", "GRU4Rec", "BERT4Rec", "BPR"),
}
"""Models of each library that run here; docs/peers.md says what is left out and why."""

REQUIREMENTS = {
    # RecBole 1.2.1 still uses what numpy 2, scipy 1.13 and pandas 3 took away
    "recbole": (
        "recbole==1.2.1",
        "torch==2.13.0",
        "numpy==1.26.4",
        "scipy==1.12.0",
        "pandas==2.2.3",
        "setuptools==80.10.2",
    ),
    "cornac": ("cornac==3.0.1", "torch==2.13.0", "numpy==2.4.6", "scipy==1.17.1", "transformers==4.57.6"),
}
"""Pins of each environment, the library first. cornac's BERT4Rec is built on transformers, which it leaves to users."""
