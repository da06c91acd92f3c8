"""The update of one whole matrix: bytes of its state, matmuls, factorizations, passes over memory, and temporaries.

Symbols: a matrix of m x n; s the shorter side and l the longer one; r the rank of a projection, at most s; e bytes of an element.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from shardwright.costmodel.op_times import OpTimes
from shardwright.specs import Optimizer

from .elementwise import EIGHT_BIT_BYTES
from .matrices import Matrix

_ADAM_STEP = 20.0
"""Elements that Adam's step by foreach kernels moves of each element (op_times/passes.py)."""
_HALF = 2
"""Bytes of bf16, in which Newton-Schulz iterations run (torch/optim/_muon.py)."""

EXCHANGES: Mapping[str, int] = {"adafactor": 3}
"""Exchanges of a matrix in an update, where they are not two: its gradient to its owner, and the update back. Adafactor's step
is in proportion to the matrix itself, which goes to the owner, too."""

FACTORIZATION_FRACTION = 0.04
"""Share of a device's fp32 rate that singular value decompositions and QR reach: 26 n^3 FLOPs for n = 4160 in 4.33 s on a Titan X of
10.97 TFLOP/s (pull request 1373 of pytorch, "Magma SVD speed improvement", divide and conquer). One device, one library."""


class MatrixWork(NamedTuple):
    """Work of the owner of a matrix in one update, at an average step.

    `matmuls`: times and (m, k, n) of each. `factor_flops`: of factorizations. `passes`: elements of the matrix that are read or
    written beside them, in the format of the parameters, counted in tests/costmodel/optimizers for those of torch. `temporary_bytes`: alive in the update, with gradient, update and what
    an exchange sends and receives of a round.
    """

    state_bytes: float
    matmuls: tuple[tuple[float, tuple[int, int, int]], ...]
    factor_flops: float
    passes: float
    temporary_bytes: float


def work_of(optimizer: Optimizer, matrix: Matrix, element_bytes: float) -> MatrixWork:
    """Return the work of an update of `matrix`, which needs it whole."""
    return _WORK[optimizer.name](optimizer, matrix, element_bytes)


def factor_seconds(flops: float, times: OpTimes) -> float:
    """Return seconds of factorizations of so many FLOPs on the device of `times`."""
    rates = times.node.device.peak_flops_per_s
    rate = rates.get("fp32") or min(rates.values())
    return flops / (FACTORIZATION_FRACTION * rate)


def _muon(optimizer: Optimizer, matrix: Matrix, element: float) -> MatrixWork:
    """Newton-Schulz: each iteration X X^T, its square, and a product with X (Jordan et al. 2024, Muon; torch/optim/_muon.py), so
    4 s^2 l + 2 s^3 FLOPs. 13.5 elements move beside them; X in bf16 twice and two Gram matrices are alive."""
    steps, short, long = optimizer["steps"], matrix.short, matrix.long
    matmuls = ((steps, (short, long, short)), (steps, (short, short, short)), (steps, (short, short, long)))
    newton = _HALF * (2 * matrix.elements + 2 * short * short)
    return _work(
        matrix,
        element,
        state=matrix.elements,
        matmuls=matmuls,
        passes=13.5,
        more_bytes=newton + element * matrix.elements,
    )


def _adafactor(optimizer: Optimizer, matrix: Matrix, element: float) -> MatrixWork:
    """Row and column means of squares (Shazeer and Stern 2018, section 3): torch/optim/_adafactor.py reads the gradient for each mean,
    makes the estimate by an outer product, and passes over it for quotient, bound, root, product, norm, scale and sum."""
    return _work(
        matrix,
        element,
        state=matrix.rows + matrix.columns,
        passes=16.0,
        more_bytes=element * matrix.elements,
        parameter=True,
    )


