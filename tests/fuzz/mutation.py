"""Damage to bytes, to JSON and to TOML: what every other mutation stands on.

A mutator of our own, since what is fuzzed is Python over libraries without instrumentation: Atheris
follows branches of Python alone and has had no release since Python 3.11, and what hypothesis draws
depends on which modules are loaded. Here a seed is a file, on every machine.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from copy import deepcopy
from random import Random
from typing import Any

Mutate = Callable[[Random, bytes], bytes]

NUMBERS = (0, 1, -1, 127, 128, 255, 65_535, 2**31 - 1, -(2**31), 2**32 - 1, 2**40, 2**63 - 1)
NAMES = ("", "a", "é\u202eb", "\x9b31m", "\x1b[2J", "a\nb", "../../etc/passwd", "\0", "x" * 5000)
VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        2**31,
        2**63,
        2**64,
        10**30,
        -(10**30),
        0.5,
        -0.0,
        1e308,
        5e-324,
    ),
    *NAMES,
    *("\ud800", "0" * 64, "NaN", "1e999", "2026-01-01"),
    *([], {}, [[]], [0] * 100, {"": 0}, {"n": 1, "k": 2}, [None], [1.5, -1.5], [[1, 2], [3]]),
)
_HOLE = "@hole@"
_DEEP = 20_000
JSON_TEXTS = (
    *("NaN", "Infinity", "-Infinity", "1e999", "-1e-999", "9" * 399, "-" + "9" * 399, "9" * 5000),
    *("[" * _DEEP + "]" * _DEEP, '{"a":' * _DEEP + "1" + "}" * _DEEP, "[" * 100_000),
    *('{"a":1,"a":2}', "{" + '"k":1,' * 20_000 + '"k":2}', '"\\ud800"', '"\\u0000"', "tru", "01"),
    *("{" + ",".join(f'"{i % 10}":1' for i in range(20_000)) + "}", "[" + "0," * 50_000 + "0]"),
)
"""Written in place of a value: JSON that no value of Python's gives, some of it not JSON at all."""
TOML_TEXTS = (
    *("nan", "inf", "-inf", "9" * 399, "9" * 5000, "-9223372036854775809", "0x" + "f" * 9000),
    *("1e400", "true", "1979-05-27T07:32:00Z", "07:32:00", "[]", "{}", "[[], [1, 'a']]", '""'),
    *("[" * _DEEP + "]" * _DEEP, "{a=" * _DEEP + "1" + "}" * _DEEP, "[" * _DEEP, "-1", "0", "1.5"),
    *('"\\u009b31m"', '"\\u202e"', '"\\u0000"', f'"{"x" * 5000}"', '"../../etc/passwd"'),
    *("[" + "0," * 50_000 + "]", ".".join("a" * _DEEP), "1e308", "2147483648", "[1, 2]", '"a\\nb"'),
)


def either(*mutations: Mutate) -> Mutate:
    """One of several mutations, each as often."""
    return lambda rng, data: rng.choice(mutations)(rng, data)


def mutated(rng: Random, data: bytes) -> bytes:
    """The bytes with one to four changes."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(changed) + 1)
        length = min(rng.choice((1, 1, 2, 4, 16, 200)), len(changed) - at)
        match rng.randrange(8):
            case 0 if length:
                changed[at] ^= 1 << rng.randrange(8)
            case 1 if length:
                changed[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
            case 2:
                changed[at : at + 8] = number(rng) + changed[at + 8 : at + 8]
            case 3:
                del changed[at : at + length]
            case 4:
                changed[at:at] = changed[at : at + length] * rng.choice((1, 2, 50))
            case 5:
                changed[at:at] = rng.randbytes(rng.choice((1, 4, 40)))
            case 6:
                other = rng.randrange(len(changed) + 1)
                changed[at : at + length] = changed[other : other + length]
            case 7 if rng.randrange(3) == 0:
                del changed[at:]
    return bytes(changed)


def number(rng: Random) -> bytes:
    """A number that is often the wrong one, of two, four or eight bytes in either order."""
    width, form = rng.choice(((2, "H"), (4, "I"), (8, "Q")))
    return struct.pack(rng.choice("<>") + form, rng.choice(NUMBERS) % (1 << 8 * width))


def words_changed(rng: Random, data: bytes) -> bytes:
    """One to three aligned numbers changed, some to the place of another: offsets of a FlatBuffer,
    an image file or an archive that point backwards, at themselves, or out of the file."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        width, form = rng.choice(((2, "H"), (4, "I"), (4, "I"), (8, "Q")))
        if len(changed) < width:
            break
        at = rng.randrange(len(changed) // width) * width
        (old,) = struct.unpack_from(f"<{form}", changed, at)
        new = rng.choice((*NUMBERS, old + 1, old - 1, old * 2, -old, at, len(data), len(data) - at))
        struct.pack_into(f"<{form}", changed, at, new % (1 << 8 * width))
    return bytes(changed)


def mutated_json(rng: Random, data: bytes) -> bytes:
    """JSON with one to three values changed, dropped, moved, doubled or written as no JSON is."""
    value = json.loads(data)
    texts: list[str] = []
    for _ in range(rng.randint(1, 3)):
        places = _places(value)
        if not places:
            break
        holder, key = rng.choice(places)
        match rng.randrange(8):
            case 0 | 1 | 2:
                holder[key] = deepcopy(rng.choice(VALUES))
            case 3:
                del holder[key]
            case 4:
                other, there = rng.choice(places)
                holder[key] = deepcopy(other[there])
            case 5:
                holder[key] = _HOLE
                texts.append(rng.choice(JSON_TEXTS))
            case 6 if isinstance(holder[key], int | float) and type(holder[key]) is not bool:
                holder[key] = rng.choice((-holder[key], holder[key] + 1, holder[key] * 1000, 0.1))
            case _ if isinstance(holder, list):
                holder.append(deepcopy(holder[key]))
            case _:
                holder[rng.choice((f"{key}x", *NAMES))] = holder.pop(key)
    text = json.dumps(value)
    for one in texts:
        text = text.replace(f'"{_HOLE}"', one, 1)
    return text.encode()


def _places(value: Any) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    waiting = [value]
    while waiting:
        one = waiting.pop()
        keys = list(one) if isinstance(one, dict) else range(min(len(one), 20))
        for key in keys:
            found.append((one, key))
            if isinstance(one[key], dict | list):
                waiting.append(one[key])
    return found


def mutated_toml(rng: Random, data: bytes) -> bytes:
    """TOML with one to three of its lines changed, dropped, doubled or moved."""
    lines = data.decode().splitlines()
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(lines))
        key, equals, _value = lines[at].partition(" = ")
        match rng.randrange(6):
            case 0 | 1 | 2 if equals:
                lines[at] = f"{key} = {rng.choice(TOML_TEXTS)}"
            case 3:
                del lines[at]
            case 4:
                lines.insert(rng.randrange(len(lines)), lines[at])
            case _:
                lines.insert(at, f"{rng.choice(('a', 'name', key))} = {rng.choice(TOML_TEXTS)}")
        if not lines:
            break
    return "\n".join(lines).encode(errors="surrogatepass")
