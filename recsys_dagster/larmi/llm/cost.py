"""What questions cost: tokens without a tokenizer, money, and a budget that is never passed."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from recsys_dagster.errors import RecsysError
from recsys_dagster.larmi.llm.settings import LlmSettings

BYTES_PER_TOKEN = 3.0
"""UTF-8 bytes of a question for each of its tokens, to begin with. English has four to five, titles with numbers three
to four, Chinese three; an estimate that is too high does no harm."""

TOKENS_PER_ANSWER, TOKENS_PER_ITEM = 40.0, 12.0
"""Tokens of an answer to begin with: fixed, and for each item (its number, and its part of a label and a reason)."""

PRIOR_CALLS = 20
"""Calls that the first figures weigh as much as, while the server's own counts come in."""

OVERHEAD_TOKENS = 64
"""More than any server adds to a question for the roles of the messages."""


@dataclass
class TokenEstimate:
    """Tokens of questions and answers, from the bytes of a question and its number of items.

    It starts from figures that are rather high, and follows what the server reports.

    Attributes:
        calls: reported calls, and over these: prompt_bytes, prompt_tokens, items, completion_tokens.
    """

    calls: int = 0
    prompt_bytes: int = 0
    prompt_tokens: int = 0
    items: int = 0
    completion_tokens: int = 0

    def learn(
        self, prompt_bytes: int, n_items: int, prompt_tokens: int, completion_tokens: int, calls: int = 1
    ) -> None:
        """Take in what the server reported about a call, or about several together."""
        self.calls += calls
        self.prompt_bytes += prompt_bytes
        self.prompt_tokens += prompt_tokens
        self.items += n_items
        self.completion_tokens += completion_tokens

    def prompt(self, prompt_bytes: int) -> int:
        """Expected tokens of a question."""
        prior_bytes = PRIOR_CALLS * 3_000
        tokens = prior_bytes / BYTES_PER_TOKEN + self.prompt_tokens
        return round(prompt_bytes * tokens / (prior_bytes + self.prompt_bytes))

    def completion(self, n_items: int) -> int:
        """Expected tokens of an answer about so many items."""
        first = TOKENS_PER_ANSWER + TOKENS_PER_ITEM * n_items
        if not self.calls:
            return round(first)
        expected = self.calls * TOKENS_PER_ANSWER + TOKENS_PER_ITEM * self.items
        ratio = (PRIOR_CALLS + self.calls * self.completion_tokens / expected) / (PRIOR_CALLS + self.calls)
        return round(first * ratio)


def token_bound(prompt_bytes: int) -> int:
    """Tokens that a question has at most: byte-level tokenizers never make more tokens than bytes."""
    return prompt_bytes + OVERHEAD_TOKENS


def money(amount: float) -> str:
    """An amount for people: two decimals, four below 1.

    >>> money(1234.5), money(0.01234)
    ('1,234.50', '0.0123')
    """
    return f"{amount:,.2f}" if amount >= 1 else f"{amount:.4f}"


@dataclass
class Budget:
    """Money spent and reserved under a cap.

    Before a call is sent, the most that it can cost is reserved; when it is answered, the reservation becomes what was
    reported. So spent + reserved never passes the cap. A call that does not fit waits for others to come back.

    Attributes:
        settings: prices and the cap (None: no cap).
        spent: so far, reported.
        reserved: by calls in flight.
    """

    settings: LlmSettings
    spent: float = 0.0
    reserved: float = 0.0
    _open: int = 0
    _waiting: list[asyncio.Future[None]] = field(default_factory=list)

    def cost(self, prompt_tokens: float, completion_tokens: float) -> float:
        """Price of so many tokens."""
        return (prompt_tokens * self.settings.input_price + completion_tokens * self.settings.output_price) / 1e6

    def bound(self, prompt_bytes: int) -> float:
        """The most that one call can cost."""
        return self.cost(token_bound(prompt_bytes), self.settings.max_output_tokens)

    def fits(self, amount: float) -> bool:
        """Whether so much more may be reserved."""
        cap = self.settings.spending_cap
        return cap is None or self.spent + self.reserved + amount <= cap

    async def reserve(self, amount: float) -> None:
        """Reserve, once there is room.

        Raises:
            RecsysError: if there is no room and nothing in flight could make any.
        """
        while not self.fits(amount):
            if not self._open:
                raise self.used_up()
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            await turn
        self.hold(amount)

    def hold(self, amount: float) -> None:
        """Reserve without asking: for what is under way already."""
        self._open += 1
        self.reserved += amount

    def settle(self, reserved: float, actual: float) -> None:
        """A call came back: what it has cost takes the place of what was reserved."""
        self._open -= 1
        # Sums of floats leave crumbs; nothing open is nothing reserved.
        self.reserved = max(0.0, self.reserved - reserved) if self._open else 0.0
        self.spent += actual
        waiting, self._waiting = self._waiting, []
        for turn in waiting:
            if not turn.done():
                turn.set_result(None)

    def used_up(self) -> RecsysError:
        """The error that says how to go on."""
        cap = self.settings.spending_cap or 0.0
        return RecsysError(
            f"backend {self.settings.backend}: the next call could pass the spending cap of {money(cap)} "
            f"({money(self.spent)} spent).",
            mend="raise spending_cap, or lower max_output_tokens (a call is reserved at its longest answer), and run "
            "again: answers so far are kept, only the rest is asked.",
        )
