"""Ho20's Algorithms 1 and 2 on two half moons, in ten seconds; the comments count their lines."""

import numpy as np

import tinyddpm as td
from tinyddpm import metrics, training
from tinyddpm.datasets import sets
from tinyddpm.nn import optim, params
from tinyddpm.nn.ops import Forget, Ops

STEPS, BATCH = 3000, 256
data = sets.load("moons").x  # (4096, 2), in [-1, 1]
s, net, ops = td.cosine(T=100), td.MLP(dim=2, hidden=64), Ops()

theta = params.init(net.spec(), seed=0)  # all weights of the net, one flat vector
grad, m, v = np.zeros_like(theta), np.zeros_like(theta), np.zeros_like(theta)
p, g = params.views(net.spec(), theta), params.views(net.spec(), grad)  # named windows on both

# Algorithm 1: training
for step in range(1, STEPS + 1):  # 1
    x0 = data[training.batch_indices(len(data), BATCH, 0, step - 1)]  # 2: x0 ~ q(x0)
    t = training.draw_times(s, seed=0, step=step, batch=BATCH)  # 3: t ~ Uniform({1, ..., T})
    eps = td.normal(x0.shape, seed=0, step=step)  # 4: eps ~ N(0, I)
    xt, tape = td.q_sample(s, x0, t, eps), []
    eps_hat = net.forward(ops, p, xt, t, tape)
    ops.mse(eps_hat, eps, 1, tape)
    grad[:] = 0
    net.backward(ops, g, ops.mse_backward(1, tape), tape)  # 5: the gradient of |eps - eps_hat|^2
    optim.adamw(theta, grad, m, v, step, lr=optim.learning_rate(step, STEPS, peak=5e-3))

# Algorithm 2: sampling
x = td.normal((1000, 2), seed=1)  # 1: x_T ~ N(0, I)
for t in range(s.T, 0, -1):  # 2
    z = td.normal(x.shape, seed=2, step=t) if t > 1 else 0  # 3
    eps_hat = net.forward(ops, p, x, np.array([t]), Forget())
    x0_hat = td.x0_from_eps(s, x, t, eps_hat)  # Ho20 eq. 15
    mean, variance = td.q_posterior(s, x0_hat, x, t)  # Ho20 eq. 7
    x = mean + np.sqrt(variance) * z  # 4: x_{t-1}

# How well the nearest neighbour tells samples from data: 0.5 is a coin toss, 1 is always right.
print(f"{metrics.one_nn_accuracy(x, data[:1000]):.2f}")
