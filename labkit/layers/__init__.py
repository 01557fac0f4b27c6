"""Building blocks shared by all model families; they import torch alone.

Notation, used at the end of every line that reshapes:
    B  batch                T  new tokens of this call      S  tokens that may be looked at (cached and new)
    H  query heads          K  key/value heads (H % K == 0) D  size of one head
    C  width of the residual stream (n_embd)                V  vocabulary
    In latent attention also R: size of the latent; N, D: parts of a head without and with rotation; E: of its value.

Activation sites (module names are the same in every family):
    embed                    token embedding                  (B, T, C)
    blocks.{i}               input = residual before block i  (B, T, C)
    blocks.{i}.norm_1        what attention reads
    blocks.{i}.attn.core     inputs q (B, H, T, D), k v (B, K, S, D), mask (B, 1, T, S); output z (B, H, T, D)
                             latent attention: q (B, H, T, R + D), k (B, 1, S, R + D), v (B, 1, S, R), z (B, H, T, R)
    blocks.{i}.attn          what attention adds
    blocks.{i}.norm_2        input = residual between attention and MLP
    blocks.{i}.mlp.down_proj input = neurons                  (B, T, n_hidden)
    blocks.{i}.mlp           what the MLP adds
    norm_f, lm_head          final norm and unembedding       (B, T, C) -> (B, T, V)
"""
