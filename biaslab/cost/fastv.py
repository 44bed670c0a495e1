"""The reduction formula of FastV, for comparison with numbers quoted in papers."""

from __future__ import annotations

from biaslab.errors import InputError

__all__ = ["fastv_reduction"]


def fastv_reduction(
    n_visual: int,
    n_kept: int,
    *,
    layer: int,
    n_layers: int,
    hidden: int,
    intermediate: int,
    n_text: int = 0,
    gated: bool = False,
) -> float:
    """Compute the share of decoder FLOPs saved by the formula that FastV published.

    ``F(n) = 4 n d^2 + 2 n^2 d + 2 n d m`` and ``1 - (K F(n) + (T - K) F(n')) / (T F(n))``. It leaves out the
    vision tower and the output head, and assumes ungrouped heads and a two-matrix feed-forward block;
    ``gated=True`` takes the three matrices that Llama-like models have (PyramidDrop and later papers).

    Which tokens count differs between papers: ``n_text=0`` counts visual tokens only, as FastV's table does;
    otherwise n = n_visual + n_text and n' = n_kept + n_text. Say which when quoting the number.

    Parameters
    ----------
    n_visual, n_kept : int
        Visual tokens of the prompt, and those kept.
    layer : int
        K, the number of layers that see all tokens.
    n_layers : int
        T, the decoder's layers.
    hidden, intermediate : int
        Widths d of the decoder and m of its feed-forward block.
    n_text : int
        Other tokens that count.
    gated : bool
        Whether the feed-forward block has three matrices.

    Returns
    -------
    float
        Share saved, 0 to 1.

    Raises
    ------
    InputError
        A layer or a number of kept tokens that cannot be.

    References
    ----------
    Chen et al., "An Image is Worth 1/2 Tokens After Layer 2", arXiv 2403.06764, section 4.2.

    Examples
    --------
    LLaVA-1.5-7B without half of its visual tokens from layer 2 on:

    >>> from biaslab.cost import fastv_reduction
    >>> round(fastv_reduction(576, 288, layer=2, n_layers=32, hidden=4096, intermediate=11008), 2)
    0.48
    """
    if not 0 <= layer <= n_layers or not 0 <= n_kept <= n_visual:
        raise InputError(f"need 0 <= layer <= {n_layers} and 0 <= n_kept <= {n_visual}, got {layer} and {n_kept}")
    matrices = 3 if gated else 2

    def f(n: int) -> int:
        return 4 * n * hidden**2 + 2 * n**2 * hidden + matrices * n * hidden * intermediate

    full, pruned = f(n_visual + n_text), f(n_kept + n_text)
    return 1 - (layer * full + (n_layers - layer) * pruned) / (n_layers * full)
