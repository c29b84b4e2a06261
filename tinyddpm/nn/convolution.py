"""Convolution of images and its backward, in NumPy: unrolled patches times a matrix.

Images are channels-last, (B, H, W, C); what holds for every operation stands in `ops`.
"""

import math

from .device import Steps


def long_rows(x):
    """Images (B, H, W, C) as (B, H, W C), tokens (B, N, C) as they are, points as one row each.

    What is added to every pixel then runs along a whole row: short innermost loops are slow.
    """
    width = math.prod(x.shape[2:]) if x.ndim == 4 else x.shape[-1]
    return x.reshape(len(x), -1, width)


class Convolution(Steps):
    """The part of a backend that convolves images."""

    # A block of unrolled patches should stay in cache between being written and being multiplied.
    block_bytes = 1 << 21

    # Convolution with w (k, k, C, O) and stride s:
    # y[b,i,j,:] = b + sum_{u,v} x[b, s i + u - pad, s j + v - pad, :] w[u,v].

    def conv2d(self, x, p, tape, stride=1, pad=(1, 1), shift=None, onto=None):
        """A k x k convolution, as unrolled patches times a matrix.

        Args:
            x: (B, H, W, C).
            p: p.w (k, k, C, O) and p.b (O,).
            tape: takes what conv2d_backward needs.
            stride: the step between patches, along both axes.
            pad: how many zeros stand before and after each axis.
            shift: (B or 1, O), added at every pixel, or None; a backend can add it on the way. Its
                gradient is pixel_sum(dy).
            onto: like y, added too, or None; its gradient is dy.

        Returns:
            y, (B, H', W', O) with H' = (H + sum(pad) - k) // stride + 1, and W' likewise.
        """
        size = [(n + sum(pad) - len(p.w)) // stride + 1 for n in x.shape[1:3]]
        padded = self._pad_spread(x, [n + sum(pad) for n in x.shape[1:3]], pad[0], 1)
        tape.append((padded, p.w, stride, pad[0], x.shape))
        terms = [term for term in (p.b[None], shift, onto) if term is not None]
        return self._correlate(padded, p.w, stride, size, terms)

    def conv2d_backward(self, dy, g, tape, *onto):
        """dw = patches^T dy; dx = dy, spread by the stride, convolved with w turned by 180.

        onto: arrays like dx, added to it: the input's gradients from elsewhere.
        """
        padded, w, stride, before, shape = tape.pop()
        k, _, inputs, outputs = w.shape
        g.b += self.pixel_sum(dy).sum(axis=0)
        windows = self._windows(padded, k, stride, dy.shape[1:3])
        for part in self._parts(dy, k * k * inputs):
            patches = windows[part].reshape(-1, k * k * inputs)
            g.w += (patches.T @ dy[part].reshape(-1, outputs)).reshape(w.shape)
        spread = self._pad_spread(dy, [n + k - 1 for n in shape[1:3]], k - 1 - before, stride)
        turned = w[::-1, ::-1].swapaxes(2, 3)
        return self._correlate(spread, turned, 1, shape[1:3], onto)

    def _pad_spread(self, x, size, before, step):
        """x in zeros of the given size: its first pixel at `before`, its pixels `step` apart."""
        if tuple(size) == x.shape[1:3] and before == 0 and step == 1:
            return x
        B, H, W, C = x.shape
        out = self.xp.zeros((B, *size, C), x.dtype)
        out[
            :,
            before : before + step * (H - 1) + 1 : step,
            before : before + step * (W - 1) + 1 : step,
        ] = x
        return out

    def _correlate(self, x, w, stride, size, terms=()):
        """Every k x k patch of x times w, and terms; (B, *size, O).

        terms: what is added, in this order, each (1 or B, O) or (B, *size, O).
        """
        k, _, inputs, outputs = w.shape
        w = w.reshape(-1, outputs)
        y = self.xp.empty((len(x), *size, outputs), x.dtype)
        windows, whole = self._windows(x, k, stride, size), long_rows(y)
        terms = [self._along(term, whole) if term.ndim == 2 else long_rows(term) for term in terms]
        for part in self._parts(y, k * k * inputs):
            patches = windows[part].reshape(-1, k * k * inputs)
            self.xp.matmul(patches, w, out=y[part].reshape(-1, outputs))
            rows = whole[part]
            for term in terms:
                rows += term[part] if len(term) == len(y) else term
        return y

    def _parts(self, y, width):
        """Slices of the batch whose patches, `width` numbers a pixel of y, fit in block_bytes."""
        step = max(1, self.block_bytes // (math.prod(y.shape[1:3]) * width * y.dtype.itemsize))
        return [slice(b, b + step) for b in range(0, len(y), step)]

    def _patches(self, x, k, stride, size):
        """im2col: the k x k patches of x as rows, (B H W, k k C)."""
        return self._windows(x, k, stride, size).reshape(-1, k * k * x.shape[-1])

    def _windows(self, x, k, stride, size):
        """The k x k patches of x where they lie, (B, H, W, k, k C), or (B, H, W, C) where k is 1.

        The k pixels of a patch's row lie side by side in x.
        """
        if k == 1 and stride == 1:
            return x
        x = self.xp.ascontiguousarray(x)
        B, C, (b, h, w, c) = len(x), x.shape[-1], x.strides
        shape, strides = (B, *size, k, k * C), (b, stride * h, stride * w, h, c)
        return self.xp.lib.stride_tricks.as_strided(x, shape, strides)

    def upsample(self, x, tape):
        """Nearest neighbour, twice the size: (B, H, W, C) -> (B, 2 H, 2 W, C)."""
        B, H, W, C = x.shape
        return self.xp.broadcast_to(x[:, :, None, :, None], (B, H, 2, W, 2, C)).reshape(
            B, 2 * H, 2 * W, C
        )

    def upsample_backward(self, dy, tape):
        """Each input pixel gathers the four that it was copied to."""
        rows = dy[:, ::2] + dy[:, 1::2]
        return rows[:, :, ::2] + rows[:, :, 1::2]

    def upsample_conv2d(self, x, p, tape):
        """conv2d(upsample(x)), in which a backend may share the work of equal pixels."""
        return self.conv2d(self.upsample(x, tape), p, tape)

    def upsample_conv2d_backward(self, dy, g, tape):
        """conv2d's backward, then upsample's."""
        return self.upsample_backward(self.conv2d_backward(dy, g, tape), tape)

    # What others need too.

    def added(self, dx, *onto):
        """dx, to which the others are added in place."""
        for each in onto:
            dx += each
        return dx

    def pixel_sum(self, x):
        """The sum over all but the first and last axis, (B, C); a product with ones beats `sum`."""
        rows = x.reshape(len(x), -1, x.shape[-1])
        return (self.xp.ones((1, rows.shape[1]), x.dtype) @ rows)[:, 0]

    def _along(self, table, rows):
        """A table (1 or B, C) for every pixel of rows (B, H, W C): (1 or B, 1, W C)."""
        return self.xp.concatenate([table] * (rows.shape[2] // table.shape[1]), axis=1)[:, None]
