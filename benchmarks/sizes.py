"""How large the things are that the benchmark times: in full, quick, and tiny."""

from dataclasses import dataclass
from typing import NamedTuple

from tinyddpm import MLP, UNet


class Net(NamedTuple):
    """A network, one sample's shape, and a batch."""

    net: object
    shape: tuple
    batch: int


@dataclass(frozen=True)
class Sizes:
    """The size of each group's cases."""

    seconds: float  # for each line of a table, unless --seconds gives it
    steps: tuple  # (rows, width) of the arrays of the fused steps
    images: tuple  # (B, H, W, C, O) of each convolution and normalisation
    nets: dict  # {title: Net}
    compared: int  # steps of the training run whose losses and samples are compared
    trained: int  # steps of the training run that is timed
    T: int  # of the schedule that the samplers go down
    samples: int  # drawn by the samplers
    quick: bool = True  # few points and few steps where the samplers' error is measured


NETS = {
    "a: 8x8x1, two levels, batch 128": Net(
        UNet(base=32, mults=(1, 2), attention=(False, False)), (8, 8, 1), 128
    ),
    "b: 28x28x1, three levels, batch 64": Net(
        UNet(base=32, mults=(1, 2, 2), attention=(False, False, False)), (28, 28, 1), 64
    ),
    "c: points, MLP of width 128, batch 512": Net(MLP(hidden=128), (2,), 512),
}
# Ho20's network for CIFAR-10, 35.7 million parameters: only where it is asked for, by --networks d
LARGE = {
    "d: 32x32x3, Ho20's for CIFAR-10, batch 8": Net(
        UNet(
            channels=3,
            base=128,
            mults=(1, 2, 2, 2),
            attention=(False, True, False, False),
            groups=32,
        ),
        (32, 32, 3),
        8,
    )
}
# What `peers` compares: diffusers' networks, whose t is ours less one.
CIFAR10 = UNet(
    channels=3,
    base=128,
    mults=(1, 2, 2, 2),
    attention=(False, True, False, False),
    groups=32,
    t_offset=-1,
)
PEERS = {
    "a: 8x8x1, batch 128": Net(
        UNet(base=32, mults=(1, 2), attention=(False, False), t_offset=-1), (8, 8, 1), 128
    ),
    "b: 28x28x1, batch 64": Net(
        UNet(base=32, mults=(1, 2, 2), attention=(False, False, False), t_offset=-1),
        (28, 28, 1),
        64,
    ),
    "d: cifar10-32, batch 4": Net(CIFAR10, (32, 32, 3), 4),
    "e: cifar10-32, batch 16": Net(CIFAR10, (32, 32, 3), 16),
}
TINY_PEERS = {
    "f: 8x8x3, batch 4": Net(UNet(channels=3, base=8, mults=(1, 2), t_offset=-1), (8, 8, 3), 4)
}
IMAGES = ((128, 8, 8, 32, 32), (64, 28, 28, 32, 32), (64, 14, 14, 64, 64), (64, 7, 7, 128, 128))

FULL = Sizes(5, (512, 4096), IMAGES, NETS, 20, 300, T=1000, samples=64, quick=False)
QUICK = Sizes(0.4, (512, 256), IMAGES, NETS, 20, 30, T=50, samples=16)
# So small that the times mean nothing: for a look at whether all of it runs, as the tests do.
TINY = Sizes(
    0.02,
    (512, 256),
    ((3, 6, 5, 8, 16),),
    {
        "images": Net(UNet(base=8, mults=(1, 2), attention=(False, False)), (8, 8, 1), 4),
        "points": Net(MLP(hidden=16), (2,), 8),
    },
    2,
    3,
    T=5,
    samples=16,
)


@dataclass(frozen=True)
class CardSizes:
    """What fills a GPU."""

    elements: int  # of an array, at most
    side: int  # of the matrices whose product is timed
    launches: int  # of a reading, and nodes of a graph
    readings: int  # of which the median is taken
    pace: tuple  # calls before the first reading, readings at least
    powers: tuple  # of two: elements of the crossover's curves


CARD = CardSizes(1 << 28, 1 << 13, 500, 21, (2, 3), tuple(range(8, 23, 2)))
CARD_TINY = CardSizes(1 << 9, 4, 2, 1, (1, 1), (4, 6))
# For a simulated card, whose kernels take a second for some ten thousand elements.
SMALLEST = {
    "a: 2x2x1, one level, batch 2": Net(
        UNet(base=4, mults=(1,), blocks=1, attention=(False,), groups=2), (2, 2, 1), 2
    ),
    "c: points, MLP of width 4, batch 3": Net(MLP(hidden=4, layers=1), (2,), 3),
}
