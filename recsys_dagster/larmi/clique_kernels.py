"""The compiled loop that finds the users with the largest overlap. numba is slow to import: import inside functions."""

from __future__ import annotations

from typing import Any

import numpy as np

from recsys_dagster.compiled import compiled

MERGE = 40
"""Entries of lists that are read in the time that it takes to merge two users' items."""

CHUNK = 64
"""Words that are looked at together."""


@compiled
def popcount(x: Any) -> Any:
    """Bits that are set in a uint64."""
    x = x - ((x >> np.uint64(1)) & np.uint64(0x5555555555555555))
    x = (x & np.uint64(0x3333333333333333)) + ((x >> np.uint64(2)) & np.uint64(0x3333333333333333))
    x = (x + (x >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((x * np.uint64(0x0101010101010101)) >> np.uint64(56))


@compiled
def _most_shared(words: Any, word: Any) -> Any:
    """The largest population count of ``word & words[i]``; without a branch, so that it is done several at a time."""
    most = np.int64(0)
    for i in range(len(words)):
        most = max(most, popcount(words[i] & word))
    return most


@compiled
def _nth(tally: Any, largest: int, n: int) -> int:
    """The n-th largest overlap, given how many users have each; 0 if fewer than n have any."""
    above = 0
    for overlap in range(largest, 0, -1):
        above += tally[overlap]
        if above >= n:
            return overlap
    return 0


@compiled
def _shared(items: Any, first: int, last: int, other: int, other_last: int) -> int:
    """Items in both of two ascending ranges, compared from the ends."""
    shared, a, b = 0, last - 1, other_last - 1
    while a >= first and b >= other:
        if items[a] == items[b]:
            shared += 1
            a -= 1
            b -= 1
        elif items[a] > items[b]:
            a -= 1
        else:
            b -= 1
    return shared


@compiled
def _tie(sizes: Any, v: int) -> Any:
    """Of users with the same overlap the one with the smaller number comes first.

    The one with fewer items has the higher Jaccard index |a & b| / (|a| + |b| - |a & b|), so the number of items breaks
    ties in whole numbers; then the id does.
    """
    return (np.int64(sizes[v]) << np.int64(32)) | np.int64(v)


@compiled
def _insert(nearest: Any, overlaps: Any, held: int, v: int, overlap: int, sizes: Any) -> int:
    """Put a user where it belongs by falling overlap, then by `_tie`; how many are held then, -1 if it is not one."""
    place, tie = held, _tie(sizes, v)
    while place > 0 and (
        overlap > overlaps[place - 1] or (overlap == overlaps[place - 1] and tie < _tie(sizes, nearest[place - 1]))
    ):
        place -= 1
    if place == len(nearest):
        return -1
    held = min(held + 1, len(nearest))
    for slot in range(held - 1, place, -1):
        nearest[slot] = nearest[slot - 1]
        overlaps[slot] = overlaps[slot - 1]
    nearest[place] = v
    overlaps[place] = overlap
    return held


@compiled
def nearest_users(index: Any, queries: Any, most_reads: int, found: Any) -> int:
    """The users with the largest overlap with each of some users.

    The lists of the user's items are read from the rarest on, and the users in them are counted. Those who can be among
    the first n get the rest of their overlap: unread items by merging, the popular ones, which are bits of one word, by
    a population count. Users met in no list share popular items alone; they are found by their words, of which there
    are fewer than users, and only where the user has enough popular items to matter. So the longest lists are never
    read. Reading ends early once no new user can be among the first n. Unless `most_reads` cuts it, the result is
    exact.

    Args:
        index: `cliques.InvertedIndex`.
        queries: int64, whose neighbours are wanted.
        most_reads: entries of the lists that are read for one user at most; one list is always read.
        found: int32 [queries, n], filled with users by falling overlap, then fewer items, then smaller id; -1 for none.

    Returns:
        queries for which the reading was cut before the result was certain.
    """
    n = found.shape[1]
    counts = np.zeros(len(index.sizes), dtype=np.int32)
    met = np.empty(len(index.sizes), dtype=np.int32)
    tally = np.zeros(index.longest + 2, dtype=np.int64)
    overlaps = np.zeros(n, dtype=np.int64)
    uncertain = 0
    for q in range(len(queries)):
        u = queries[q]
        start, end, word = index.indptr[u], index.indptr[u + 1], index.words[u]
        popular = popcount(word)
        n_met, read, k = 0, 0, start
        tally[: end - start + 1] = 0
        left, cut = 0, False
        for i in range(start, end):
            left += index.item_indptr[index.items[i] + 1] - index.item_indptr[index.items[i]]
        while k < end:
            # Users not met yet can have in common what is left, and no more. But what is left may be quicker read than
            # merged into all who were met.
            if left > MERGE * n_met and _nth(tally, end - start, n) > end - k + popular:
                break
            first, last = index.item_indptr[index.items[k]], index.item_indptr[index.items[k] + 1]
            if k > start and read + last - first > most_reads:
                uncertain += 1
                cut = True
                break
            for t in range(first, last):
                v = index.users[t]
                if v == u:
                    continue
                c = counts[v]
                if c == 0:
                    met[n_met] = v
                    n_met += 1
                else:
                    tally[c] -= 1
                counts[v] = c + 1
                tally[c + 1] += 1
            read += last - first
            left -= last - first
            k += 1
        # Once cut, the result is not certain anyway: of the unread items at most one is hoped for.
        unread = min(end - k, 1) if cut else end - k
        least, held = _nth(tally, end - start, n), 0
        for m in range(n_met):
            v = met[m]
            overlap = np.int64(counts[v])
            most = overlap + unread + popular
            if most < least or (held == n and most < overlaps[n - 1]):
                continue
            overlap += popcount(word & index.words[v])
            if k < end and (held < n or overlap + unread >= overlaps[n - 1]):
                overlap += _shared(index.items, k, end, index.indptr[v], index.indptr[v + 1])
            if held < n or overlap >= overlaps[n - 1]:
                held = max(_insert(found[q], overlaps, held, v, overlap, index.sizes), held)
        worst = _tie(index.sizes, found[q, held - 1]) if held else np.int64(0)
        for chunk in range(0, len(index.distinct_words), CHUNK):
            needed = overlaps[n - 1] if held == n else 1
            if popular < needed or index.distinct_bits[chunk] < needed:
                break
            words = index.distinct_words[chunk : chunk + CHUNK]
            if _most_shared(words, word) < needed:
                continue
            for w in range(len(words)):
                overlap = popcount(word & words[w])
                if held < n:
                    if overlap < 1:
                        continue
                elif overlap < overlaps[n - 1] or (overlap == overlaps[n - 1] and index.word_first[chunk + w] > worst):
                    continue
                for t in range(index.word_indptr[chunk + w], index.word_indptr[chunk + w + 1]):
                    v = index.word_users[t]
                    if v != u and counts[v] == 0:
                        after = _insert(found[q], overlaps, held, v, overlap, index.sizes)
                        if after < 0:
                            break
                        held = after
                        worst = _tie(index.sizes, found[q, held - 1])
        found[q, held:] = -1
        for m in range(n_met):
            counts[met[m]] = 0
    return uncertain