def _soap(optimizer: Optimizer, matrix: Matrix, element: float) -> MatrixWork:
    """Adam in the eigenbasis of Shampoo's preconditioners (Vyas et al. 2024, algorithm 3): for each side p that is not left as it is, a
    statistic G G^T, three rotations (gradient, momentum, update), and every `period` steps a product and a QR, 8/3 p^3 FLOPs with
    its factor formed (Golub and Van Loan, section 5.2)."""
    rows, columns, period = matrix.rows, matrix.columns, optimizer["period"]
    sides = [(p, q) for p, q in ((rows, columns), (columns, rows)) if p <= optimizer["max_size"]]
    matmuls = [(1.0, (p, q, p)) for p, q in sides] + [(3.0, (p, p, q)) for p, q in sides]
    matmuls += [(1 / period, (p, p, p)) for p, _ in sides]
    squares = float(sum(p * p for p, _ in sides))
    return _work(
        matrix,
        element,
        state=2 * matrix.elements + 2 * squares,
        matmuls=tuple(matmuls),
        factor_flops=sum(8 / 3 * p**3 for p, _ in sides) / period,
        passes=_ADAM_STEP,
        more_bytes=element * (3 * matrix.elements + max((p * p for p, _ in sides), default=0)),
    )


def _galore(optimizer: Optimizer, matrix: Matrix, element: float) -> MatrixWork:
    """Adam on the gradient projected to rank r along the shorter side (Zhao et al. 2024, algorithm 2): a projection of s r and two
    moments of r l; two products of 2 s l r FLOPs. The singular value decomposition, 6 l s^2 + 20 s^3 FLOPs by R-SVD (Golub and Van
    Loan, figure 8.6.1), comes every `period` steps; its factors are alive in that step."""
    rank, short, long = min(optimizer.count("rank"), matrix.short), matrix.short, matrix.long
    moment = EIGHT_BIT_BYTES if optimizer["bits"] == 8 else element
    products = 3.0 if optimizer.name == "frugal" else 2.0
    return _work(
        matrix,
        element,
        state=short * rank + 2 * rank * long * moment / element,
        matmuls=((1.0, (rank, short, long)), (products - 1, (short, rank, long))),
        factor_flops=(6.0 * long * short**2 + 20.0 * short**3) / optimizer["period"],
        passes=_ADAM_STEP * rank / short + (6.0 if optimizer.name == "frugal" else 2.0),
        more_bytes=element * (2 * matrix.elements + short * short + 3 * rank * long),
    )


def _cosmos(optimizer: Optimizer, matrix: Matrix, element: float) -> MatrixWork:
    """SOAP in the r leading directions of the columns (n) and Newton-Schulz on the rest (Liu et al. 2025, arXiv 2502.17410, algorithm
    1): momentum m n, basis n r, its statistic r^2, second moments m r. G and M by the basis and back, G^T of the first, and the rest: 7
    products of 2 m n r FLOPs; QR of n x r in 4 n r^2 (Golub and Van Loan, section 5.2); Muon's iterations. Passes as Muon's and three more."""
    rank, muon = min(optimizer.count("rank"), matrix.short), _muon(optimizer, matrix, element)
    rows, columns = matrix.rows, matrix.columns
    return _work(
        matrix,
        element,
        state=matrix.elements + columns * rank + rank * rank + rows * rank,
        matmuls=((7.0, (rows, columns, rank)), *muon.matmuls),
        factor_flops=4.0 * columns * rank**2,
        passes=muon.passes + 9.0,
        more_bytes=muon.temporary_bytes - 2 * element * matrix.elements,
    )


def _sinkgd(optimizer: Optimizer, matrix: Matrix, element: float) -> MatrixWork:
    """Rows and columns normalised in turn (Scetbon et al. 2025, algorithm SR-Sinkhorn): each of the two reads the matrix for its norms,
    and reads and writes it to scale them. No state."""
    return _work(matrix, element, state=0.0, passes=6.0 * optimizer["steps"] + 2, more_bytes=element * matrix.elements)


def _work(
    matrix: Matrix,
    element: float,
    *,
    state: float,
    passes: float,
    more_bytes: float,
    matmuls: tuple[tuple[float, tuple[int, int, int]], ...] = (),
    factor_flops: float = 0.0,
    parameter: bool = False,
) -> MatrixWork:
    """`state` in elements; `more_bytes`: temporaries beside gradient and update, of which an exchange holds what it sends and gets."""
    whole = element * matrix.elements
    return MatrixWork(element * state, matmuls, factor_flops, passes, (4 + parameter) * whole + more_bytes)


_WORK: Mapping[str, Callable[[Optimizer, Matrix, float], MatrixWork]] = {
    "muon": _muon,
    "adafactor": _adafactor,
    "soap": _soap,
    "galore": _galore,
    "frugal": _galore,
    "cosmos": _cosmos,
    "sinkgd": _sinkgd,
}
