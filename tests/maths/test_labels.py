"""Class labels and classifier-free guidance: from the batch that drops labels to samples that were
asked for.
"""

import numpy as np
import pytest
from scipy import stats
from support.gradients import check_gradient, near, random_theta

import tinyddpm as td
from tinyddpm import metrics, process, schedule
from tinyddpm.errors import InputError
from tinyddpm.exact import Gaussian, GaussianMixture
from tinyddpm.guidance import Guided, guide
from tinyddpm.model import Model
from tinyddpm.training import draw_labels

S = schedule.linear(100)
MEANS, COV = np.array([[0.5, -0.2], [-0.4, 0.3]]), np.array([[0.3, 0.1], [0.1, 0.2]])
XT = np.random.Generator(np.random.PCG64(1)).standard_normal((5, 2))
every_target = pytest.mark.parametrize("target", ["eps", "x0", "v"])


# --- the formula


@pytest.mark.parametrize("t", [1, 40, 100])
@pytest.mark.parametrize("weight", [-1.0, 0.0, 1.0, 2.5])
def test_guiding_one_gaussian_away_from_another_moves_its_mean(weight, t):
    """Equal covariances: the guided score is that of N(m_c + w (m_c - m_u), C), so the guided mean
    is a closed form.
    """
    guided = Guided(*(Gaussian(mean, COV, S) for mean in MEANS), weight)
    expected = Gaussian(MEANS[0] + weight * (MEANS[0] - MEANS[1]), COV, S)
    near(guided(XT, t), expected(XT, t))
    near(guided.vjp(XT, t, XT[::-1])[1], expected.vjp(XT, t, XT[::-1])[1])


@pytest.mark.parametrize("weight", [0.0, 1.0, 3.0])
def test_guided_samples_have_the_closed_forms_mean(weight):
    """From x_T = 0, the middle of N(0, I), a sampler that is affine ends in the middle of what it
    samples.
    """
    s = schedule.linear(2000)
    guided = Guided(*(Gaussian(mean, COV, s) for mean in MEANS), weight)
    mean = MEANS[0] + weight * (MEANS[0] - MEANS[1])
    xT = np.sqrt(s.alpha_bar[-1]) * mean[None]  # the guided marginal's own mean at T
    # 2000 Euler steps: first order
    near(td.ddim(guided, s, xT, steps=2000)[0], mean, rtol=2e-3)


def test_weight_0_is_the_class_and_minus_1_is_none():
    c, u = XT[:2], XT[2:4]
    assert np.array_equal(guide(c, u, 0.0), c)
    near(guide(c, u, -1.0), u)
    near(guide(c, u, 1.0), 2 * c - u)


def test_a_component_guided_by_its_mixture_samples_where_it_alone_is_likely():
    mixture = GaussianMixture([0.5, 0.5], MEANS, np.stack([COV, COV]), S)
    away = MEANS[0] - MEANS[1]
    ends = [
        td.ddim(Guided(Gaussian(MEANS[0], COV, S), mixture, w), S, XT, steps=100) @ away
        for w in (0.0, 1.0, 3.0)
    ]
    assert np.all(np.diff(np.stack(ends), axis=0) > 0)


# --- a network

NET = td.MLP(hidden=8, layers=1, classes=3)


def asked(model, label):
    """What the net itself predicts for these labels."""
    label = None if label is None else np.array(label)
    return model.net.forward(model.ops, model.p, XT, 40, [], label=label)


@every_target
def test_a_model_guides_its_own_output(target):
    model = Model(NET, random_theta(NET), S, (2,), target, {"classes": [3, 5, 9]})
    plain, one, mixed = asked(model, None), asked(model, [1]), asked(model, [0, 2, 1, 1, 0])
    for conditioned, expected in (
        (model, plain),
        (model.conditioned(5), one),
        (model.conditioned([3, 9, 5, 5, 3]), mixed),
        (model.conditioned(5, 1.0), 2 * one - plain),
    ):
        prediction, mix = conditioned.predict(XT, 40)
        near(prediction, expected)
        assert mix is None
    eps = [process.eps_from_prediction(S, XT, 40, y, target) for y in (one, plain)]
    near(model.conditioned(5, 2.0)(XT, 40), 3 * eps[0] - 2 * eps[1])


@every_target
@pytest.mark.parametrize(
    "net, shape",
    [
        (td.MLP(dim=3, hidden=8), (3,)),
        (td.MLP(dim=3, hidden=8, classes=4, out=6), (3,)),
        (td.UNet(channels=2, base=4, groups=2, blocks=1, classes=3, out=4), (4, 4, 2)),
    ],
    ids=["plain", "MLP", "U-Net"],
)
def test_a_models_derivative_is_its_eps_hats(net, shape, target):
    """Against differences: the backward of the net, of the guidance's two sides, of the target."""
    model = Model(net, random_theta(net), S, shape, target)
    model = model.conditioned([0, 2], 1.5) if net.classes else model
    x, u = np.random.Generator(np.random.PCG64(2)).standard_normal((2, 2, *shape))
    eps_hat, product = model.vjp(x, 50, u)
    near(eps_hat, model(x, 50))
    check_gradient(lambda x: (u * model(x, 50)).sum(), x, product)


