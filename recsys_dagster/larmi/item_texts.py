"""Items as vectors of their texts, for the local clusterer: TF-IDF, or the embeddings of a local model."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys_dagster.larmi.clusters import Catalogue, clean_text
from recsys_dagster.parallel import Arrays, pack_texts, unpack_texts

MAX_TEXT_LENGTH = 1_000
"""Characters of a text that are read; what follows the first thousand is hardly about what the thing is."""

_SAMPLED_PAIRS = 20_000
_WORD = re.compile(r"\w+(?:['’]\w+)*")
# A decimal point or a hyphen within a word parts nothing.
_BETWEEN_PHRASES = re.compile(r"[.,;:!?](?!\w)|[()\[\]|/&+—–]|\s-\s")
_WITH_DIGIT = re.compile(r"\S*\d\S*")


@dataclass(frozen=True, eq=False)
class ItemTexts:
    """What the local clusterer knows about a catalogue.

    Attributes:
        catalogue: whose texts they are.
        vectors: CSR float32 [N, features], rows of length 1, or empty for an item without a text.
        codes: int64 [N], the same number for the same text, -1 for no text.
        words: CSR float32 [N, terms], TF-IDF of words and word pairs, rows of length 1 or empty.
        terms: str [terms], the words and word pairs.
        naming: float64 [terms], how well each term names an interest (`_naming`).
        kinds: int8 [terms], 0 for a term without digits, 1 with digits, 2 without a letter.
        pair_distances: float64, ascending: cosine distances of random pairs of the catalogue.
    """

    catalogue: Catalogue
    vectors: Any
    codes: NDArray[np.int64]
    words: Any
    terms: NDArray[np.object_]
    naming: NDArray[np.float64]
    kinds: NDArray[np.int8]
    pair_distances: NDArray[np.float64]

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Everything but the catalogue's texts, as arrays by name, for workers to share."""
        matrices: dict[str, NDArray[Any]] = {
            f"{name}_{part}": np.asarray(getattr(matrix, part))
            for name, matrix in (("vectors", self.vectors), ("words", self.words))
            for part in ("data", "indices", "indptr", "shape")
        }
        plain: dict[str, NDArray[Any]] = {
            "codes": self.codes,
            "naming": self.naming,
            "kinds": self.kinds,
            "pairs": self.pair_distances,
        }
        return {**matrices, **plain, **pack_texts("terms", self.terms), **pack_texts("titles", self.catalogue.titles)}

    @classmethod
    def shared(cls, arrays: Arrays) -> ItemTexts:
        """From `arrays`; only the texts are copied."""
        from scipy.sparse import csr_array

        vectors, words = (
            csr_array(
                (arrays[f"{name}_data"], arrays[f"{name}_indices"], arrays[f"{name}_indptr"]),
                shape=tuple(arrays[f"{name}_shape"].tolist()),
            )
            for name in ("vectors", "words")
        )
        terms = np.array(unpack_texts("terms", arrays), dtype=object)
        return cls(
            Catalogue(unpack_texts("titles", arrays), []), vectors, arrays["codes"], words, terms, arrays["naming"],
            arrays["kinds"], arrays["pairs"],
        )  # fmt: skip


def read_texts(catalogue: Catalogue, embeddings: str = "") -> ItemTexts:
    """Weigh the catalogue's words; nothing of who had which item is known here.

    Args:
        catalogue: its texts are read (title and categories, or attribute words).
        embeddings: folder of a sentence-embedding model; "" for TF-IDF over words and character n-grams.

    Raises:
        RecsysError: the folder holds no usable model.
    """
    from scipy.sparse import csr_array, hstack
    from sklearn.preprocessing import normalize

    texts = [unicodedata.normalize("NFKC", _line(text)) for text in catalogue.texts]
    words, terms = _tfidf(texts, analyzer=words_and_pairs, sublinear_tf=True)
    if embeddings:
        from recsys_dagster.larmi.embeddings import embed

        dense = _directions(embed(texts, embeddings), np.array([bool(text) for text in texts]))
        vectors = csr_array(dense)
    else:
        # Numbers and codes of parts have no stem: "attribute_17" is not near "attribute_173".
        spelling = [_WITH_DIGIT.sub(" ", text) for text in texts]
        pieces, _ = _tfidf(spelling, analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True)
        vectors = csr_array(normalize(hstack([words, pieces], format="csr")))
    _, codes = np.unique(np.array(texts, dtype=object), return_inverse=True)
    codes = np.where([bool(text) for text in texts], codes, -1).astype(np.int64)
    return ItemTexts(
        catalogue, vectors, codes, words, terms, _naming(words, terms), _kinds(terms), _random_pairs(vectors, codes)
    )


