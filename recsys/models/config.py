"""Shapes of the models: written into the manifest, read back to build the same modules.

No torch here: the API process reads manifests too. Axes as in the modules these belong to.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

VectorPrecision = Literal["float32", "float16", "int8", "pq"]
WeightPrecision = Literal["float32", "int8"]


@dataclass(frozen=True, kw_only=True)
class SequenceConfig:
    """Shape of a causal transformer over items (``sequence.py``)."""

    num_layers: int = 2
    """Blocks of attention and network."""
    num_heads: int = 2
    """A; divides D."""
    widening: int = 4
    """Width of a block's network, in D."""
    max_length: int = 50
    """Positions, counted from the newest item; older ones share the last."""
    dropout: float = 0.5
    """On the inputs and on what each block adds."""
    num_pauses: int = 0
    """Buckets for the pause before an event, each twice as long as the one before (26 reach two
    years in seconds); 0 leaves pauses out."""
    num_event_types: int = 0
    """Types of events that are told apart; 0 leaves them out."""
    recompute: bool = False
    """Keep only the blocks' inputs in training and compute the rest again: for long sequences."""


@dataclass(frozen=True, kw_only=True)
class TwoTowerConfig:
    """Shape of the towers (``two_tower.py``)."""

    embedding_size: int = 64
    """D."""
    hidden_size: int = 128
    """Width of the user tower's hidden layer."""
    num_heads: int = 2
    """A: ways of weighing the history."""
    num_text_buckets: int = 8192
    """Rows of the word table; words are hashed into them."""
    num_words: int = 24
    """L: words of an item's text that are looked at."""
    num_token_buckets: int = 2048
    """Rows of the profile-token table."""
    id_dropout: float = 0.1
    """Chance that a training step sees an item without its own embedding."""
    learns_newcomers: bool = False
    """Whether items without an embedding of their own share one, which is learned from how items
    did in their first days (``TowerTraining.newcomer_ms``); off, they have none."""
    dropout: float = 0.1
    """On the user tower's inputs."""
    temperature: float = 0.08
    """Divides the cosine: the smaller, the more a softmax looks at the nearest items."""
    history: Literal["pooled", "sequence"] = "pooled"
    """How the user tower reads the history: by ``num_heads`` ways of weighing its items, or as a
    sequence."""
    sequence: SequenceConfig = field(
        default_factory=lambda: SequenceConfig(max_length=128, dropout=0.2, num_pauses=26)
    )
    """Shape of the encoder, where ``history`` is a sequence."""


@dataclass(frozen=True, kw_only=True)
class Aspect:
    """A side from which items are compared (``taste.py``)."""

    keys: tuple[str, ...]
    """Attributes that count together, and two that every catalogue has: ``text``, the words, and
    ``born``, the year with those around it."""
    size: int
    """Width of the vectors; with fewer distinct tokens likeness is exact."""


@dataclass(frozen=True, kw_only=True)
class RankerConfig:
    """Shape of the ranker (``ranker.py``)."""

    hidden_size: int = 64
    """E."""
    num_crosses: int = 2
    """DCN-V2 layers."""
    num_factors: int = 8
    """Products of projected user and item vectors."""
    dropout: float = 0.0
    """On the deep part and on embeddings."""
    token_size: int = 0
    """Width of the ranker's own embeddings of users and items (profile tokens, item tokens and
    identities); 0: it has none and knows both by the towers' vectors alone."""
    num_token_buckets: int = 4096
    """Rows of each table of hashed tokens, where there are such."""
    num_item_tokens: int = 0
    """Tokens of an item (category, attributes) that are looked at."""
    item_identities: bool = False
    """Whether items with ``ItemTable.has_id`` have an embedding of their own beside tokens."""
    user_rates: tuple[tuple[int, int], ...] = ()
    """Columns of ``user_dense`` whose ratio is an input (``rates.py``): numerator, denominator."""
    item_rates: tuple[tuple[int, int], ...] = ()
    """The same of the items' moving features."""
    content_size: int = 0
    """Width of the vectors by which items' tokens are compared (``content.py``); 0: they are
    not."""
    aspects: tuple[Aspect, ...] = ()
    """Sides from which a candidate is held beside what the user chose and left, each choice seen
    against what others chose (``taste.py``). Say something where a history holds both."""
    taste_counts: tuple[int, int] | None = None
    """Columns of the items' moving features: how often an item was taken, how often shown. Wanted
    by ``aspects``."""
    attention_heads: int = 0
    """A: ways in which a candidate looks at the history (``target_attention.py``); 0: none."""
    attention_size: int = 16
    """Width of a head."""
    num_experts: int = 0
    """Deep parts between which each objective chooses (``experts.py``); 0: one, shared."""
    num_positions: int = 0
    """Places of a displayed list whose bias is learned (``position_bias.py``); 0: none is."""
    position_dropout: float = 0.1
    """Chance that a training step does not see a place."""
    one_logit: bool = False
    """Whether order and probability are one logit, learned by both losses. Needed where lists say
    little (one item each); otherwise the order is learned alone and then calibrated."""
    is_calibrated: bool = False
    """Whether probabilities pass through a calibration fitted on held-out lists."""


@dataclass(frozen=True, kw_only=True)
class SourceMix:
    """Candidate sources in the order of ``Dimensions.sources``, and their share of the list."""

    names: tuple[str, ...] = (
        "two_tower", "item_to_item", "item_to_item_recent", "popular", "history",
    )  # fmt: skip
    weights: tuple[float, ...] = (0.5, 1.0, 0.3, 0.3, 0.5)
    """Share of each in the blend."""
    quotas: tuple[int, ...] = (40, 40, 20, 20, 40)
    """Places kept for the best of each."""
    item_to_item_half_life_days: float = 120.0
    """How fast a history item loses its say; a season for shops."""
    recent_half_life_days: float = 14.0
    """The same for ``item_to_item_recent``."""
    history_half_life_days: float = 120.0
    """The same for ``history``."""


@dataclass(frozen=True, kw_only=True)
class Precision:
    """What a bundle's numbers are stored and computed in (``recsys/compression``)."""

    item_vectors: VectorPrecision = "float32"
    towers: WeightPrecision = "float32"
    ranker: WeightPrecision = "float32"
