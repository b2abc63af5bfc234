"""What the ranker is made of: its layers, where they begin, and what cannot be made.

The names of the layers are those of the weights in a bundle. What is optional (``RankerConfig``) is
built last and only when asked for: a bundle from before it has the same weights by the same names,
and a seed begins them alike.

Axes: ``O`` objectives.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recsys.errors import ConfigurationError
from recsys.models.calibration import Calibration
from recsys.models.config import RankerConfig
from recsys.models.cross_features import CrossScale, num_cross_features
from recsys.models.experts import MultiGateExperts
from recsys.models.item_table import ItemTable
from recsys.models.normalise import Standardise
from recsys.models.position_bias import PositionBias
from recsys.models.rates import Rates
from recsys.models.signature import Dimensions
from recsys.models.target_attention import TargetAttention
from recsys.models.token_embedding import TokenEmbedding

_NEED_TOKEN_SIZE = ("num_item_tokens", "item_identities")


class RankerLayers(nn.Module):
    """The layers; ``Ranker`` computes with them."""

    def __init__(
        self,
        config: RankerConfig,
        dimensions: Dimensions,
        table: ItemTable,
        embedding_size: int,
    ) -> None:
        """``embedding_size``: that of the towers' vectors, 0 where there are no towers.

        Raises:
            ConfigurationError: when embeddings are wanted of no width, or tastes without counts.
        """
        super().__init__()
        _require_whole(config, dimensions)
        self.config, self.table = config, table
        self._add_inputs(config, dimensions, embedding_size)
        self._add_network(config, dimensions)
        self._add_options(config, embedding_size, len(dimensions.objectives))

    def _add_inputs(
        self, config: RankerConfig, dimensions: Dimensions, embedding_size: int
    ) -> None:
        size, own = config.hidden_size, config.token_size
        self.user_dense = Standardise(dimensions.num_user_features)
        self.item_dense = Standardise(dimensions.num_item_features)
        num_user = dimensions.num_user_features + len(config.user_rates) + own
        num_item = dimensions.num_item_features + len(config.item_rates) + 2 + own
        num_cross = num_cross_features(dimensions, config.content_size, config.aspects)
        attended = config.attention_heads * (config.attention_size + 1)
        self.cross_scale = CrossScale(num_cross)
        self.project_user = nn.Linear(num_user, size)
        self.project_item = nn.Linear(num_item, size, bias=False)
        self.project_cross = nn.Linear(num_cross + config.num_factors + attended, size, bias=False)
        # With embeddings of its own the ranker looks for products in all it knows of both.
        self.user_factors = nn.Linear(
            embedding_size + (num_user if own else 0), config.num_factors, bias=False
        )
        self.item_factors = nn.Linear(
            embedding_size + (num_item if own else 0), config.num_factors, bias=False
        )

    def _add_network(self, config: RankerConfig, dimensions: Dimensions) -> None:
        size, num_objectives = config.hidden_size, len(dimensions.objectives)
        num_cross = num_cross_features(dimensions, config.content_size, config.aspects)
        self.crosses = nn.ModuleList(nn.Linear(size, size) for _ in range(config.num_crosses))
        deep_size = 0
        if not config.num_experts:
            deep_size = size // 2
            self.deep = nn.Sequential(
                nn.ReLU(), nn.Linear(size, size), nn.ReLU(inplace=True),
                nn.Dropout(config.dropout),
                nn.Linear(size, size // 2), nn.ReLU(inplace=True),
            )  # fmt: skip
        self.direct = nn.Linear(num_cross, num_objectives, bias=False)
        self.output = nn.Linear(size + deep_size, num_objectives)
        if not config.one_logit:
            self.calibrate_slope = nn.Parameter(torch.zeros(num_objectives))
            self.calibrate_user = nn.Sequential(
                nn.Linear(dimensions.num_user_features, 16),
                nn.Tanh(),
                nn.Linear(16, num_objectives),
            )

    def _add_options(self, config: RankerConfig, embedding_size: int, num_objectives: int) -> None:
        if config.user_rates:
            self.user_rates = Rates(config.user_rates)
        if config.item_rates:
            self.item_rates = Rates(config.item_rates)
        if config.token_size:
            self.user_tokens = TokenEmbedding(config.num_token_buckets, config.token_size)
            self.item_tokens = TokenEmbedding(config.num_token_buckets, config.token_size)
            self.embedding_dropout = nn.Dropout(config.dropout)
        if config.item_identities:
            self.identity = nn.Embedding(self.table.num_items + 1, config.token_size)
            nn.init.normal_(self.identity.weight, std=0.05)
        if config.attention_heads:
            self.attention = TargetAttention(
                embedding_size + config.token_size,
                num_heads=config.attention_heads, head_size=config.attention_size,
            )  # fmt: skip
        if config.num_experts:
            self.experts = MultiGateExperts(
                config.hidden_size, num_experts=config.num_experts,
                num_objectives=num_objectives, dropout=config.dropout,
            )  # fmt: skip
        if config.num_positions:
            self.position = PositionBias(
                config.num_positions, num_objectives, dropout=config.position_dropout
            )
        if config.is_calibrated:
            self.calibration = Calibration(num_objectives)

    @torch.no_grad()
    def start_probabilities_at(self, rate: Tensor) -> None:
        """Let the probabilities begin at ``[O]`` base rates instead of one half."""
        if self.config.one_logit:
            self.output.bias.copy_(torch.logit(rate))
            return
        last = self.calibrate_user[-1]
        assert isinstance(last, nn.Linear) and last.bias is not None
        last.weight.zero_()
        last.bias.copy_(torch.logit(rate))

    @torch.no_grad()
    def start_at_zero(self) -> None:
        """Let the logits begin at their bias for every candidate.

        Random last layers are an order that the first steps have to undo, and a short training at a
        low rate never quite does: what is left of it differs by seed and is noise.
        Source: Goyal et al. 2017, "Accurate, large minibatch SGD", section 5.1, which begins the
        last scale of each residual block at zero for the same reason; here it is the last layer.
        """
        self.direct.weight.zero_()
        self.output.weight.zero_()
        if self.config.num_experts:
            self.experts.towers.zero_()


def _require_whole(config: RankerConfig, dimensions: Dimensions) -> None:
    """Refuse options that want another one. Raises ConfigurationError."""
    if dimensions.num_request_tokens and not config.token_size:
        raise ConfigurationError(
            "ranker: request_keys want embeddings, found token_size 0; set it to their width "
            "(such as 16), or leave request_keys out"
        )
    wanted = [name for name in _NEED_TOKEN_SIZE if getattr(config, name)]
    if wanted and not config.token_size:
        raise ConfigurationError(
            f"ranker: {' and '.join(wanted)} want embeddings, found token_size 0; set it to "
            "their width (such as 16)"
        )
    if config.aspects and config.taste_counts is None:
        raise ConfigurationError(
            "ranker: aspects want taste_counts (the columns of what was taken and shown), "
            "found none; set them, or leave the aspects out"
        )
