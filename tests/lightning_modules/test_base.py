import pytest
import torch
from torch import nn

from lightning_modules.base import AUModule
from lightning_modules.common.errors import ModelError

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec", "ignore:.*does not have many workers")  # Lightning's own


class TwoTerms(AUModule):
    """Two losses of one weight, with a random draw in the step."""

    def __init__(self, aus: list[int], seed: int = 0) -> None:
        super().__init__(aus, seed)
        self.weight = nn.Parameter(torch.zeros(1))
        self.drawn: list[float] = []

    def losses(self, batch):
        self.drawn.append(torch.rand(1).item())
        return {"near": (self.weight - 1).square().sum(), "far": 2 * (self.weight - 4).square().sum()}

    def predictions(self, batch):
        prob = torch.full((len(batch["index"]), len(self.aus)), 0.5, dtype=torch.bfloat16) * (self.weight + 1)
        return {"au_prob": prob, "level": prob.long()}

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def test_the_sum_of_losses_is_optimised_and_each_is_logged(aus, data, trainer):
    model, fit = TwoTerms(aus), trainer(limit_train_batches=1)
    fit.fit(model, datamodule=data)
    assert model.weight.item() == pytest.approx(0.1 * (2 * 1 + 4 * 4))  # -lr * gradient of both
    logged = {name: value.item() for name, value in fit.callback_metrics.items()}
    assert logged == {"train/loss": 33, "train/loss_near": 1, "train/loss_far": 32}


def test_the_same_step_draws_the_same_numbers_whatever_came_before(aus, data, trainer):
    first, second, third = TwoTerms(aus), TwoTerms(aus), TwoTerms(aus, seed=1)
    for model, noise in ((first, 1), (second, 2), (third, 1)):
        torch.manual_seed(noise)
        trainer().fit(model, datamodule=data)
    assert first.drawn == second.drawn
    assert len(set(first.drawn)) == 2
    assert not set(first.drawn) & set(third.drawn)


def test_batches_that_share_a_step_draw_apart_and_the_first_as_without_accumulation(aus, data, trainer):
    plain, accumulated = TwoTerms(aus), TwoTerms(aus)
    trainer().fit(plain, datamodule=data)
    trainer(accumulate_grad_batches=2).fit(accumulated, datamodule=data)
    assert len(set(accumulated.drawn)) == len(accumulated.drawn) == 2
    assert accumulated.drawn[0] == plain.drawn[0]


def test_ranks_share_a_step_seed_unless_told_apart(aus):
    model = TwoTerms(aus)
    assert model.step_seed() == model.step_seed()
    assert len({model.step_seed(), model.step_seed(1), model.step_seed(2)}) == 3


def test_predictions_leave_in_single_precision_without_graph(aus, data):
    predicted = TwoTerms(aus).validation_step(data.batch(), 0)
    assert predicted["au_prob"].dtype == torch.float32
    assert not predicted["au_prob"].requires_grad
    assert predicted["level"].dtype == torch.int64


@pytest.mark.parametrize("labels", [[1, 2, 12, 4], [1, 2]])
def test_labels_in_another_order_are_refused(aus, provenance, labels):
    TwoTerms(aus).check(provenance())
    with pytest.raises(ModelError, match=r"model\.aus"):
        TwoTerms(aus).check(provenance(aus=labels))


def test_a_checkpoint_says_whose_it_is(aus):
    checkpoint: dict = {}
    TwoTerms(aus).on_save_checkpoint(checkpoint)
    assert checkpoint == {"model": {"class": "TwoTerms", "aus": aus, "initialisation": "none", "expressions": []}}


def test_expressions_are_those_of_the_data_in_their_order(provenance):
    model = TwoTerms([])
    model.expressions = ["Neutral", "Smile"]
    model.check(provenance(aus=[], expressions=["Neutral", "Smile"]))
    with pytest.raises(ModelError, match="Neutral, Smile are not the classes of disfa") as fault:
        model.check(provenance(aus=[], expressions=["Smile", "Neutral"]))
    assert fault.value.remedy == "set model.expressions=[Smile, Neutral]"
    with pytest.raises(ModelError) as fault:
        model.check(provenance(aus=[], expressions=[]))
    assert fault.value.remedy == "take a dataset that labels expressions"