def _line(text: str) -> str:
    """`clean_text`, which goes character by character, only where there is something to clean."""
    text = text[: 4 * MAX_TEXT_LENGTH]
    return text.strip()[:MAX_TEXT_LENGTH] if text.isprintable() else clean_text(text, MAX_TEXT_LENGTH)


def words_and_pairs(text: str) -> list[str]:
    """Words of a text but for English function words, and pairs of neighbours that no comma or full stop parts.

    >>> words_and_pairs("Ted's Hot Dogs. Burgers, Gluten-Free")
    ["ted's", 'hot', 'dogs', "ted's hot", 'hot dogs', 'burgers', 'gluten', 'free', 'gluten free']
    """
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    found: list[str] = []
    for phrase in _BETWEEN_PHRASES.split(text.lower()):
        words = [word for word in _WORD.findall(phrase) if word not in ENGLISH_STOP_WORDS]
        found += words
        found += map(" ".join, pairwise(words))
    return found


def _tfidf(texts: list[str], **settings: Any) -> tuple[Any, NDArray[np.object_]]:
    """TF-IDF as CSR float32 with sorted columns, and the terms."""
    from scipy.sparse import csr_array
    from sklearn.feature_extraction.text import TfidfVectorizer

    # Terms of one item only cannot join two items, terms of half the catalogue join everything: both are left out,
    # unless the catalogue is so small that nothing would remain.
    for min_count, max_share in ((2, 0.5), (1, 1.0)):
        vectorizer = TfidfVectorizer(min_df=min_count, max_df=max_share, dtype=np.float32, **settings)
        try:
            weights = csr_array(vectorizer.fit_transform(texts))
        except ValueError:  # "empty vocabulary" or "no terms remain"
            continue
        return weights, vectorizer.get_feature_names_out()
    return csr_array((len(texts), 1), dtype=np.float32), np.array([""], dtype=object)


def _naming(words: Any, terms: NDArray[np.object_]) -> NDArray[np.float64]:
    """The square root of the logarithm of a term's number of items, and 1.3 times that for a pair of words.

    Both are chosen by reading labels: a term that many items have is one that people know, and "prime rib" says more
    than "prime".
    """
    items = np.bincount(words.indices, minlength=len(terms))
    return np.sqrt(np.log1p(items)) * np.where([" " in term for term in terms], 1.3, 1.0)


def _kinds(terms: NDArray[np.object_]) -> NDArray[np.int8]:
    letters = np.array([any(map(str.isalpha, term)) for term in terms])
    digits = np.array([any(map(str.isdigit, term)) for term in terms])
    return np.where(letters, digits, 2).astype(np.int8)


def _directions(vectors: NDArray[np.float32], present: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Vectors less their mean, of length 1; 0 for items without a text.

    The vectors of a language model lie in a narrow cone; without their mean two unrelated texts have distance 1.
    """
    if present.any():
        vectors = vectors - vectors[present].mean(axis=0)
    vectors = np.where(present[:, None], vectors, 0)
    return (vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)).astype(np.float32)


def _random_pairs(vectors: Any, codes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Sorted distances of pairs of different items: all of a small catalogue, 20,000 drawn ones of a large one."""
    from recsys_dagster.larmi.linkage_kernels import pair_distances

    n_items = len(codes)
    if n_items * (n_items - 1) // 2 <= _SAMPLED_PAIRS:
        left, right = np.triu_indices(n_items, 1)
    else:
        rng = np.random.default_rng(0)
        left = rng.integers(0, n_items, _SAMPLED_PAIRS)
        right = (left + rng.integers(1, n_items, _SAMPLED_PAIRS)) % n_items
    found = pair_distances(
        vectors.indptr, vectors.indices, vectors.data, codes, vectors.shape[1], left.astype(np.int64),
        right.astype(np.int64),
    )  # fmt: skip
    return np.sort(found)
