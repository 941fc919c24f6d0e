"""From any network to a Frame Flexible Network: what is found, what is made, what is reported."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from ffn_edge import network
from ffn_edge.errors import NetworkError
from ffn_edge.export.fold import fold
from ffn_edge.network import FrameFlexibleNetwork
from ffn_edge.network.layers import (
    AlterationPoint,
    SpecializedNorm,
    TemporalShift,
    WeightAlteration,
)

Randomise = Callable[[FrameFlexibleNetwork], FrameFlexibleNetwork]


def altered(model: FrameFlexibleNetwork) -> list[str]:
    """The layers that have an alteration before them, in the order of the modules."""
    names = [name for name, m in model.body.named_modules() if isinstance(m, WeightAlteration)]
    return [name.removesuffix(".alteration") for name in names]


@pytest.mark.parametrize(
    ("name", "norms", "branches"),
    [
        # norms: that fold into the layer before, into layers after, that stay
        ("resnet18", (20, 0, 0), 8),
        ("resnext50_32x4d", (53, 0, 0), 16),
        ("mobilenet_v2", (52, 0, 0), 10),  # of 17 blocks, 10 have a residual connection
        ("mobilenet_v3_small", (34, 0, 0), 6),
        ("mobilenet_v3_large", (46, 0, 0), 10),
        ("efficientnet_b0", (49, 0, 0), 9),
        ("convnext_tiny", (0, 22, 1), 18),
        (
            "densenet121",
            (59, 0, 62),
            0,
        ),  # it concatenates, and most of its norms come before a ReLU
    ],
)
def test_the_norms_and_branches_of_image_networks_are_found(
    name: str, norms: tuple[int, int, int], branches: int
) -> None:
    with torch.device("meta"):
        model = network.specialize(torchvision.models.get_model(name, num_classes=7), (2, 4))

    assert (model.num_classes, model.layout) == (7, "frames")
    report = model.specialized
    places = report.norms.values()
    assert norms == (
        sum(place.producer is not None for place in places),
        sum(place.consumers != () for place in places),
        sum(place.reason != "" for place in places),
    )
    assert len(report.alterations) == len(report.shifts) == branches
    assert all(place.consumers for place in report.alterations.values())
    assert report.left_alone == {}
    kinds = [type(module) for module in model.modules()]
    assert kinds.count(SpecializedNorm) == sum(norms)
    assert kinds.count(TemporalShift) == kinds.count(WeightAlteration) == branches


@pytest.mark.parametrize(
    ("name", "branches"), [("r3d_18", 8), ("r2plus1d_18", 8), ("s3d", 0), ("swin3d_t", 12)]
)
def test_a_video_network_is_known_by_its_convolutions_and_not_shifted(
    name: str, branches: int
) -> None:
    with torch.device("meta"):
        model = network.specialize(torchvision.models.get_model(name, num_classes=7), (2, 4))

    assert (model.num_classes, model.layout) == (7, "clip")
    assert len(model.specialized.alterations) == branches
    assert model.specialized.shifts == ()


def test_a_transformer_alters_its_linear_layers_and_reports_its_attention() -> None:
    with torch.device("meta"):
        model = network.specialize(torchvision.models.swin_t(), (2, 4))

    assert altered(model)[0] == "features.1.0.mlp.0"
    assert [a.dim for a in model.modules() if isinstance(a, WeightAlteration)] == [-1] * 12
    report = model.specialized
    assert report.norms["features.1.0.norm2"].consumers == ("features.1.0.mlp.0.linear",)
    assert report.left_alone["features.7.1.attn"] == (
        "its weights are read by a function, shifted_window_attention"
    )
    assert "left alone (12;" in str(report)


def test_a_resnets_shift_and_alteration_stand_before_conv1_of_each_block() -> None:
    with torch.device("meta"):
        model = network.specialize(torchvision.models.resnet50(), (2, 4))

    assert altered(model) == [
        f"layer{stage}.{block}.conv1"
        for stage, blocks in enumerate((3, 4, 6, 3), start=1)
        for block in range(blocks)
    ]


class Body(nn.Module):
    """A stem, one arrangement of layers, and a classifier of 5 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.a = nn.Conv2d(8, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 8, 1)
        self.c = nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Classify images (rows, 3, H, W)."""
        x = self.arrangement(F.relu(self.norm(self.stem(x))))
        return self.head(x.mean((2, 3)))

    def arrangement(self, x: Tensor) -> Tensor:
        """The arrangement: (rows, 8, H, W), the shape stays."""
        return x + self.b(F.relu(self.a(x)))


def test_branches_that_are_named_are_the_only_ones() -> None:
    named = network.specialize(Body(), (2, 4), branches=["b"])
    none = network.specialize(Body(), (2, 4), branches=[])

    assert altered(named) == ["b"]
    assert altered(none) == []
    assert "norms alone" in str(none.specialized)


def test_without_alteration_or_norms_of_its_own_the_rest_is_made() -> None:
    shifted = network.specialize(Body(), (2, 4), without=("wa",))
    shared = network.specialize(Body(), (2, 4), without=("sn",))

    assert altered(shifted) == []
    assert shifted.specialized.shifts == ("a.shift",)
    assert altered(shared) == ["a"]
    assert shared.specialized.left_alone == {"norm": "a BatchNorm2d stays one for all frame counts"}


class Tokens(Body):
    """A branch of linear layers on channels that come last."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.LayerNorm(8)
        self.mlp = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))

    def arrangement(self, x: Tensor) -> Tensor:
        """Mix the channels of each token."""
        x = x.permute(0, 2, 3, 1)  # (rows, H, W, 8)
        return (x + self.mlp(self.before(x))).permute(0, 3, 1, 2)


