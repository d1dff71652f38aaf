"""RE-Net: one convolutional network whose batch normalisation differs by AU and is mixed by AU relations. Pure torch.

Yang and Yin, "RE-Net: A Relation Embedded Deep Model for AU Occurrence and Intensity Estimation", ACCV 2020. Sections
and equations below are the paper's. Arguments called ``aus`` are positions 0..A-1 among the labels, not FACS numbers.
"""

import copy
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal, cast

import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lightning_modules.common.backbones import InputNormalization
from lightning_modules.common.heads import AUHead, AUNetwork, Task
from lightning_modules.common.norms import synchronized_batch_norm

RelationKind = Literal["fixed", "learnable", "identity", "none"]
Normalizer = Literal["sum", "abs_sum", "relu_sum", "softmax"]

MIN_ROW_SUM = 0.1  # smallest denominator of Eq. 5: a row of correlations may sum to nothing


def pairwise_pearson(label: Tensor) -> Tensor:
    """Pearson correlation of every pair of columns over the rows where both are known.

    Args:
        label: (N, A) int64, -1 unknown.

    Returns:
        (A, A) float64; 1 on the diagonal, 0 where a correlation is undefined (a constant column, no common row).
    """
    known = (label >= 0).double()
    value = label.clamp(min=0).double()
    count = known.T @ known
    total = value.T @ known  # [i, j]: sum of column i over the rows known in both
    square = (value**2).T @ known
    # Sums of integers are exact in float64, so a constant column has variance 0 and not a rounding error.
    variance = count * square - total**2
    correlation = (count * (value.T @ value) - total * total.T) / (variance * variance.T).sqrt()
    return correlation.nan_to_num(0).fill_diagonal_(1)


class AURelation(nn.Module):
    """The relation graph of Sec. 3.3 and its normalised rows, shared by all normalisation layers.

    Args:
        n_aus: A.
        learnable: Off-diagonal entries are parameters drawn from U(-0.1, 0.1); else a buffer that starts as identity.
        normalizer: Denominator of Eq. 5. The paper's ``sum`` lets equal rows of parameters pass through any relation.
        unseen: AUs without training labels: no other AU mixes them in (Sec. 4.6, Table 6).
        seed: Of the drawn entries.
    """

    omega: Tensor
    seen: Tensor

    def __init__(
        self, n_aus: int, learnable: bool, normalizer: Normalizer, unseen: Sequence[int] = (), seed: int = 0
    ) -> None:
        super().__init__()
        self.normalizer = normalizer
        if learnable:
            drawn = torch.empty(n_aus, n_aus).uniform_(-0.1, 0.1, generator=torch.Generator().manual_seed(seed))
            self.omega = nn.Parameter(drawn.fill_diagonal_(1))
        else:
            self.register_buffer("omega", torch.eye(n_aus))
        seen = torch.ones(n_aus, dtype=torch.bool)
        seen[list(unseen)] = False
        self.register_buffer("seen", seen, persistent=False)

    def matrix(self) -> Tensor:
        """Relations (A, A); the diagonal is 1 whatever was learnt."""
        eye = torch.eye(len(self.omega), device=self.omega.device)
        return self.omega * (1 - eye) + eye

    def row_sums(self) -> Tensor:
        """Denominators of Eq. 5 for ``sum``, before the guard, (A,): relations to the seen AUs."""
        return (self.matrix() * self.seen).sum(1)

    def forward(self) -> Tensor:
        """Mixing weights (A, A): row c holds the shares of all AUs in the parameters of AU c (Eq. 5)."""
        omega = self.matrix()
        if self.normalizer == "softmax":
            weight = omega.masked_fill(~self.seen, -torch.inf).softmax(1)
        else:
            kept = (omega.relu() if self.normalizer == "relu_sum" else omega) * self.seen
            total = (kept.abs() if self.normalizer == "abs_sum" else kept).sum(1, keepdim=True)
            weight = kept / torch.where(total < 0, -1.0, 1.0) / total.abs().clamp(min=MIN_ROW_SUM)
        # An unseen AU has no parameters of its own: it is the mean of its positive relatives, or of all seen AUs.
        relatives = omega.relu() * self.seen
        total = relatives.sum(1, keepdim=True)
        mean = torch.where(total < MIN_ROW_SUM, self.seen / self.seen.sum(), relatives / total.clamp(min=MIN_ROW_SUM))
        return torch.where(self.seen.unsqueeze(1), weight, mean)


