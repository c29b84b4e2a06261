"""python -m benchmarks.roofline [card]: each CUDA kernel's costs an element, counted, not timed."""

import sys

from tinyddpm.kernels.gpu.roofline import BYTES, CARDS, count

HEAD = "{:20} {:>9} {:>10} {:>10} {:>7} {:>11} {:>16}   on {}"
LINE = "{:20} {:>9} {:10.1f} {:10} {:7.0f} {:>11} {:16.0f}   {}"


def table(card="h100"):
    """A line for each kernel: its costs an element, the card's budget, and what bounds its rate."""
    names = "registers", "instr/elem", "bytes/elem", "budget", "waits for", "Gelem/s at most"
    lines = [HEAD.format("kernel", *names, card)]
    for name, size in BYTES.items():
        found, limit = count(name), CARDS[card].budget(size)
        needed = found["instructions"]
        rate = CARDS[card].bandwidth / size * min(1, limit / needed) / 1e9
        bound = "memory" if needed <= limit else "arithmetic"
        numbers = found["registers"] or "?", needed, size, limit, bound, rate
        lines.append(LINE.format(name, *numbers, found["from"]))
    return "\n".join(lines)


if __name__ == "__main__":
    if not set(sys.argv[1:]) <= set(CARDS):
        sys.exit(f"cards: {', '.join(CARDS)}")
    for card in sys.argv[1:] or ["h100"]:
        print(table(card))