def test_an_alteration_before_a_linear_layer_scales_the_last_dimension(
    randomise: Randomise,
) -> None:
    model = randomise(network.specialize(Tokens(), (2, 4)))
    clips = {t: torch.randn(3, t, 3, 4, 4) for t in (2, 4)}
    alteration = model.body.mlp[0].alteration
    x = torch.randn(2 * 4, 3, 3, 8)  # (rows, H, W, C)

    apart, together = model(clips), model(clips, together=True)
    model(clips[4])

    torch.testing.assert_close(alteration(x), x * (1 + alteration.phi["4"]))
    assert model.specialized.shifts == ()
    for frames in clips:
        torch.testing.assert_close(together[frames], apart[frames])


class TwoHeads(Body):
    """Two results added: of 5 and of 1 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Classify twice."""
        x = self.norm(self.stem(x)).mean((2, 3))
        return self.head(x) + self.other(x)


class WithoutClassifier(nn.Sequential):
    """No layer that says how many classes there are."""

    def __init__(self) -> None:
        super().__init__(nn.BatchNorm2d(3), nn.Flatten())


def test_classes_that_cannot_be_read_off_the_network_are_asked_for() -> None:
    with pytest.raises(NetworkError, match="have 1 and 5 outputs") as caught:
        network.specialize(TwoHeads(), (2, 4))
    assert "num_classes" in caught.value.hint
    with pytest.raises(NetworkError, match="have no outputs"):
        network.specialize(WithoutClassifier(), (2, 4))

    assert network.specialize(TwoHeads(), (2, 4), num_classes=5).num_classes == 5


class SharedNorm(nn.Module):
    """A norm that is used in two places, under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 1)
        self.first = nn.BatchNorm2d(4)
        self.second = self.first

    def forward(self, x: Tensor) -> Tensor:
        """Classify images (rows, 3, H, W)."""
        return self.second(self.first(self.conv1(x)).relu()).mean((2, 3))


def test_a_norm_used_in_two_places_stays_one_norm() -> None:
    model = network.specialize(SharedNorm(), (2, 4), branches=["conv1"])

    assert isinstance(model.body.first, SpecializedNorm)
    assert model.body.second is model.body.first
    # In one of the two it follows a convolution and folds; in the other it stays.
    assert model.specialized.norms["first"].reason == "it is used in several places"


class ActivatedNorm(nn.BatchNorm2d):
    """A norm by its type, and more by its forward."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise and activate."""
        return F.relu(F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias))


class RenamedNorm(nn.BatchNorm2d):
    """A norm of another name."""


class NormsOfAllKinds(Body):
    """Norms, some of which cannot be specialised."""

    def __init__(self) -> None:
        super().__init__()
        self.renamed = RenamedNorm(8)
        self.others = nn.ModuleList(
            [ActivatedNorm(8), nn.GroupNorm(2, 8), nn.InstanceNorm2d(8), nn.LocalResponseNorm(2)]
        )
        self.encoder = nn.TransformerEncoderLayer(8, 2, 8, batch_first=True)

    def arrangement(self, x: Tensor) -> Tensor:
        """Normalise in many ways."""
        x = self.renamed(x)
        for norm in self.others:
            x = norm(x)
        return self.encoder(x.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, (4, 4))


def test_norms_that_cannot_be_specialised_stay_and_are_reported() -> None:
    body = NormsOfAllKinds().eval()
    x = torch.randn(2, 1, 3, 4, 4)
    expected = copy.deepcopy(body)(x.flatten(0, 1))

    model = network.specialize(body, (1,))

    report = model.specialized
    assert set(report.norms) == {"norm", "renamed"}
    assert report.norms["renamed"].reason == "not only linear layers read it"
    kinds = ("ActivatedNorm", "GroupNorm", "InstanceNorm2d", "LocalResponseNorm")
    assert report.left_alone == {
        **{
            f"others.{i}": f"a {kind} stays one for all frame counts"
            for i, kind in enumerate(kinds)
        },
        **{f"encoder.norm{i}": "a LayerNorm stays one for all frame counts" for i in (1, 2)},
    }
    torch.testing.assert_close(model(x), expected)