@every_target
def test_weights_of_eps_and_of_x0_are_the_same_line(target):
    xt, prediction = XT, XT[::-1]
    a_xt, a_prediction = process.eps_weights(S, 40, target)
    eps_hat = process.eps_from_prediction(S, xt, 40, prediction, target)
    near(a_xt * xt + a_prediction * prediction, eps_hat)
    a_xt, a_prediction = process.x0_weights(S, 40, target)
    x0_hat = process.x0_from_prediction(S, xt, 40, prediction, target)
    near(a_xt * xt + a_prediction * prediction, x0_hat)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda m: m.conditioned(4), "3, 5, 9"),
        (lambda m: m.conditioned([3, 7]), "asked for 7"),
        (lambda m: m.conditioned(3, float("nan")), "guidance"),
        (lambda m: td.sample(m, 2, guidance=1.0), "class"),
        (
            lambda m: td.sample(Model(td.MLP(), random_theta(td.MLP()), S, (2,)), 2, label=3),
            "no classes",
        ),
    ],
)
def test_what_cannot_be_asked_is_refused(call, words):
    with pytest.raises(InputError, match=words):
        call(Model(NET, random_theta(NET), S, (2,), "v", {"classes": [3, 5, 9]}))


def test_samples_take_the_classes_in_turn_and_each_depends_on_its_own_number():
    model = Model(NET, random_theta(NET, dtype=np.float32), S, (2,), "v", {"classes": [3, 5, 9]})
    whole = td.sample(model, 7, label=[3, 9], guidance=1.5, steps=10)
    for label, turn in ((3, 0), (9, 1)):
        alone = td.sample(model, 7, label=label, guidance=1.5, steps=10)
        near(whole[turn::2], alone[turn::2], rtol=1e-6)


# --- training


def test_labels_are_dropped_at_their_rate_and_never_changed():
    """False alarm 1e-6: the number dropped of 20,000 is binomial."""
    labels = np.arange(20000) % 7
    dropped = draw_labels(labels, 0.1, 0, 5)
    lost = dropped == -1
    assert np.array_equal(dropped[~lost], labels[~lost])
    assert stats.binomtest(int(lost.sum()), len(labels), 0.1).pvalue > 1e-6
    assert not np.array_equal(lost, draw_labels(labels, 0.1, 0, 6) == -1)
    assert np.array_equal(draw_labels(labels, 0.0, 0, 5), labels)


@pytest.fixture(scope="module")
def two_spots():
    """Points about (-0.5, 0) named 4 and about (0.5, 0) named 8, and a model of them."""
    labels = np.tile([4, 8], 200)
    points = 0.05 * td.normal((400, 2), seed=3)
    points[:, 0] += np.where(labels == 4, -0.5, 0.5)
    return (
        points,
        labels,
        td.train(points, 400, labels=labels, batch=128, net=td.MLP(hidden=32, classes=2)),
    )


def test_a_trained_model_gives_the_class_that_it_is_asked_for(two_spots):
    points, labels, model = two_spots
    wanted = np.tile([4, 8], 50)
    x = td.sample(model, 100, label=[4, 8], steps=20)
    assert metrics.label_agreement(x, wanted, points, labels) >= 0.97
    anything = td.sample(model, 100, steps=20)[:, 0]
    assert 20 <= (anything > 0).sum() <= 80  # of no class: both


def test_a_labelled_run_keeps_its_classes_and_resumes_to_the_same_bytes(tmp_path, two_spots):
    points, labels, _ = two_spots
    settings = {"labels": labels, "batch": 16, "save_every": 3, "net": td.MLP(hidden=8, classes=2)}
    td.train(points, 6, out=tmp_path / "whole", **settings)
    stop = iter([False, False, True])
    td.train(points, 6, out=tmp_path / "parts", stop=lambda: next(stop), **settings)
    with pytest.raises(InputError, match="not what"):
        td.resume(tmp_path / "parts", points, labels=labels[::-1])
    td.resume(tmp_path / "parts", points, labels=labels)
    for name in ("checkpoint.npz", "log.jsonl"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()
    assert td.load(tmp_path / "whole").classes == (4, 8)


def test_labels_and_nets_that_do_not_fit_are_refused(two_spots):
    points, labels, _ = two_spots
    with pytest.raises(InputError, match="labels"):
        td.train(points, 1, labels=labels[1:])
    with pytest.raises(InputError, match="classes"):
        td.train(points, 1, labels=labels, net=td.MLP())
    with pytest.raises(InputError, match="classes"):
        td.train(points, 1, net=td.MLP(classes=2))


def test_agreement_counts_the_nearest_images_label():
    real, labels = np.array([[0.0], [1.0], [2.0]]), np.array([7, 8, 7])
    assert (
        metrics.label_agreement(
            np.array([[0.1], [0.9], [1.8], [1.2]]), np.array([7, 7, 7, 8]), real, labels
        )
        == 0.75
    )
