"""A causal transformer whose key-value cache is a value that the caller passes along."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffplan.errors import DiffplanError
from diffplan.nn.embeddings import mlp


@dataclass(frozen=True)
class Cache:
    """Keys and values of every layer, each [B, heads, length, width / heads].

    `step` writes into these tensors: the cache passed in is consumed, go on with the one returned.
    Entries at and after the current position are never read.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]


class CausalBlock(nn.Module):
    """Causal self-attention, then an MLP, both with the norm before (Xiong et al. 2020)."""

    def __init__(self, width: int, heads: int, ff: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        # norms before, not after: it trains at a full rate without a warm-up
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = mlp(width, (ff,), width, activation=nn.GELU)

    def forward(self, h: Tensor) -> Tensor:
        """h [B, L, width] -> [B, L, width], every token seeing those up to itself."""
        qkv = self.qkv(self.attention_norm(h)).unflatten(-1, (3, self.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        attended = self._attend(q, k, v, is_causal=True)
        return self._after(h, attended.transpose(1, 2).flatten(2))

    def step(self, h: Tensor, keys: Tensor, values: Tensor, position: int) -> Tensor:
        """One token h [B, width] at `position` -> [B, width].

        keys, values [B, heads, length, dh]: those of the tokens before, to be added to.
        """
        qkv = self.qkv(self.attention_norm(h)).chunk(3, dim=-1)
        q, k, v = (part.unflatten(-1, (self.heads, 1, -1)) for part in qkv)
        # in place: copying a growing cache would cost more than attending to it
        end = position + 1
        keys[:, :, position:end] = k
        values[:, :, position:end] = v
        # the last token may see all that is there
        attended = self._attend(q, keys[:, :, :end], values[:, :, :end], is_causal=False)
        return self._after(h, attended.flatten(1))

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, is_causal: bool) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=is_causal)

    def _after(self, h: Tensor, attended: Tensor) -> Tensor:
        h = h + self._drop(self.out(attended))
        return h + self._drop(self.mlp(self.mlp_norm(h)))

    def _drop(self, h: Tensor) -> Tensor:
        # no module, and no operation at 0: a proposal calls this H times depth times
        return F.dropout(h, self.dropout) if self.training and self.dropout > 0.0 else h


class CausalTransformer(nn.Module):
    """Pre-norm causal transformer (Vaswani et al. 2017) with learned positions.

    `forward` sees whole sequences; `step` gives the same features token by token.
    """

    def __init__(
        self,
        input_dim: int,
        width: int = 128,
        depth: int = 4,
        heads: int = 4,
        ff: int = 512,
        dropout: float = 0.0,
        max_length: int = 64,
    ) -> None:
        super().__init__()
        if width % heads:
            raise DiffplanError(f"the transformer's width {width} must be a multiple of {heads=}")
        self.max_length = max_length
        self.enter = nn.Linear(input_dim, width)
        self.position = nn.Parameter(0.02 * torch.randn(max_length, width))
        self.blocks = nn.ModuleList([CausalBlock(width, heads, ff, dropout) for _ in range(depth)])
        self.norm = nn.LayerNorm(width)
        self.cache_shape = (heads, width // heads)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens [B, L, input_dim] -> features [B, L, width]; feature i depends on tokens <= i."""
        self._check(tokens.shape[1])
        h = self.enter(tokens) + self.position[: tokens.shape[1]]
        for block in self.blocks:
            h = block(h)
        return self.norm(h)

    def init_cache(
        self,
        batch: int,
        length: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Cache:
        """An empty cache for `batch` rows of up to `length` tokens (None: max_length).

        Device and dtype are those of the weights unless given.
        """
        length = self.max_length if length is None else length
        self._check(length)
        heads, head_width = self.cache_shape

        def buffers() -> tuple[Tensor, ...]:
            return tuple(
                torch.zeros(
                    batch,
                    heads,
                    length,
                    head_width,
                    device=device or self.position.device,
                    dtype=dtype or self.position.dtype,
                )
                for _ in self.blocks
            )

        return Cache(buffers(), buffers())

    def step(self, token: Tensor, cache: Cache, position: int) -> tuple[Tensor, Cache]:
        """token [B, input_dim] at `position` -> feature [B, width], cache.

        Positions 0 ... position - 1 must have been written before.
        """
        length = cache.keys[0].shape[2]
        if position >= length:
            raise DiffplanError(f"a cache of {length} tokens cannot hold {position + 1}")
        h = self.enter(token) + self.position[position]
        for block, keys, values in zip(self.blocks, cache.keys, cache.values, strict=True):
            assert isinstance(block, CausalBlock)  # a list of modules forgets which
            h = block.step(h, keys, values, position)
        return self.norm(h), cache

    def _check(self, length: int) -> None:
        if length > self.max_length:
            raise DiffplanError(
                f"{length} tokens do not fit a transformer built for {self.max_length}: "
                "raise max_length"
            )
