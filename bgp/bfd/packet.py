"""BFD control packets, the payload of UDP: RFC 5880 §4.1, and of §6.8.6 what a packet says by itself; must not know sessions.

offset  width  field
0       1      version (3 bits, 1), diagnostic (5 bits)
1       1      state (2 bits), then a bit each: poll, final, control plane independent, authentication, demand, multipoint
2       1      detection multiplier
3       1      length in bytes
4       4      my discriminator
8       4      your discriminator
12      4      desired min TX interval, microseconds
16      4      required min RX interval, microseconds
20      4      required min echo RX interval, microseconds

Any bytes decode or raise BfdError, nothing else. Authentication and multipoint are not spoken.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import Enum, IntEnum

SIZE = 24
"""Bytes of a packet without authentication."""
MAX_INTERVAL_US = 0xFFFFFFFF

_LAYOUT = struct.Struct("!BBBBIIIII")
_VERSION = 1
_POLL, _FINAL, _INDEPENDENT, _AUTHENTICATION, _DEMAND, _MULTIPOINT = 0x20, 0x10, 0x08, 0x04, 0x02, 0x01


class Drop(Enum):
    """Why a datagram is not taken."""

    LENGTH = "length"
    VERSION = "version"
    AUTHENTICATION = "authentication"
    MULTIPLIER = "multiplier"
    MULTIPOINT = "multipoint"
    DISCRIMINATOR = "discriminator"
    """Missing, or not that of the session with this neighbour."""
    TTL = "ttl"
    """It has been forwarded (RFC 5881 §5): the receiver finds out."""
    STRANGER = "stranger"
    """No session is wanted with its sender: the receiver finds out."""


class BfdError(ValueError):
    """The bytes are no control packet, or none for us; or a value does not fit its field."""

    def __init__(self, drop: Drop, why: str) -> None:
        super().__init__(why)
        self.drop = drop


class State(IntEnum):
    """§6.2; the number is the field's."""

    ADMIN_DOWN = 0
    DOWN = 1
    INIT = 2
    UP = 3


class Diagnostic(IntEnum):
    """Why the sender's session last left the state Up (§4.1; RFC 6428 §5)."""

    NONE = 0
    DETECTION_TIME_EXPIRED = 1
    ECHO_FAILED = 2
    NEIGHBOUR_SIGNALLED_DOWN = 3
    FORWARDING_PLANE_RESET = 4
    PATH_DOWN = 5
    CONCATENATED_PATH_DOWN = 6
    ADMINISTRATIVELY_DOWN = 7
    REVERSE_CONCATENATED_PATH_DOWN = 8
    MISCONNECTIVITY = 9


def describe(diagnostic: int) -> str:
    """The diagnostic in words; those that are not assigned by their number."""
    try:
        return Diagnostic(diagnostic).name.lower().replace("_", " ")
    except ValueError:
        return f"diagnostic {diagnostic}"


@dataclass(frozen=True, slots=True)
class ControlPacket:
    """What one end says of its session."""

    state: State
    my_discriminator: int
    """The sender's number for the session, 1 to 2^32 - 1."""
    your_discriminator: int
    """The receiver's, as the sender has heard it; 0: not yet, and then the state is Down or AdminDown."""
    desired_min_tx_us: int
    """The sender would send so often, not more."""
    required_min_rx_us: int
    """The sender can receive so often, not more; 0: it wants no periodic packets."""
    multiplier: int
    """Of the sender's intervals, 1 to 255: after so many in silence it is to be taken for dead."""
    required_min_echo_rx_us: int = 0
    """0: it does not return echo packets."""
    diagnostic: int = Diagnostic.NONE
    """0 to 31, of which few are assigned."""
    poll: bool = False
    final: bool = False
    control_plane_independent: bool = False
    demand: bool = False
    """While both are Up the sender wants no periodic packets."""

    def encode(self) -> bytes:
        """24 bytes; raises BfdError for what `decode_control` would not take."""
        _check_discriminators(self.state, self.my_discriminator, self.your_discriminator)
        if not 0 < self.multiplier <= 0xFF:
            raise BfdError(Drop.MULTIPLIER, f"detection multiplier {self.multiplier}, expected 1 to 255")
        if not 0 <= self.diagnostic < 1 << 5:
            raise BfdError(Drop.LENGTH, f"diagnostic {self.diagnostic}, expected 0 to 31")
        try:
            return _LAYOUT.pack(_VERSION << 5 | self.diagnostic, self._flags(), self.multiplier, SIZE, *self._words())
        except struct.error as error:
            raise BfdError(Drop.LENGTH, f"fields {self._words()} do not fit: {error}") from error

    def _flags(self) -> int:
        bits = self.state << 6
        bits |= _POLL if self.poll else 0
        bits |= _FINAL if self.final else 0
        bits |= _INDEPENDENT if self.control_plane_independent else 0
        return bits | (_DEMAND if self.demand else 0)

    def _words(self) -> tuple[int, int, int, int, int]:
        intervals = (self.desired_min_tx_us, self.required_min_rx_us, self.required_min_echo_rx_us)
        return (self.my_discriminator, self.your_discriminator, *intervals)


def decode_control(data: bytes | memoryview) -> ControlPacket:
    """Read one packet; bytes after its length are ignored."""
    if len(data) < SIZE:
        raise BfdError(Drop.LENGTH, f"control packet of {len(data)} bytes, expected at least {SIZE}")
    first, flags, multiplier, length, ours, yours, tx, rx, echo = _LAYOUT.unpack_from(data)
    if first >> 5 != _VERSION:
        raise BfdError(Drop.VERSION, f"version {first >> 5}, expected {_VERSION}")
    if not SIZE <= length <= len(data):
        raise BfdError(Drop.LENGTH, f"length {length} in {len(data)} bytes, expected at least {SIZE}")
    _check_flags(flags, multiplier)
    state = State(flags >> 6)
    _check_discriminators(state, ours, yours)
    bits = (bool(flags & bit) for bit in (_POLL, _FINAL, _INDEPENDENT, _DEMAND))
    return ControlPacket(state, ours, yours, tx, rx, multiplier, echo, first & 0x1F, *bits)


def _check_flags(flags: int, multiplier: int) -> None:
    if multiplier == 0:
        raise BfdError(Drop.MULTIPLIER, "detection multiplier 0, expected 1 to 255")
    if flags & _MULTIPOINT:
        raise BfdError(Drop.MULTIPOINT, "multipoint bit set, expected a session between two")
    if flags & _AUTHENTICATION:
        raise BfdError(Drop.AUTHENTICATION, "authentication bit set, expected none")


def _check_discriminators(state: State, ours: int, yours: int) -> None:
    if ours == 0:
        raise BfdError(Drop.DISCRIMINATOR, "my discriminator 0, expected another number")
    if yours == 0 and state > State.DOWN:
        raise BfdError(Drop.DISCRIMINATOR, f"your discriminator 0 in the state {state.name}, expected Down or AdminDown")
