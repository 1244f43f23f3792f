"""Linear probes: what a straight line finds of speakers or phones in tokens."""

from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from speechbrain_dsu.tokens.streams import Tokens
from speechbrain_dsu.utils.errors import DsuError


@dataclass(frozen=True, eq=False)
class LinearProbe:
    """A multinomial logistic regression.

    Arguments
    ---------
    weight : Tensor
        ``[dim, classes]``, for features that were centred and scaled.
    bias : Tensor
        ``[classes]``.
    mean, scale : Tensor
        ``[dim]``: of the training features.
    """

    weight: Tensor
    bias: Tensor
    mean: Tensor
    scale: Tensor

    def logits(self, features: Tensor) -> Tensor:
        """Scores ``[n, classes]`` of ``[n, dim]``."""
        scaled = (features.to(self.mean.dtype) - self.mean) / self.scale
        return scaled @ self.weight + self.bias

    def predict(self, features: Tensor) -> Tensor:
        """The class of each row: int64 ``[n]``."""
        return self.logits(features).argmax(1)


@dataclass(frozen=True)
class ProbeResult:
    """Accuracy on items that the probe has not seen.

    Arguments
    ---------
    accuracy : float
        Share of right answers over all folds.
    chance : float
        Share of the commonest class: what is had for nothing.
    items, classes : int
        How many.
    """

    accuracy: float
    chance: float
    items: int
    classes: int

    def as_dict(self) -> dict[str, float]:
        """Plain values, for JSON."""
        return asdict(self)


def fit_probe(
    features: Tensor,
    labels: Tensor,
    classes: int | None = None,
    penalty: float = 1.0,
    max_iter: int = 100,
) -> LinearProbe:
    """Fit a multinomial logistic regression by L-BFGS.

    Minimises the sum of cross entropies plus ``penalty / 2`` times the squared
    weights, biases free: scikit-learn's ``LogisticRegression(C=1 / penalty)`` on
    features that are centred and scaled to unit variance.

    Arguments
    ---------
    features : Tensor
        Floating point ``[n, dim]``; computed with in its own precision.
    labels : Tensor
        int64 ``[n]``, 0 to ``classes - 1``.
    classes : int, optional
        The highest label plus one by default.
    penalty : float
        Above 0.
    max_iter : int
        Of L-BFGS.

    Returns
    -------
    LinearProbe
        See there.

    Raises
    ------
    DsuError
        If shapes disagree, a feature is not finite, or the penalty is not positive.

    Example
    -------
    >>> features = torch.tensor([[0.0], [1.0], [4.0], [5.0]])
    >>> fit_probe(features, torch.tensor([0, 0, 1, 1])).predict(features)
    tensor([0, 0, 1, 1])
    """
    if features.ndim != 2 or labels.shape != features.shape[:1] or not len(labels):
        raise DsuError(
            "a probe takes features [n, dim] and labels [n], got "
            f"{list(features.shape)} and {list(labels.shape)}"
        )
    if penalty <= 0 or not bool(features.isfinite().all()):
        raise DsuError(f"features must be finite and penalty={penalty} positive")
    classes = int(labels.max()) + 1 if classes is None else classes
    mean, scale = features.mean(0), features.std(0, correction=0)
    # A constant feature says nothing: leave it at 0.
    scale = torch.where(scale > 1e-6 * scale.max(), scale, torch.inf)
    scaled = (features - mean) / scale
    weight = scaled.new_zeros(features.shape[1], classes, requires_grad=True)
    bias = scaled.new_zeros(classes, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=max_iter,
        tolerance_grad=1e-6,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(scaled @ weight + bias, labels)
        loss = loss + penalty / 2 / len(labels) * weight.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return LinearProbe(weight.detach(), bias.detach(), mean, scale)


def probe(
    features: Tensor,
    labels: Tensor,
    groups: Tensor | None = None,
    folds: int = 5,
    penalty: float = 1.0,
    seed: int = 0,
) -> ProbeResult:
    """Accuracy of a linear probe by cross-validation.

    Arguments
    ---------
    features : Tensor
        Floating point ``[n, dim]``.
    labels : Tensor
        int64 ``[n]``.
    groups : Tensor, optional
        int64 ``[n]``: rows of one group are never on both sides, such as frames of
        one utterance. By default each row is one; then each fold has its share of
        every label.
    folds : int
        At most; fewer when there are fewer groups.
    penalty : float
        See ``fit_probe``.
    seed : int
        Of the folds.

    Returns
    -------
    ProbeResult
        See there.

    Raises
    ------
    DsuError
        If there is one class or one group only.

    Example
    -------
    >>> labels = torch.arange(40) % 2
    >>> noise = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    >>> told = torch.cat([noise, labels[:, None] * 9.0], 1)
    >>> probe(told, labels).accuracy
    1.0
    """
    kinds, labels = labels.unique(return_inverse=True)
    fold = _folds(labels, groups, folds, seed)
    if len(kinds) < 2 or int(fold.max()) < 1:
        raise DsuError(
            f"a probe needs two classes and two groups of items, got {len(kinds)} "
            f"classes and {int(fold.max()) + 1} groups"
        )
    right = 0
    for k in range(int(fold.max()) + 1):
        held = fold == k
        fitted = fit_probe(features[~held], labels[~held], len(kinds), penalty)
        right += int((fitted.predict(features[held]) == labels[held]).sum())
    chance = int(labels.bincount().max()) / len(labels)
    return ProbeResult(right / len(labels), chance, len(labels), len(kinds))


def unit_histograms(tokens: Tokens) -> Tensor:
    """How often each unit occurs in each utterance.

    Arguments
    ---------
    tokens : Tokens
        Any batch.

    Returns
    -------
    Tensor
        float32 ``[batch, sum of sizes]``: square roots of relative frequencies, one
        block per codebook, so that the rare units count; 0 without frames.

    Example
    -------
    >>> codes = torch.tensor([[[2], [2], [2], [0]]])
    >>> histograms = unit_histograms(Tokens(codes, torch.ones(1), 50.0, (3,), "-"))
    >>> histograms.square().tolist()
    [[0.25, 0.0, 0.75]]
    """
    sizes = torch.tensor(tokens.sizes)
    offsets = (sizes.cumsum(0) - sizes).to(tokens.codes.device)
    found = torch.zeros(len(tokens), int(sizes.sum()), device=tokens.codes.device)
    places = (tokens.codes + offsets).flatten(1)
    weights = tokens.mask.unsqueeze(2).expand(tokens.codes.shape).flatten(1)
    found.scatter_add_(1, places, weights.to(found.dtype))
    return (found / tokens.counts.clamp(min=1).unsqueeze(1)).sqrt()


def _folds(labels: Tensor, groups: Tensor | None, folds: int, seed: int) -> Tensor:
    """The fold of each row."""
    generator = torch.Generator().manual_seed(seed)
    if groups is None:
        order = torch.randperm(len(labels), generator=generator)
        # Dealt out label by label, so that every fold gets its share.
        order = order[labels[order].argsort(stable=True)]
        fold = torch.empty_like(labels)
        fold[order] = torch.arange(len(labels)) % min(folds, len(labels))
        return fold
    kinds, place = groups.unique(return_inverse=True)
    dealt = torch.arange(len(kinds)) % min(folds, len(kinds))
    return dealt[torch.randperm(len(kinds), generator=generator)][place]