class AUBatchNorm2d(nn.Module):
    """Batch normalisation with statistics, scale and shift per AU, the latter two mixed over AUs (Eq. 4).

    Args:
        norm: The layer replaced; every AU starts from a copy of its parameters and statistics.
        n_aus: A.
        affine: False fixes scale 1 and shift 0 (ablation of Sec. 4.6).
        momentum: Of the running statistics; a batch changes those of the AU selected only.
    """

    weight: nn.Parameter
    bias: nn.Parameter
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, norm: nn.BatchNorm2d, n_aus: int, affine: bool, momentum: float) -> None:
        super().__init__()
        self.eps = norm.eps
        self.affine = affine
        self.momentum = momentum
        self.synchronized = False  # whether a batch in training is that of all processes
        self.selected: tuple[int, Tensor] | None = None  # the AU, and its mixing weights (A,)
        for name in ("weight", "bias") if affine else ():
            self.register_parameter(name, nn.Parameter(getattr(norm, name).detach().repeat(n_aus, 1)))
        for name in ("running_mean", "running_var"):
            self.register_buffer(name, getattr(norm, name).repeat(n_aus, 1))

    def scale_and_shift(self, mix: Tensor) -> tuple[Tensor, Tensor] | tuple[None, None]:
        """Eq. 5: scale and shift (F,) of the AU with these mixing weights (A,); None where they are 1 and 0."""
        if not self.affine:
            return None, None
        # Sums, not matrix products: autocast would round the parameters themselves.
        return (mix.unsqueeze(1) * self.weight).sum(0), (mix.unsqueeze(1) * self.bias).sum(0)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, F, h, w), normalised for the AU selected (Eq. 4)."""
        assert self.selected is not None, "RENetwork selects an AU for each pass"
        au, mix = self.selected
        scale, shift = self.scale_and_shift(mix)
        mean, var = self.running_mean[au], self.running_var[au]  # views: batch_norm updates them in place
        if self.training and self.synchronized:
            return synchronized_batch_norm(x, mean, var, scale, shift, self.momentum, self.eps)
        return F.batch_norm(x, mean, var, scale, shift, self.training, self.momentum, self.eps)

    def as_affine(self, au: int, mix: Tensor) -> tuple[Tensor, Tensor]:
        """Factor and summand (F,) that equal the normalisation of one AU in evaluation."""
        scale, shift = self.scale_and_shift(mix)
        factor = (self.running_var[au] + self.eps).rsqrt()
        factor = factor if scale is None else factor * scale
        return factor, (0 if shift is None else shift) - self.running_mean[au] * factor


class ChannelAffine(nn.Module):
    """x (B, F, h, w) -> x * factor + summand, both (F,)."""

    factor: Tensor
    summand: Tensor

    def __init__(self, factor: Tensor, summand: Tensor) -> None:
        super().__init__()
        self.register_buffer("factor", factor.view(-1, 1, 1))
        self.register_buffer("summand", summand.view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return torch.addcmul(self.summand, x, self.factor)


class RENetwork(AUNetwork):
    """A timm ResNet all of whose batch normalisations are AU-specific; it runs once per AU (Sec. 3.2).

    Its first convolution, which knows no AU, is computed once for all of them.

    Args:
        backbone: timm ResNet without classifier; used in place.
        n_aus: A.
        task: K = 1 logit for occurrence, 6 for intensity.
        relation: ``fixed`` = what is written into ``relation.omega``, ``learnable``, ``identity`` = each AU its own
            scale and shift, ``none`` = scale 1 and shift 0, only the statistics are AU-specific.
        normalizer: Denominator of Eq. 5.
        shared_head: One linear layer for all AUs, as in the paper.
        unseen: AUs without training labels.
        momentum: Of the running statistics.
        seed: Of the learnable relation.
    """

    def __init__(
        self,
        backbone: nn.Module,
        n_aus: int,
        task: Task = "occurrence",
        relation: RelationKind = "fixed",
        normalizer: Normalizer = "sum",
        shared_head: bool = True,
        unseen: Sequence[int] = (),
        momentum: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__(n_aus)
        self.unseen = list(unseen)
        self.normalize = InputNormalization()
        self.relation = AURelation(n_aus, relation == "learnable", normalizer, unseen, seed)
        self.head = AUHead(cast(int, backbone.head_hidden_size), n_aus, task, shared_head)
        name, self.stem = next(
            (name, layer) for name, layer in backbone.named_modules() if isinstance(layer, nn.Conv2d)
        )
        backbone.set_submodule(name, nn.Identity())
        self.norms: list[AUBatchNorm2d] = []
        for name, layer in list(backbone.named_modules()):
            if isinstance(layer, nn.BatchNorm2d):
                norm = AUBatchNorm2d(layer, n_aus, relation != "none", momentum)
                self.norms.append(norm)
                after = [cast(nn.Module, layer.drop), layer.act] if isinstance(layer, BatchNormAct2d) else []
                backbone.set_submodule(name, nn.Sequential(norm, *after) if after else norm)
        self.backbone = backbone
        self._folded: tuple[list[tuple[int, int]], dict[int, nn.Module]] | None = None

    def forward(self, image: Tensor, aus: list[int] | None = None) -> Tensor:
        """Image (B, 3, H, W) uint8 -> logits (B, len(aus), K); see ``features``."""
        return self.head(self.features(image, aus), self.outputs if aus is None else aus)

    def features(self, image: Tensor, aus: list[int] | None = None) -> Tensor:
        """Image (B, 3, H, W) uint8 -> (B, len(aus), F); None = ``outputs``, ``folded`` in evaluation without gradient.

        With a gradient only one AU's graph is in memory at a time: the backward pass computes each again. A compiled
        network does neither, since torch.compile could not follow; it fuses normalisations itself.
        """
        x = self.stem(self.normalize(image))
        compiling = torch.compiler.is_compiling()
        if aus is None and not (self.training or torch.is_grad_enabled() or compiling):
            folded = self.folded()
            return torch.stack([folded[au](x) for au in self.outputs], 1)
        mixing = self.relation()
        aus = self.outputs if aus is None else aus
        if len(aus) == 1 or not torch.is_grad_enabled() or compiling:
            return torch.stack([self._features(x, au, mixing[au]) for au in aus], 1)
        return torch.stack([self._recomputed_features(x, au, mixing[au]) for au in aus], 1)

    def _features(self, x: Tensor, au: int, mix: Tensor) -> Tensor:
        for norm in self.norms:
            norm.selected = au, mix
        try:
            return self.backbone(x)
        finally:
            for norm in self.norms:
                norm.selected = None

    def _recomputed_features(self, x: Tensor, au: int, mix: Tensor) -> Tensor:
        def contexts() -> tuple[AbstractContextManager, AbstractContextManager]:
            return nullcontext(), self._momentum(0)  # the second computation leaves the running statistics alone

        return checkpoint(self._features, x, au, mix, use_reentrant=False, context_fn=contexts)

    @contextmanager
    def _momentum(self, momentum: float) -> Iterator[None]:
        usual = [norm.momentum for norm in self.norms]
        for norm in self.norms:
            norm.momentum = momentum
        try:
            yield
        finally:
            for norm, value in zip(self.norms, usual, strict=True):
                norm.momentum = value

    def folded(self) -> dict[int, nn.Module]:
        """The backbone of each output AU as an ordinary network without normalisation, rebuilt only after a change.

        Statistics, scale and shift of an AU go into the weights of the preceding convolution; the first layer, which
        follows the shared convolution, stays a factor and a summand. Exact to rounding; costs A copies of the weights.
        """
        # A change in place raises a tensor's version; batch_norm's own does not, but it happens only in train mode.
        state = [(tensor.data_ptr(), tensor._version) for tensor in self.state_dict(keep_vars=True).values()]
        if self._folded is None or self._folded[0] != state:
            # Made as ordinary tensors, since a later call may come from outside inference mode.
            with torch.inference_mode(False), torch.no_grad():
                mixing = self.relation()
                self._folded = state, {au: self._fold(au, mixing[au]) for au in self.outputs}
        return self._folded[1]

    def _fold(self, au: int, mix: Tensor) -> nn.Module:
        backbone = copy.deepcopy(self.backbone)
        convolution: nn.Conv2d | None = None
        for name, layer in list(backbone.named_modules()):
            if isinstance(layer, nn.Conv2d):
                convolution = layer  # timm registers a normalisation right after the convolution that it follows
            elif isinstance(layer, AUBatchNorm2d):
                factor, summand = layer.as_affine(au, mix)
                if convolution is None:
                    backbone.set_submodule(name, ChannelAffine(factor, summand))
                    continue
                bias = 0 if convolution.bias is None else convolution.bias
                convolution.weight = nn.Parameter(convolution.weight * factor.view(-1, 1, 1, 1), requires_grad=False)
                convolution.bias = nn.Parameter(bias * factor + summand, requires_grad=False)
                backbone.set_submodule(name, nn.Identity())
        return backbone

    def train(self, mode: bool = True) -> "RENetwork":
        """As nn.Module; forgets the folded weights."""
        self._folded = None
        return super().train(mode)

    @torch.no_grad()
    def recalibrate(self, images: Iterable[Tensor]) -> None:
        """Estimate the running statistics of every AU anew: their mean over batches, with the weights as they are.

        Args:
            images: Batches (B, 3, H, W) uint8 of training images. No label is needed, so unseen AUs get statistics of
                their own too.
        """
        mode = self.training
        self.eval()
        for norm in self.norms:
            norm.train()
        mixing = self.relation()
        for count, image in enumerate(images, 1):
            x = self.stem(self.normalize(image))
            with self._momentum(1 / count):
                for au in range(self.n_aus):
                    self._features(x, au, mixing[au])
        self.train(mode)

    @torch.no_grad()
    def borrow_statistics(self) -> None:
        """Give the unseen AUs the mean of their relatives' running statistics (Table 6)."""
        for au in self.unseen:
            mix = self.relation()[au]
            for norm in self.norms:
                norm.running_mean[au] = mix @ norm.running_mean
                norm.running_var[au] = mix @ norm.running_var

    def au_keys(self) -> set[str]:
        """See AUNetwork."""
        keys = {
            f"backbone.{name}.{key}"
            for name, layer in self.backbone.named_modules()
            if isinstance(layer, AUBatchNorm2d)
            for key in layer.state_dict()
        }
        return keys | {"head.weight", "head.bias"} if len(self.head.weight) > 1 else keys

    def run_keys(self) -> set[str]:
        """See AUNetwork: the relation comes from the labels of this run."""
        return {"relation.omega"}

    def no_weight_decay(self) -> set[str]:
        """See AUNetwork: decay would pull at the rows that a step does not select."""
        return self.au_keys() - {"head.weight"} | {"head.bias", "relation.omega"}