class OtherArguments(nn.LayerNorm):
    """A norm that cannot be made as its base is."""

    def __init__(self) -> None:
        super().__init__(3)


def test_a_norm_with_arguments_of_its_own_is_copied() -> None:
    model = network.specialize(nn.Sequential(OtherArguments(), nn.Linear(3, 2)), (2,))

    assert model.specialized.norms["0"].consumers == ("1",)
    assert "0" not in fold(model.eval(), 2).unfolded


class Unused(Body):
    """It has a point for an alteration, and calls it in training only."""

    def __init__(self) -> None:
        super().__init__()
        self.point = AlterationPoint(8)

    def arrangement(self, x: Tensor) -> Tensor:
        """Alter in training."""
        return self.point(x) if self.training else x


def test_an_alteration_that_nothing_calls_is_reported_as_such() -> None:
    report = network.specialize(Unused(), (2, 4)).specialized

    assert report.alterations == {}
    assert report.left_alone == {"point": "nothing calls it in evaluation"}


def test_where_a_norm_stays_the_report_says_why() -> None:
    class Norms(Body):
        def __init__(self) -> None:
            super().__init__()
            self.without = nn.BatchNorm2d(8, track_running_stats=False)
            self.head = nn.Sequential(nn.BatchNorm1d(8), nn.Linear(8, 5))

        def arrangement(self, x: Tensor) -> Tensor:
            return self.without(self.a(x)).relu()

    norms = network.specialize(Norms(), (2, 4)).specialized.norms

    assert norms["without"].reason == "it keeps no running statistics, and cannot be exported"
    assert norms["head.0"].reason.startswith("head.1 may read other channels than it scales")


def test_types_and_devices_and_what_is_frozen_stay() -> None:
    frozen = Body()
    frozen.norm.requires_grad_(False)

    double = network.specialize(Unused().double(), (2, 4))
    meta = network.specialize(Unused().to("meta"), (2, 4))
    model = network.specialize(frozen, (2, 4))

    tensors = [tensor for tensor in double.state_dict().values() if tensor.is_floating_point()]
    assert {tensor.dtype for tensor in tensors} == {torch.float64}
    assert double(torch.randn(1, 2, 3, 4, 4).double()).dtype == torch.float64
    assert {tensor.device.type for tensor in meta.state_dict().values()} == {"meta"}
    assert not any(p.requires_grad for p in model.body.norm.parameters())
    assert all(p.requires_grad for p in model.body.a.parameters())


class Locked(nn.BatchNorm2d):
    """A norm that cannot be copied."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.lock = threading.Lock()


class WithAttention(Body):
    """It has a layer of PyTorch's, with a linear layer inside."""

    def __init__(self) -> None:
        super().__init__()
        self.at = nn.MultiheadAttention(8, 2)


@pytest.mark.parametrize(
    ("branches", "without", "message"),
    [
        (["at"], (), "'at' is a MultiheadAttention without a convolution or linear layer to begin"),
        (["at.out_proj"], (), "'at.out_proj' is a NonDynamicallyQuantizableLinear without"),
        (["a", "locked"], (), "'locked' is a Locked without"),
        (["a"], (), "a Locked cannot be copied for each frame count"),
        (["a"], ("norms",), "without 'norms'"),
        (["a"], "wa", "without 'wa'"),
    ],
)
def test_a_network_that_is_refused_stays_as_it_was(
    branches: list[str], without: Sequence[str], message: str
) -> None:
    body = WithAttention()
    body.locked = Locked(8)
    before = dict(body.named_modules())

    with pytest.raises(NetworkError, match=message):
        network.specialize(body, (2, 4), num_classes=5, branches=branches, without=without)

    assert dict(body.named_modules()) == before


def test_a_network_is_specialised_once() -> None:
    model = network.specialize(Body(), (2, 4))

    for again in (model, model.body):
        with pytest.raises(NetworkError, match=r"is specialised already: .*norm is a specialised"):
            network.specialize(again, (2, 4, 8))


