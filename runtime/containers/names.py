"""What containers are called: the names allowed, and one for who gives none; must not know which are taken."""

from __future__ import annotations

import re
from collections.abc import Callable
from secrets import choice, randbelow

from runtime.errors import InvalidParameter

ALLOWED = "[a-zA-Z0-9][a-zA-Z0-9_.-]"
_NAME = re.compile(rf"{ALLOWED}+")
MAX = 255
"""Characters; a name is shown, searched and put into file names."""


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


ADJECTIVES = _words(
    "agile amber apt ardent arid austere balmy bold brave breezy bright brisk calm candid civil clear clever cosy crisp curious "
    "dapper daring deft dreamy eager early earnest easy elated fair famous fervent festive fleet fond frank fresh frosty gentle "
    "gifted glad golden grand happy hardy hasty honest humble idle jolly jovial keen kind lively loyal lucid lucky mellow merry "
    "mild modest neat nimble noble open patient placid plucky polite proud prudent quick quiet rapid ready serene sharp silent "
    "silver sleepy snug sober solid spry stable steady sunny swift tender tidy tranquil trusty upbeat vivid warm wary witty zesty"
)
SURNAMES = _words(
    "abel ampere archimedes babbage banach bernoulli bessel bohr boltzmann boole brahe cantor cauchy cerf copernicus coulomb curie "
    "dalton darwin dedekind descartes dijkstra dirac einstein erdos euclid euler faraday fermat fermi feynman fibonacci fourier "
    "franklin galilei galois gauss germain goedel hamilton heisenberg hermite hertz hilbert hopper hubble huygens hypatia jacobi "
    "joule kelvin kepler knuth kolmogorov kovalevskaya lagrange lamarr laplace leibniz liskov lorentz lovelace mandelbrot maxwell "
    "meitner mendel mendeleev minkowski moebius napier nash neumann newton noether pascal pauli perlman planck poincare ptolemy "
    "pythagoras ramanujan ride riemann ritchie rutherford shannon tarjan tesla thales thompson turing volta wiles wozniak zermelo"
)


def check_name(name: str) -> str:
    """The name without the slash that Docker allows in front; raises InvalidParameter in its words."""
    plain = name.removeprefix("/")
    if len(plain) > MAX or _NAME.fullmatch(plain) is None:
        raise InvalidParameter(f"Invalid container name ({name}), only {ALLOWED} are allowed")
    return plain


def free_name(taken: Callable[[str], bool]) -> str:
    """A name that is not taken: two words, with a number behind when chance would have it so."""
    name = f"{choice(ADJECTIVES)}_{choice(SURNAMES)}"
    while taken(name):
        name = f"{choice(ADJECTIVES)}_{choice(SURNAMES)}{randbelow(1000)}"
    return name