def test_a_network_that_cannot_be_specialised_is_refused() -> None:
    for without_layers in (nn.Linear(3, 3), nn.BatchNorm2d(3)):  # what holds a norm is not there
        with pytest.raises(NetworkError, match="has no norm layer"):
            network.specialize(without_layers, (2,), num_classes=3, branches=[])
    with pytest.raises(NetworkError, match="no layer 'nowhere'"):
        network.specialize(SharedNorm(), (2,), branches=["nowhere"])
    with pytest.raises(NetworkError, match="'first' is a BatchNorm2d without a convolution"):
        network.specialize(SharedNorm(), (2,), branches=["first"])


def test_a_network_that_gives_no_tensor_is_refused() -> None:
    class Named(Body):
        def forward(self, x: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
            return {"logits": super().forward(x)}

    with pytest.raises(NetworkError, match="what Named gives is not one tensor"):
        network.specialize(Named(), (2, 4))


class SideOutputs(nn.Module):
    """Gives more than logits in training, of any kind, in any order."""

    def __init__(self, give: Callable[[Tensor, Tensor], object]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 5)
        self.side = nn.Linear(8, 5)
        self.give = give

    def forward(self, x: Tensor) -> object:
        """Give logits, and in training the others."""
        x = self.norm(self.conv(x)).mean((2, 3))
        return self.give(self.fc(x), self.side(x)) if self.training else self.fc(x)


class Named(NamedTuple):
    """As torchvision's GoogLeNetOutputs."""

    logits: Tensor
    side: Tensor


@pytest.mark.parametrize(
    "give",
    [
        lambda logits, side: logits,
        lambda logits, side: (side, None, logits),
        lambda logits, side: [logits, side],
        lambda logits, side: {"side": side, "out": logits},
        Named,
    ],
    ids=["one", "tuple", "list", "dict", "named"],
)
@pytest.mark.parametrize("together", [False, True])
def test_of_what_a_network_gives_in_training_the_logits_are_learned_from(
    give: Callable[[Tensor, Tensor], object], together: bool
) -> None:
    plain = network.specialize(SideOutputs(lambda logits, side: logits), (1, 2)).train()
    given = network.specialize(SideOutputs(give), (1, 2)).train()
    given.load_state_dict(plain.state_dict(), strict=False)  # has the side layer no more
    clips = {t: torch.randn(4, t, 3, 8, 8) for t in (1, 2)}

    expected, logits = plain(clips, together=together), given(clips, together=together)

    assert all(torch.equal(logits[t], expected[t]) for t in (1, 2))


def test_side_outputs_are_found_where_classes_and_branches_are_named() -> None:
    model = network.specialize(
        SideOutputs(lambda logits, side: (logits, side)), (1, 2), num_classes=5, branches=[]
    )
    logits = model.train()({t: torch.randn(2, t, 3, 8, 8) for t in (1, 2)})
    assert logits[2].shape == (2, 5)


def test_a_layer_of_training_alone_hides_no_logits() -> None:
    class Dropping(SideOutputs):
        def forward(self, x: Tensor) -> object:
            if self.training:
                x = self.dropout(x)
            return super().forward(x)

    plain = Dropping(lambda logits, side: (logits, side))
    plain.dropout = nn.Dropout(0.1)
    model = network.specialize(plain, (1, 2)).train()
    assert model(torch.randn(2, 2, 3, 8, 8)).shape == (2, 5)


def test_a_network_that_gives_nothing_in_training_is_specialised() -> None:
    class Keeping(SideOutputs):
        def forward(self, x: Tensor) -> object:
            given = super().forward(x)
            return None if self.training else given

    model = network.specialize(Keeping(lambda logits, side: logits), (1, 2)).eval()
    assert model(torch.randn(2, 2, 3, 8, 8)).shape == (2, 5)


@pytest.mark.parametrize("give", [lambda logits, side: (side, side), lambda *both: (both[0],) * 2])
def test_a_network_whose_logits_cannot_be_told_in_training_is_refused(
    give: Callable[[Tensor, Tensor], object],
) -> None:
    with pytest.raises(NetworkError, match="logits"):
        network.specialize(SideOutputs(give), (1, 2))


@pytest.mark.parametrize(("name", "pixels"), [("googlenet", 32), ("inception_v3", 75)])
def test_torchvisions_networks_with_side_outputs_train(name: str, pixels: int) -> None:
    image = torchvision.models.get_model(name, num_classes=3, init_weights=False)
    model = network.specialize(image, (1, 2)).train()
    clips = {t: torch.randn(2, t, 3, pixels, pixels) for t in (1, 2)}

    sum(logits.sum() for logits in model(clips).values()).backward()  # type: ignore[union-attr]

    assert all(parameter.grad is not None for parameter in model.parameters())


def test_an_unknown_layout_is_refused() -> None:
    with pytest.raises(NetworkError, match="no layout 'foo'"):
        network.specialize(torchvision.models.resnet18(), (2, 4), layout="foo")  # type: ignore[arg-type]
